"""Where what is being done comes from: who asks, through what. Ambient, like a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks. ``actor_id`` is None for the hub itself, and for who has shown no credentials.
    ``tenant_id`` is where the session is; None where that is no matter of a tenant, or is the one
    whose trail it is noted in.
    """

    actor_id: str | None = None
    session_id: str | None = None
    transport: str = "hub"
    address: str | None = None
    trace_id: str | None = None
    tenant_id: str | None = None


@dataclass(slots=True)
class Deed:
    """What an operation has come to so far: whether it ``wrote`` anything, and how many entries it
    has ``recorded``.
    """

    wrote: bool = False
    recorded: int = 0


_CURRENT: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039  # frozen
_DEED: ContextVar[Deed | None] = ContextVar("deed", default=None)


def current() -> Origin:
    """The origin of what this task does."""
    return _CURRENT.get()


@contextmanager
def acting(origin: Origin) -> Iterator[None]:
    """What is done inside comes from there."""
    token = _CURRENT.set(origin)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def acting_as(user_id: str, session_id: str | None = None) -> Iterator[None]:
    """What is done inside is done by this user, who has just shown who they are."""
    origin = replace(current(), actor_id=user_id, session_id=session_id, tenant_id=None)
    with acting(origin):
        yield


def deed() -> Deed | None:
    """What the operation that this task does has come to; None outside of any."""
    return _DEED.get()


@contextmanager
def watched() -> Iterator[Deed]:
    """What is done inside is one deed."""
    token = _DEED.set(made := Deed())
    try:
        yield made
    finally:
        _DEED.reset(token)


@lru_cache(maxsize=4_096)  # it is asked for each request
def place_of(address: str | None) -> str:
    """What counts as one address: of IPv6 the network that one customer has (RFC 6177)."""
    if address is None:
        return "-"
    try:
        known = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, IPv6Address):
        return str(ip_network((known, 64), strict=False))
    return str(known)
