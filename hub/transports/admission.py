"""Before anything else is looked at: by which name the hub was reached, and by whom.

A page of an attacker can make a browser reach a hub on its own machine by a name that the attacker
owns (DNS rebinding), and the browser then takes the hub for the attacker's site. The name is in the
``Host`` header, so the hub answers to its own names alone.

Whose address it is that limits and logs speak of: the peer's, unless the peer is a proxy that the
operator trusts to say for whom it asks.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from hub.faults import Fault
from hub.settings import LOOPBACK, Settings

MISDIRECTED: Final = 421
"""RFC 9110 section 15.5.20: the request is for somebody else."""

ALWAYS: Final = "/health/"
"""Probes and balancers ask by address, or by a name of their own."""

Network = IPv4Network | IPv6Network


class Hosts:
    """The names, ``host`` or ``host:port``, by which a hub may be reached.

    The loopback names are its own, with any port (one may be forwarded): no name that others can
    point at it. Without a list, a hub that listens on loopback has no others, and a hub that
    listens elsewhere is told any.
    """

    def __init__(self, settings: Settings) -> None:
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._any = settings.any_name
        self._allowed = {name.lower() for name in (*settings.allowed_hosts, own)}
        self._allowed.add(f"{own}:{settings.port}".lower())

    def allow(self, named: list[bytes]) -> bool:
        """Whether these ``Host`` headers, of which there is to be one, name the hub."""
        if self._any:
            return True
        if len(named) != 1:
            return False
        host = named[0].decode("latin-1").strip().lower()
        return host in self._allowed or _without_port(host) in _LOOPBACK_NAMES


_LOOPBACK_NAMES: Final = frozenset(f"[{name}]" if ":" in name else name for name in LOOPBACK)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


class Proxies:
    """Addresses and networks whose ``X-Forwarded-For`` is believed."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(
            ip_network(one, strict=False) for one in trusted
        )

    def client(self, peer: str, forwarded: list[bytes]) -> str:
        """The address for whom ``peer`` asks: the last of those that it and the trusted proxies
        before it name which is no trusted proxy. What is before that, anybody may have written.
        """
        address = _plain(peer)
        if not self._networks or not self._trusts(address):
            return address
        hops = b",".join(forwarded).decode("latin-1").split(",")
        for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
            named = _named(hop)
            if named is None:
                return address
            address = named
            if not self._trusts(address):
                return address
        return address

    def _trusts(self, address: str) -> bool:
        try:
            known = ip_address(address)
        except ValueError:  # a Unix socket's peer has none
            return False
        return any(known in network for network in self._networks)


def _named(hop: str) -> str | None:
    """The address that a hop names, to which some proxies add the port; None for what is none, and
    for one with a zone, which means something on another machine alone.
    """
    host, port = hop, ""
    if hop.startswith("["):
        host, bracket, port = hop[1:].partition("]")
        host = host if bracket else ""
    elif hop.count(":") == 1:
        host, colon, number = hop.partition(":")
        port = colon + number
    if port and not (port[0] == ":" and port[1:].isdecimal()):
        return None
    try:
        ip_address(host)
    except ValueError:
        return None
    return None if "%" in host else _plain(host)


@lru_cache(maxsize=4_096)  # it is asked for each request, and so is the next
def _plain(address: str) -> str:
    """An address in its one usual form; an IPv4 address that came over IPv6 as what it is."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if isinstance(known, IPv6Address) and known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(known)


@lru_cache(maxsize=4_096)
def is_loopback(address: str) -> bool:
    """Whether this is an address of the machine itself. False for what is no address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


class Admission:
    """ASGI middleware: answers 421 to a name that is not the hub's, and puts the address of whom a
    request is from into the scope's ``client``.
    """

    def __init__(self, application: ASGIApp, settings: Settings) -> None:
        self._application = application
        self._hosts = Hosts(settings)
        self._proxies = Proxies(settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._application(scope, receive, send)
        named, forwarded = [], []
        for name, value in scope["headers"]:
            if name == b"host":
                named.append(value)
            elif name == b"x-forwarded-for":
                forwarded.append(value)
        if not self._hosts.allow(named) and not scope["path"].startswith(ALWAYS):
            return await _misdirected(scope, receive, send)
        if (peer := scope.get("client")) is not None:
            scope["client"] = (self._proxies.client(peer[0], forwarded), peer[1])
        return await self._application(scope, receive, send)


async def _misdirected(scope: Scope, receive: Receive, send: Send) -> None:
    fault = Fault("invalid_request", "The hub is not known by this Host; see HUB_ALLOWED_HOSTS.")
    response = JSONResponse({"error": fault.body()}, MISDIRECTED)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)
