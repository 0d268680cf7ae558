"""Many readers that stop reading at once, while somebody who reads is told everything."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any, Final

from hub.backplane.interface import LOG_MAX_BYTES
from hub.transports.wire import ABORT_S
from tests.interaction.drivers import Socket, open_socket
from tests.parts.figures import Figures
from tests.parts.hub import sign_up
from tests.transports.hostile.baseline import Watched
from tests.transports.hostile.frames import CLOSE, TEXT, frame
from tests.transports.hostile.neighbour import somebody
from tests.transports.raw import RawPeer, raw_peer

READERS: Final = 30
LEFT_MIB: Final = 12.0
"""What allocators may keep of it, which is less than the outboxes held."""
SLACK_S: Final = 10.0
MOST_ANSWERS: Final = 200
TOO_SLOW: Final = 4008


@asynccontextmanager
async def _stalled(url: str, token: str, channel: str) -> AsyncIterator[RawPeer]:
    """A reader that follows the channel and reads nothing of it."""
    async with raw_peer(url, token, receive_bytes=65_536) as peer:
        await peer.until(TEXT)
        asked = {"jsonrpc": "2.0", "id": 1, "method": "channel.subscribe"}
        body = json.dumps({**asked, "params": {"channel": channel}})
        peer.writer.write(frame(TEXT, body.encode()))
        while "result" not in json.loads(await peer.until(TEXT)):
            pass
        yield peer


class _Healthy:
    """Has answers made, and hears each of their positions, in order."""

    def __init__(self, socket: Socket, conversation: str, at: dict[str, Any]) -> None:
        self._socket = socket
        self._conversation = conversation
        self._seq = at["seq"]
        self.answers = 0
        self.heard = 0
        """Letters of their text."""

    async def hear_an_answer(self) -> None:
        await self._socket.ask(
            "message.send",
            {
                "conversation_id": self._conversation,
                "client_message_id": f"{self.answers}",
                "content": "at length",
            },
        )
        kind = ""
        while kind != "RUN_FINISHED":
            event = await self._socket.event()
            kind = event["event"]["type"]
            assert kind != "RUN_ERROR", event
            assert event["seq"] - event.get("span", 1) == self._seq, "a gap, or a repeat"
            self._seq = event["seq"]
            self.heard += len(event["event"].get("delta", ""))
        self.answers += 1


async def _code(peer: RawPeer) -> int:
    """By which code the hub closed, read behind all that had been written before."""
    return int.from_bytes((await peer.until(CLOSE))[:2], "big")


@asynccontextmanager
async def _overflown(
    hub: Watched, token: str, channel: str, healthy: _Healthy
) -> AsyncIterator[tuple[list[RawPeer], int]]:
    """Readers that have stalled until the hub closed them, and the most bytes that were seen to
    wait for them.
    """
    closed = (await hub.closes())[TOO_SLOW]
    async with AsyncExitStack() as stack:
        stalled = [
            await stack.enter_async_context(_stalled(hub.ws_url, token, channel))
            for _ in range(READERS)
        ]
        most, end = 0, healthy.answers + MOST_ANSWERS
        while (await hub.closes())[TOO_SLOW] - closed < READERS:
            assert healthy.answers < end, "readers that stall are never closed"
            await healthy.hear_an_answer()
            most = max(most, await hub.waiting())
        yield stalled, most


async def test_readers_that_stop_are_closed_and_their_memory_is_free_while_another_hears_all(
    watched: Watched, figures: Figures
) -> None:
    hub = watched
    token = (await sign_up(hub.url, somebody()))["access_token"]
    async with hub.unchanged(inf), open_socket(hub.ws_url, token) as reading:
        made = await reading.ask("conversation.create", {"model": "long"})
        channel = f"conversation:{made['id']}"
        at = await reading.ask("channel.subscribe", {"channel": channel})
        healthy = _Healthy(reading, made["id"], at)
        # What an allocator keeps of the first is there for the second.
        async with _overflown(hub, token, channel, healthy):
            pass
        while healthy.heard < LOG_MAX_BYTES:  # the log is as long as it will ever be
            await healthy.hear_an_answer()
        async with hub.unchanged(LEFT_MIB):
            before = await hub.settled()
            async with _overflown(hub, token, channel, healthy) as (stalled, most):
                # Half of them read on, and are told; the others never do, and are cut off: then the
                # hub has no connection of theirs.
                codes = await asyncio.gather(*(_code(one) for one in stalled[::2]))
                assert codes == [TOO_SLOW] * len(codes)
                async with asyncio.timeout(ABORT_S + SLACK_S):
                    while not (await hub.standing()).within(before, inf):
                        await healthy.hear_an_answer()
                        await asyncio.sleep(0.5)
    held_mib = most / 2**20
    figures(
        f"{READERS} readers that stalled held {held_mib:.0f} MiB in their outboxes, while another "
        f"heard {healthy.answers} answers whole and in order"
    )
    assert LEFT_MIB < held_mib <= READERS
