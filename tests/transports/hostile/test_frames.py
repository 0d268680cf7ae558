"""Frames that no client may send, on the hub's socket, before and after its authentication.

Each is answered by the right close code, costs the hub nothing that stays, and leaves a neighbour
who is being answered all the while alone.
"""

import asyncio
import json
import zlib
from contextlib import suppress
from typing import Final

import pytest

from tests.interaction.drivers import Refused, open_socket
from tests.transports.hostile.baseline import Watched
from tests.transports.hostile.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    frame,
    message,
)
from tests.transports.hostile.neighbour import neighbour
from tests.transports.raw import raw_peer

LIMIT: Final = 65_536
FLOOD: Final = 20_000
PING_REQUEST: Final = b'{"jsonrpc":"2.0","id":1,"method":"session.ping","params":{}}'


def _bomb() -> bytes:
    """50 MiB of zeros, as permessage-deflate would send them: 50 KiB."""
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(bytes(50 << 20)) + deflate.flush()


HOSTILE: Final[dict[str, tuple[bytes, int]]] = {
    "unmasked": (frame(TEXT, PING_REQUEST, masked=False), 1002),
    "unmasked and empty": (frame(TEXT, masked=False), 1002),
    "a byte too long": (frame(TEXT, bytes(LIMIT + 1)), 1009),
    "too long in two fragments": (message(bytes(LIMIT + 1), LIMIT), 1009),
    "fragments of a byte without end": (
        frame(TEXT, fin=False) + frame(CONTINUATION, b"x", fin=False) * (LIMIT + 10),
        4029,
    ),
    "empty fragments without end": (
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * (LIMIT + 10),
        4029,
    ),
    "pings without end": (frame(PING) * FLOOD, 4029),
    "pongs without end": (frame(PONG) * FLOOD, 4029),
    "says 2^62 bytes": (frame(TEXT, b"x", says=2**62), 1009),
    "says 2^63 bytes": (frame(TEXT, b"x", says=2**63), 1009),
    "a fragment that says 2^62 bytes": (
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", says=2**62),
        1009,
    ),
    "a ping that says 2^62 bytes": (frame(PING, b"x", says=2**62), 1009),
    "a ping of 126 bytes": (frame(PING, bytes(126)), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "a close in fragments": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a compressed bomb": (frame(TEXT, _bomb(), reserved=RSV1), 1002),
    "a reserved bit": (frame(TEXT, PING_REQUEST, reserved=0x20), 1002),
    "another reserved bit": (frame(TEXT, PING_REQUEST, reserved=0x10), 1002),
    "a reserved opcode": (frame(3, PING_REQUEST), 1002),
    "a reserved control opcode": (frame(11), 1002),
    "the end of nothing": (frame(CONTINUATION, PING_REQUEST), 1002),
    "a message within a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "a close within a message": (frame(TEXT, b"{", fin=False) + frame(CLOSE, b"\x03\xe8"), 1002),
    "no UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character": (frame(TEXT, "€".encode()[:2]), 1007),
    "no UTF-8 across fragments": (message(b"\xe2\x82{}", 1), 1007),
    "a surrogate in UTF-8": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "binary": (frame(BINARY, PING_REQUEST), 1003),
    "binary in fragments": (message(PING_REQUEST, 5, 5, opcode=BINARY), 1003),
    "binary of nothing": (frame(BINARY), 1003),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close whose reason is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    **{
        f"a close with {code}": (frame(CLOSE, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535)
    },
    "ten that are no JSON": (frame(TEXT, b"{") * 10, 4501),
    "ten that are no requests": (frame(TEXT, b"[]") * 10, 4501),
}


def _code(close: bytes) -> int:
    return int.from_bytes(close[:2], "big")


@pytest.mark.parametrize("signed_in", [False, True], ids=["before", "after"])
async def test_a_hostile_frame_is_answered_by_the_right_close_and_hurts_nobody_else(
    hub: Watched, token: str, signed_in: bool
) -> None:
    async def attack(data: bytes, code: int) -> int:
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        async with raw_peer(hub.ws_url, token if signed_in else None, offer) as peer:
            if signed_in:
                await peer.until(TEXT)
            peer.writer.write(data)
            close = await peer.until(CLOSE)
            peer.writer.write(frame(CLOSE, close[:2]))
            assert await peer.end() == b""
            return _code(close)

    async with neighbour(hub.url):
        answers = {name: await attack(*each) for name, each in HOSTILE.items()}
        assert answers == {name: code for name, (_, code) in HOSTILE.items()}
        # The same from many at once.
        many = await asyncio.gather(*(attack(*each) for each in HOSTILE.values()))
        assert many == [code for _, code in HOSTILE.values()]


async def test_who_is_cut_off_for_a_flood_is_not_listened_to_any_longer(
    hub: Watched, token: str
) -> None:
    async with raw_peer(hub.ws_url, token) as peer:
        await peer.until(TEXT)
        peer.writer.write(frame(PONG) * FLOOD)
        assert _code(await peer.until(CLOSE)) == 4029
        assert await peer.end() == b""  # at once: our own close is not awaited
        with suppress(ConnectionError):
            async with asyncio.timeout(8):
                while True:
                    peer.writer.write(frame(PONG) * FLOOD)
                    await peer.writer.drain()


async def test_the_hub_does_not_take_the_offer_to_compress(hub: Watched, token: str) -> None:
    async with open_socket(
        hub.ws_url, token, headers={"Sec-WebSocket-Extensions": "permessage-deflate"}
    ) as socket:
        assert socket.websocket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.websocket.response.headers
        await socket.ask("session.ping")


async def test_who_is_still_sending_when_it_is_cut_off_reads_why(hub: Watched, token: str) -> None:
    async with raw_peer(hub.ws_url, token) as peer:
        await peer.until(TEXT)
        whole = frame(TEXT, bytes(8 << 20))
        for at in range(0, len(whole), 65_536):
            peer.writer.write(whole[at : at + 65_536])
            await peer.writer.drain()
        assert _code(await peer.until(CLOSE)) == 1009
        assert await peer.end() == b""


async def test_what_is_whole_before_a_hostile_frame_is_still_a_valid_conversation(
    hub: Watched, token: str
) -> None:
    async with raw_peer(hub.ws_url, token) as peer:
        await peer.until(TEXT)
        # A character that two fragments share, with a ping between them.
        text = PING_REQUEST.replace(b"1", '"€"'.encode())
        cut = text.index("€".encode()) + 1
        first, second = text[:cut], text[cut:]
        peer.writer.write(
            frame(TEXT, first, fin=False) + frame(PING, b"?") + frame(CONTINUATION, second)
        )
        reply = json.loads(await peer.until(TEXT))
        assert (reply["id"], "result" in reply) == ("€", True)
        peer.writer.write(frame(11))
        assert _code(await peer.until(CLOSE)) == 1002


async def test_a_frame_sent_before_the_upgrade_was_answered_does_no_harm(
    hub: Watched, token: str
) -> None:
    # RFC 6455 section 4.1 forbids it; what comes of the frame is not promised.
    async with raw_peer(hub.ws_url, token, behind=frame(TEXT, PING_REQUEST)) as peer:
        await peer.until(TEXT)
        peer.writer.write(frame(TEXT, PING_REQUEST.replace(b"1", b"2")))
        while json.loads(await peer.until(TEXT)).get("id") != 2:
            pass


async def test_a_stranger_who_asks_a_thousand_times_is_told_so_a_thousand_times(
    hub: Watched,
) -> None:
    async with neighbour(hub.url), open_socket(hub.ws_url) as stranger:
        refusals = set()
        asked = [await stranger.begin("conversation.list") for _ in range(1_500)]
        for one in asked:
            with pytest.raises(Refused) as refusal:
                await stranger.result(one)
            refusals.add(refusal.value.reason)
        assert "unauthenticated" in refusals
        assert refusals <= {"unauthenticated", "rate_limited"}
