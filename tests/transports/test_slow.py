"""Readers that read slowly, and readers that do not read at all."""

import asyncio
import json
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from hub.events.vocabulary import text_content
from hub.transports import wire
from tests.interaction.drivers import eventually, open_socket
from tests.parts.hub import ServedHub
from tests.transports.test_closing import _read_all, stalling

TURN = 500
"""Deltas appended between two looks at who reads them."""


async def _subscribe(websocket: ClientConnection, channel: str, since: object = None) -> Any:
    params = {"channel": channel, "since": since}
    frame = {"jsonrpc": "2.0", "id": 1, "method": "channel.subscribe", "params": params}
    await websocket.send(json.dumps(frame))
    while "id" not in (reply := json.loads(await websocket.recv())):
        pass
    return reply["result"]


async def _told(hub: ServedHub, channel: str, first: int, count: int) -> None:
    """Append deltas whose text tells their order."""
    append = hub.hub.services.backplane.append
    for number in range(first, first + count):
        await append(channel, text_content("m_1", f"{number} 🙂 "))


async def _conversation(hub: ServedHub, token: str) -> str:
    async with open_socket(hub.ws_url, token) as socket:
        return f"conversation:{(await socket.ask('conversation.create'))['id']}"


class Assembled:
    """The text of one message, from events that must come without gap or repeat."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.spans: list[int] = []
        self.text = ""

    def take(self, frame: str | bytes) -> None:
        params = orjson.loads(frame)["params"]
        span = params.get("span", 1)
        assert params["seq"] - span == self.at
        self.at = params["seq"]
        self.spans.append(span)
        self.text += params["event"]["delta"]


def _text(count: int) -> str:
    return "".join(f"{number} 🙂 " for number in range(count))


async def test_a_slow_reader_gets_joined_deltas_and_every_word_while_a_fast_one_gets_each(
    served_hub: ServedHub,
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    channel = await _conversation(served_hub, token)
    async with (
        stalling(served_hub, token) as slow,
        open_socket(served_hub.ws_url, token) as fast,
    ):
        begun = await _subscribe(slow, channel)
        await fast.ask("channel.subscribe", {"channel": channel})
        total = 40 * TURN  # some 5 MB of frames: far more than an outbox and the buffers hold
        for first in range(0, total, TURN):
            await _told(served_hub, channel, first, TURN)
            for seq in range(first + 1, first + TURN + 1):
                event = await fast.event()
                assert (event["seq"], event.get("span", 1)) == (seq, 1)
        assembled = Assembled(begun["seq"])
        while assembled.at < total:
            assembled.take(await slow.recv())
        assert assembled.text == _text(total)
        assert max(assembled.spans) > 100
        joined = served_hub.hub.services.metrics.joined.labels("outbox")._value.get()
        assert joined == sum(span - 1 for span in assembled.spans)


async def test_a_late_joiner_gets_the_text_so_far_in_few_events_and_resumes_inside_of_one(
    served_hub: ServedHub,
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    channel = await _conversation(served_hub, token)
    await _told(served_hub, channel, 0, 2_000)
    async with stalling(served_hub, token) as late:
        begun = await _subscribe(late, channel, "start")
        assembled = Assembled(0)
        while assembled.at < 2_000:
            assembled.take(await late.recv())
        assert assembled.text == _text(2_000)
        assert len(assembled.spans) <= 8
        joined = served_hub.hub.services.metrics.joined.labels("log")._value.get()
        assert joined == sum(span - 1 for span in assembled.spans)
    async with stalling(served_hub, token) as again:
        await _subscribe(again, channel, {"epoch": begun["epoch"], "seq": 1_234})
        rest = Assembled(1_234)
        while rest.at < 2_000:
            rest.take(await again.recv())
        assert _text(1_234) + rest.text == _text(2_000)


async def test_a_reader_that_takes_nothing_is_cut_off_at_the_send_deadline(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SEND_S", 0.5)
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    channel = await _conversation(served_hub, token)
    connections = served_hub.hub.socket.connections
    await eventually(_none_left(connections))
    async with stalling(served_hub, token) as stalled:
        await _subscribe(stalled, channel)
        (connection,) = connections._all
        sent = 0
        while not connection._outbox.size:  # until the transport is full, and no further
            await _told(served_hub, channel, sent, TURN)
            sent += TURN
            await asyncio.sleep(0.05)  # for all that can be written to be written
        assert connection.open
        # Nothing is sent any more, and nothing overflows: only time passes.
        await eventually(_closed(connection))
        assert connection._outbox.size == 0
        assert len(connection.subscriptions) == 0
        await eventually(_none_left(connections))
        with pytest.raises(ConnectionClosed) as closed:
            await _read_all(stalled)
        assert closed.value.rcvd is None  # no close frame could have reached it
    closes = served_hub.hub.services.metrics.closes
    assert closes.labels("hub", 4008)._value.get() == 1


async def test_a_reader_that_takes_little_at_a_time_is_not_cut_off(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SEND_S", 0.5)
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    channel = await _conversation(served_hub, token)
    async with stalling(served_hub, token) as slow:
        begun = await _subscribe(slow, channel)
        total = 20 * TURN
        await _told(served_hub, channel, 0, total)
        assembled = Assembled(begun["seq"])
        loop = asyncio.get_running_loop()
        began = loop.time()
        while assembled.at < total:
            assembled.take(await slow.recv())
            if len(assembled.spans) % 200 == 0 and loop.time() - began < 3:
                await asyncio.sleep(0.1)  # as one on a bad line
        assert loop.time() - began > 1
        assert assembled.text == _text(total)


def _closed(connection: Any) -> Any:
    async def closed() -> bool:
        return not connection.open

    return closed


def _none_left(connections: Any) -> Any:
    async def none() -> bool:
        return not len(connections)

    return none
