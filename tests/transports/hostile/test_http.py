"""What is no HTTP, or no upgrade, where a handshake is awaited."""

import asyncio
import re
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.transports.hostile.baseline import Watched
from tests.transports.hostile.frames import TEXT, frame
from tests.transports.hostile.neighbour import neighbour

UPGRADE: Final = (
    "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: agenthub.v1\r\n"
)
GET: Final = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED: Final = (
    b"POST /v1/auth/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CLIENT_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512)


def _upgrade(head: str = "GET /ws HTTP/1.1", changed: str = UPGRADE, more: str = "") -> bytes:
    return f"{head}\r\n{changed}{more}\r\n".encode("latin-1")


HOSTILE: Final[dict[str, tuple[bytes, list[int]]]] = {
    "garbage": (bytes(range(1, 256)) * 4, [400]),
    "TLS": (CLIENT_HELLO, [400]),
    "a frame": (frame(TEXT, b"{}"), [400]),
    "a header without end": (b"GET /ws HTTP/1.1\r\nx: " + b"x" * 400_000, [431]),
    "headers without end": (b"GET /ws HTTP/1.1\r\n" + b"x: y\r\n" * 60_000, [431]),
    "an address without end": (b"GET /" + b"x" * 400_000, [431]),
    "empty lines without end": (b"\r\n" * 200_000, [431]),
    "a chunk's extension without end": (
        CHUNKED + b"1;" + b"x" * 400_000,
        [431],
    ),
    "a body that is no chunk": (
        CHUNKED + b"zz\r\n",
        [400],
    ),
    "an upgrade with 200 headers": (_upgrade(more="x: y\r\n" * 200), [431]),
    "an upgrade with a long header": (_upgrade(more=f"x: {'y' * 10_000}\r\n"), [431]),
    "an upgrade at a long address": (_upgrade(f"GET /ws/{'x' * 10_000} HTTP/1.1"), [414]),
    "an upgrade beyond ASCII": (_upgrade("GET /ws\xff HTTP/1.1"), [400]),
    "an upgrade in chunks": (_upgrade(more="Transfer-Encoding: chunked\r\n"), [400]),
    "an upgrade with a body": (_upgrade(more="Content-Length: 3\r\n") + b"abc", [400]),
    "an upgrade without a key": (
        _upgrade(changed=re.sub("Sec-WebSocket-Key.*?\r\n", "", UPGRADE)),
        [400],
    ),
    "an upgrade with a short key": (
        _upgrade(changed=UPGRADE.replace("AAAAAAAAAAAAAAAAAAAAAA==", "AAAA")),
        [400],
    ),
    "an upgrade of another version": (
        _upgrade(changed=UPGRADE.replace("Version: 13", "Version: 8")),
        [400],
    ),
    "an upgrade elsewhere": (_upgrade("GET /elsewhere HTTP/1.1"), [403]),
    "an upgrade with a credential in its query": (_upgrade("GET /ws?token=x HTTP/1.1"), [400]),
    "a request before the upgrade": (GET.encode() + _upgrade(), [200]),
    "three requests before the upgrade": (GET.encode() * 3 + _upgrade(), [200, 200, 200]),
    "a request before garbage": (GET.encode() + b"\xff\xff\xff", [200]),
}


async def _answers(url: str, data: bytes) -> list[int]:
    """The statuses of what is answered until the hub ends the connection."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(data)
        async with asyncio.timeout(8):
            answer = await reader.read()
    finally:
        writer.transport.abort()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


async def test_what_is_no_handshake_is_refused_and_the_connection_ends(hub: Watched) -> None:
    async with neighbour(hub.url):
        answers = {name: await _answers(hub.url, data) for name, (data, _) in HOSTILE.items()}
        assert answers == {name: statuses for name, (_, statuses) in HOSTILE.items()}
        many = await asyncio.gather(
            *(_answers(hub.url, data) for data, _ in HOSTILE.values() for _ in range(5))
        )
        assert many == [statuses for _, statuses in HOSTILE.values() for _ in range(5)]


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "after a request"])
async def test_a_handshake_on_a_connection_that_has_served_requests_is_taken(
    hub: Watched, before: int
) -> None:
    place = urlsplit(hub.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    for _ in range(before):
        writer.write(GET.encode())
        await reader.readuntil(b'{"status":"live"}')
    writer.write(_upgrade())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    writer.transport.abort()
