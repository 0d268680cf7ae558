"""Ten thousand sockets that are opened and then left, while somebody else is served."""

import asyncio
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from math import inf
from typing import Final
from urllib.parse import urlsplit

from hub.transports.deadlines import HEAD_S
from tests.parts.figures import Figures
from tests.transports.hostile.baseline import Watched
from tests.transports.hostile.frames import PING, frame
from tests.transports.hostile.neighbour import neighbour
from tests.transports.hostile.test_http import _upgrade

SOCKETS: Final = 10_000
SPARE: Final = 1_000
"""Descriptors that the test itself, and whatever ran before it, may hold."""
GONE_S: Final = 10.0
BUSY_S: Final = 2.0
"""By how much a machine with other things to do may be late."""
SLACK_S: Final = 15.0
"""What a machine with two busy cores may add to open, and to end, ten thousand sockets."""

HALF_A_HEAD: Final = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgr"
KINDS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "half of a head": HALF_A_HEAD,
    "an upgrade and no credentials": _upgrade(),
}
NEVER_AUTHENTICATED: Final = (4502).to_bytes(2, "big")


@contextmanager
def descriptors() -> Iterator[int]:
    """How many sockets this process may open, its limit being raised for the while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard - SPARE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _HalfOpen:
    """One of them: what it was sent, and when it was opened and ended."""

    def __init__(self, kind: str, connection: socket.socket) -> None:
        self.kind = kind
        self.connection = connection
        self.opened = time.monotonic()
        self.heard = b""


def _open(url: str, number: int) -> list[_HalfOpen]:
    place = urlsplit(url)
    kinds = list(KINDS)
    opened = []
    for at in range(number):
        # Ports of one source address may run out; the loopback has many addresses.
        source = f"127.0.0.{2 + at // 5_000}"
        connection = socket.create_connection(
            (str(place.hostname), int(place.port or 0)), 30, (source, 0)
        )
        kind = kinds[at % len(kinds)]
        connection.sendall(KINDS[kind])
        connection.setblocking(False)
        opened.append(_HalfOpen(kind, connection))
    return opened


def _listen(opened: list[_HalfOpen], until: float) -> dict[str, list[float]]:
    """Read all to their ends: how long each was open, by kind."""
    lasted: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with selectors.DefaultSelector() as selector:
        for one in opened:
            selector.register(one.connection, selectors.EVENT_READ, one)
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(1):
                one = key.data
                try:
                    heard = one.connection.recv(4_096)
                except ConnectionError:
                    heard = b""
                one.heard += heard
                closed = one.kind.startswith("an upgrade") and NEVER_AUTHENTICATED in one.heard
                if not heard or closed:
                    lasted[one.kind].append(time.monotonic() - one.opened)
                    selector.unregister(one.connection)
                    one.connection.close()
    return lasted


@asynccontextmanager
async def half_open(url: str, number: int) -> AsyncIterator[list[_HalfOpen]]:
    opened = await asyncio.to_thread(_open, url, number)
    try:
        yield opened
    finally:
        for one in opened:
            one.connection.close()


OPENERS: Final[dict[str, tuple[tuple[float, bytes], ...]]] = {
    "nothing": (),
    "half of a head": ((0, HALF_A_HEAD),),
    "a head that comes slowly": tuple((at, b"x: y\r\n" if at else HALF_A_HEAD) for at in range(10)),
    "an upgrade and no credentials": ((0, _upgrade()),),
    "an upgrade that comes slowly": ((0, _upgrade()[:60]), (7, _upgrade()[60:])),
    "an upgrade and pings": ((0, _upgrade()), *((at, frame(PING)) for at in range(1, 10))),
}
"""What else is sent when, in seconds from the opening."""


async def _lasts(url: str, words: tuple[tuple[float, bytes], ...]) -> float:
    """How long the hub lets somebody stay who says this."""
    place = urlsplit(url)
    loop = asyncio.get_running_loop()
    opened = loop.time()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)

    def say(at: int) -> None:
        writer.write(words[at][1])

    timers = [loop.call_at(opened + after, say, at) for at, (after, _) in enumerate(words)]
    try:
        with suppress(ConnectionError):
            await reader.read()
        return loop.time() - opened
    finally:
        for timer in timers:
            timer.cancel()
        writer.transport.abort()


async def test_whoever_does_not_open_a_connection_in_good_time_is_gone_within_ten_seconds(
    hub: Watched, figures: Figures
) -> None:
    times = await asyncio.gather(*(_lasts(hub.url, words) for words in OPENERS.values()))
    lasted = dict(zip(OPENERS, times, strict=True))
    figures(f"who opens slowly is let go after {', '.join(f'{s:.1f} s' for s in times)}")
    assert max(times) < GONE_S + BUSY_S, lasted
    assert min(times) >= HEAD_S, lasted  # so long a peer may take that is slow


async def test_ten_thousand_sockets_that_are_left_half_open_are_gone_and_hurt_nobody(
    watched: Watched, figures: Figures
) -> None:
    with descriptors() as most:
        assert most >= SOCKETS, f"raise the hard limit of open files to {SOCKETS + SPARE}"
        number = SOCKETS
        async with watched.unchanged(memory_mib=inf), neighbour(watched.url) as healthy:
            began = time.monotonic()
            async with half_open(watched.url, number) as opened:
                opening_s = time.monotonic() - began
                await healthy.answer()
                until = time.monotonic() + GONE_S + SLACK_S
                lasted = await asyncio.to_thread(_listen, opened, until)
        # An allocator keeps what ten thousand connections took, for the next ten thousand: these
        # have to fit in there.
        async with watched.unchanged():
            for _ in range(2):
                async with half_open(watched.url, number // 2):
                    pass
    ended = Counter({kind: len(times) for kind, times in lasted.items()})
    longest = {kind: f"{max(times, default=0):.1f} s" for kind, times in lasted.items()}
    figures(f"{number} half-open sockets, opened in {opening_s:.1f} s, were open: {longest}")
    assert ended.total() == number, f"still open: {Counter(one.kind for one in opened) - ended}"
    assert max(max(times) for times in lasted.values()) < GONE_S + SLACK_S
