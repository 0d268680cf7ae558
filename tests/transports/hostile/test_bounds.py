"""What one peer can cost, looked at from inside: on the hub's server with an echo behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import pytest
from websockets.server import ServerProtocol

from hub.transports import peer as bounds
from hub.transports.inbox import Inbox
from hub.transports.wire import HubProtocol
from tests.interaction.drivers import eventually
from tests.transports.hostile.echo import Application, echo, echo_server
from tests.transports.hostile.frames import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
)
from tests.transports.raw import RawPeer, raw_peer

READ_BYTES: Final = 262_144
"""What a transport reads at once."""


@asynccontextmanager
async def connected(
    application: Application = echo, receive_bytes: int | None = None
) -> AsyncIterator[tuple[RawPeer, HubProtocol]]:
    """A peer, and the hub's side of its connection."""
    async with (
        echo_server(application) as (server, url),
        raw_peer(url, None, receive_bytes=receive_bytes) as peer,
    ):
        (protocol,) = server.server_state.connections
        yield peer, cast(HubProtocol, protocol)


async def _until(check: Callable[[], object]) -> None:
    async def ask() -> bool:
        return bool(check())

    await eventually(ask)


async def test_tiny_frames_are_parsed_a_slice_at_a_time_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    receive_data = ServerProtocol.receive_data

    def spy(self: Any, data: bytes) -> None:
        sizes.append(len(data))
        receive_data(self, data)

    async with connected() as (peer, protocol):
        monkeypatch.setattr(ServerProtocol, "receive_data", spy)
        flood = frame(PING) * 60_000 + frame(TEXT, b"the end")
        protocol.data_received(flood[:READ_BYTES])
        peer.writer.write(flood[READ_BYTES:])
        pongs = 0
        while (answer := await peer.frame()) != (TEXT, b"the end"):
            if answer[0] != PING:  # the hub's own
                assert answer == (PONG, b"")
                pongs += 1
        assert pongs == 60_000
        assert sum(sizes) == len(flood)
        assert max(sizes) <= bounds.SLICE_BYTES


async def test_frames_that_come_behind_a_slice_keep_their_order() -> None:
    async with connected() as (peer, _):
        said = [b"%d" % number * (number % 50 + 1) for number in range(5_000)]
        peer.writer.write(b"".join(frame(TEXT, one) for one in said))
        assert [await peer.until(TEXT) for _ in said] == said


async def test_messages_that_nobody_takes_yet_are_left_unparsed() -> None:
    over = asyncio.Event()

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        """Takes no message, as one that is still looking at credentials."""
        await receive()
        await send({"type": "websocket.accept"})
        await over.wait()

    async with connected(deaf) as (peer, protocol):
        flood = frame(TEXT) * (READ_BYTES // 6)
        protocol.data_received(flood)
        peer.writer.write(frame(TEXT, b"the end"))
        # As many turns of the loop as all of it would take, and more.
        for _ in range(2 * len(flood) // bounds.SLICE_BYTES):
            await asyncio.sleep(0)
        inbox = cast(Inbox, protocol.queue)
        assert len(inbox._messages) <= bounds.SLICE_BYTES // 6 + 1
        while (message := await protocol.receive()).get("text") != "the end":
            assert message["type"] == "websocket.receive"
        over.set()


async def test_a_peer_that_ends_its_half_and_never_reads_is_gone_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "LEAVE_S", 0.2)
    async with connected(receive_bytes=4_096) as (peer, protocol):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        # More than the kernels take, and less than the transport calls full.
        while not protocol.transport.get_write_buffer_size():
            protocol.transport.write(bytes(16_384))
            await asyncio.sleep(0)
        peer.writer.write_eof()
        await _until(lambda: protocol.disconnected)


async def test_pongs_that_are_not_read_do_not_pile_up_and_the_last_one_comes() -> None:
    async with connected() as (peer, protocol):
        protocol.pause_writing()  # as the transport does when its buffer is full
        for number in range(2_000):
            peer.writer.write(frame(PING, b"%0125d" % number))
        await _until(lambda: protocol._pong[2:] == b"%0125d" % 1_999)
        protocol.resume_writing()
        peer.writer.write(frame(TEXT, b"still here"))
        heard = [await peer.frame()]
        while heard[-1] != (TEXT, b"still here"):
            heard.append(await peer.frame())
        assert [payload for kind, payload in heard if kind == PONG] == [b"%0125d" % 1_999]


async def test_fragments_cost_no_more_than_their_bytes() -> None:
    async with connected() as (peer, protocol):
        text = b"0123456789" * 300
        parts = [text[at : at + 1] for at in range(len(text))]
        peer.writer.write(frame(TEXT, parts[0], fin=False))
        for part in parts[1:]:
            peer.writer.write(frame(CONTINUATION, part, fin=False) + frame(CONTINUATION, fin=False))
        await _until(lambda: protocol.frames and len(protocol.frames[0]) == len(text))
        assert len(protocol.frames) == 1
        peer.writer.write(frame(CONTINUATION))
        assert await peer.until(TEXT) == text


async def test_what_is_wrong_counts_although_a_close_came_with_it() -> None:
    async with connected() as (peer, _):
        peer.writer.write(frame(TEXT, b"\xff") + frame(CLOSE, b"\x03\xe8"))
        assert (await peer.until(CLOSE))[:2] == (1007).to_bytes(2, "big")
        assert await peer.end() == b""


async def test_who_was_cut_off_and_does_not_leave_is_gone_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "LINGER_S", 0.2)
    async with connected() as (peer, protocol):
        peer.writer.write(frame(11))
        assert (await peer.until(CLOSE))[:2] == b"\x03\xea"
        # The hub has ended its half; the other is ours, and we keep it.
        assert not protocol.transport.is_closing()
        await _until(protocol.transport.is_closing)
        await _until(lambda: protocol.disconnected)


@pytest.mark.parametrize("bad", [frame(11), frame(CLOSE, b"\x03\xe8")], ids=["error", "close"])
async def test_who_does_not_read_its_last_frame_is_gone_soon(
    bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LINGER_S", 0.2)
    monkeypatch.setattr(bounds, "LEAVE_S", 0.2)
    async with connected() as (peer, protocol):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        protocol.transport.write(bytes(16 << 20))
        peer.writer.write(bad)
        await _until(lambda: protocol.disconnected)
        assert protocol.transport.get_write_buffer_size() == 0
