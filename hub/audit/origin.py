"""Where what is being done comes from: who asks, through what. Ambient, like a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks. ``actor_id`` is None for the hub itself, and for who has shown no credentials."""

    actor_id: str | None = None
    session_id: str | None = None
    transport: str = "hub"
    address: str | None = None
    trace_id: str | None = None


_CURRENT: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039  # frozen


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
