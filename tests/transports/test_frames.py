"""What the hub does with each frame it is sent (contract 2)."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlmodel import select

from hub.protocol.limits import MAX_IN_FLIGHT
from hub.storage.scope import EVERY_TENANT
from tests.interaction.drivers import Refused, eventually, open_socket
from tests.parts.hub import ServedHub
from tests.protocol.vectors import data_of, rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def held(hub: ServedHub) -> AsyncIterator[None]:
    """While it lasts, every write waits for the database's one writer."""
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(select(1))
        yield


async def test_a_binary_frame_closes_with_1003(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.send(b"{}")
        assert (await socket.closed())[0] == 1003


async def test_invalid_utf8_closes_with_1007(
    hub: ServedHub, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.websocket.send(b'{"a":"\xff"}', text=True)
        assert (await socket.closed())[0] == 1007
    assert not caplog.records, "the peer's mistake is no line of our log"


async def test_a_frame_of_64_kib_is_answered(hub: ServedHub, token: str) -> None:
    request = '{"jsonrpc":"2.0","id":1,"method":"session.ping","params":{"x":"%s"}}'
    async with open_socket(hub.ws_url, token) as socket:
        await socket.send(request % ("x" * (65_536 - len(request) + 2)))
        answer = await socket.heard(lambda frame: "error" in frame)
        assert answer["error"]["data"]["reason"] == "invalid_params"


async def test_64_kib_and_a_byte_closes_with_1009(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.send("x" * 65_537)
        assert (await socket.closed())[0] == 1009


async def test_the_tenth_faulty_frame_closes_with_4501(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        for _ in range(9):
            await socket.send("{")
        await socket.ask("session.ping")
        await socket.send("{")
        for _ in range(10):
            answer = await socket.heard(lambda frame: "error" in frame)
            assert answer["id"] is None
            assert answer["error"]["code"] == -32700
        code, reason = await socket.closed()
        assert (code, json.loads(reason)["reason"]) == (4501, "protocol_violation")


async def test_a_request_that_is_refused_is_no_faulty_frame(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        for _ in range(20):
            with pytest.raises(Refused):
                await socket.ask("no.such")
        await socket.ask("session.ping")


async def test_a_notification_of_a_client_is_dropped(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.notice("session.ready")
        await socket.send({"jsonrpc": "2.0", "method": "account.logout"})
        await socket.ask("session.ping")
        assert socket._heard == []


async def test_an_id_that_is_in_flight_is_refused_and_the_first_request_answered(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        async with held(hub):
            first = await socket.begin("conversation.create", {"title": "first"}, id="a")
            await socket.send({"jsonrpc": "2.0", "id": "a", "method": "session.ping", "params": {}})
            with pytest.raises(Refused) as refusal:
                await socket.result(first)
            assert refusal.value.reason == "invalid_request"
        done = await socket.heard(lambda frame: frame.get("id") == "a")
        assert done["result"]["title"] == "first"
        await socket.ask("session.ping", id="a")


async def test_the_65th_request_in_flight_is_refused_with_a_time_to_wait(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        async with held(hub):
            waiting = [await socket.begin("conversation.create") for _ in range(MAX_IN_FLIGHT)]
            with pytest.raises(Refused) as refusal:
                await socket.ask("conversation.create")
            assert refusal.value.reason == "rate_limited"
            assert refusal.value.details["retry_after_ms"] > 0
        for one in waiting:
            await socket.result(one)
        await socket.ask("conversation.create")


async def test_writes_to_one_conversation_keep_their_order(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation = (await socket.ask("conversation.create", {"model": "echo"}))["id"]
        sent = [
            await socket.begin(
                "message.send",
                {
                    "conversation_id": conversation,
                    "client_message_id": str(number),
                    "content": f"number {number}",
                    "on_busy": "interrupt",
                },
            )
            for number in range(30)
        ]
        for one in sent:
            await socket.result(one)
        page = await socket.ask("message.list", {"conversation_id": conversation, "limit": 200})
    said = [item["content"] for item in page["items"] if item["role"] == "user"]
    assert said == [f"number {number}" for number in range(30)]


async def test_other_replies_do_not_wait_for_a_slow_one(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        async with held(hub):
            slow = await socket.begin("conversation.create", id="slow")
            await socket.ask("session.ping", id="quick")
            await socket.ask("conversation.list", id="read")
        await socket.result(slow)
        assert socket.order == ["quick", "read", "slow"]


async def test_a_write_that_has_begun_is_finished_when_the_client_leaves(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket, held(hub):
        lost = await socket.begin("conversation.create", {"title": "last words"})
        await socket.ask("session.ping")
        socket.websocket.transport.abort()
        await socket.closed()
        assert isinstance(lost.exception(), ConnectionError)
    async with open_socket(hub.ws_url, token) as again:

        async def kept() -> bool:
            items = (await again.ask("conversation.list"))["items"]
            return [item.get("title") for item in items] == ["last words"]

        await eventually(kept)


async def test_a_trace_of_the_caller_is_used_in_the_answer(hub: ServedHub, token: str) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with open_socket(hub.ws_url, token) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask(
                "conversation.get",
                {"_meta": {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}},
            )
    assert refusal.value.reason == "invalid_params"
    assert refusal.value.trace_id == trace_id


GOLDEN = [frame for frame in rows("frames.json") if frame["direction"] == "client_to_hub"]
FAULTY = rows("faulty_frames.json")


async def test_every_golden_frame_of_a_client_is_taken(hub: ServedHub, token: str) -> None:
    assert len(GOLDEN) > 15
    for golden in GOLDEN:
        if golden["frame"].get("method") == "session.authenticate":
            continue  # its token is an example
        async with open_socket(hub.ws_url, token) as socket:
            await socket.notice("session.ready")
            await socket.websocket.send(data_of(golden), text=True)
            if golden["frame"]["kind"] == "request":
                answer = await socket.heard(lambda frame: "id" in frame)
                assert answer["id"] == golden["frame"]["id"], golden["name"]
                fault = answer.get("error", {}).get("code")
                assert fault not in (-32700, -32600), golden["name"]
            await socket.ask("session.ping", id="still here")
            assert socket._heard == [], golden["name"]


async def test_every_faulty_frame_is_refused_as_the_vectors_say(hub: ServedHub, token: str) -> None:
    assert len(FAULTY) > 50
    for faulty in FAULTY:
        data = data_of(faulty)
        async with open_socket(hub.ws_url, token) as socket:
            await socket.notice("session.ready")
            await socket.websocket.send(data, text=True)
            closes = _close_of(data)
            if closes is not None:
                assert (await socket.closed())[0] == closes, faulty["name"]
                continue
            answer: dict[str, Any] = await socket.heard(lambda frame: "error" in frame)
            assert answer["error"]["code"] == faulty["fault"]["code"], faulty["name"]
            assert answer["id"] == faulty["fault"]["request_id"], faulty["name"]
            await socket.ask("session.ping", id="still here")


def _close_of(data: bytes) -> int | None:
    """What RFC 6455 closes before a frame is looked into."""
    if len(data) > 65_536:
        return 1009
    try:
        data.decode()
    except UnicodeDecodeError:
        return 1007
    return None
