"""A late subscriber's history, while the hub cannot read it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hub_client import Event, Hub
from hub_client.faults import PermissionDenied

from tests.clients.python.scripted_hub import Conversations, Params, Refusal

CHANNEL = Conversations.channel


async def read_all(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_a_history_that_the_hub_cannot_read_for_a_while_is_asked_for_again(
    server: Conversations, client: Hub
) -> None:
    words = [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": d} for d in "abcdef"]
    await server.emit(CHANNEL, *words[:5])
    answers, read = iter([1, 2, 0, 3]), server.history

    async def history(params: Params) -> Params:
        if next(answers, 0):
            raise Refusal(5032, "backend_unavailable", retry_after_ms=1)
        return await read(params)

    server.answers["channel.history"] = history
    async with client.subscribe(CHANNEL), client.subscribe(CHANNEL, "start") as late:
        await server.emit(CHANNEL, words[5])
        async with asyncio.timeout(5):
            assert [(await anext(late)).data for _ in words] == words
    assert server.count("channel.history") == 5


async def test_a_reader_that_waits_for_its_history_can_be_closed_and_a_refusal_is_raised(
    server: Conversations, client: Hub
) -> None:
    reasons = iter(["backend_unavailable", "permission_denied"])

    async def history(params: Params) -> Params:
        raise Refusal(5032, next(reasons), retry_after_ms=60_000)

    server.answers["channel.history"] = history
    await server.emit(CHANNEL, {"type": "X"})
    async with client.subscribe(CHANNEL), asyncio.timeout(5):
        async with client.subscribe(CHANNEL, "start") as waits:
            reading = asyncio.create_task(read_all(waits))
            await server.until("channel.history")
        assert await reading == []
        async with client.subscribe(CHANNEL, "start") as refused:
            with pytest.raises(PermissionDenied):
                await anext(refused)


async def test_a_history_ends_where_the_live_events_begin_though_deltas_go_on_coming(
    server: Conversations, client: Hub
) -> None:
    words = [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": d} for d in "abcdefgh"]
    await server.emit(CHANNEL, *words[:5])

    async def history(params: Params) -> Params:
        """As the hub answers it: the deltas that are there by now, joined."""
        await server.emit(CHANNEL, words[5])
        log, after = server.logs[CHANNEL], params["after"]
        found = [entry for entry in log.entries if entry["seq"] > after][: params["limit"]]
        whole = {**words[0], "delta": "".join(entry["event"]["delta"] for entry in found)}
        item = {"seq": found[-1]["seq"], "span": len(found), "event": whole}
        return {"epoch": log.epoch, "first": 1, "last": log.seq, "items": [item]}

    server.answers["channel.history"] = history
    async with client.subscribe(CHANNEL) as early, client.subscribe(CHANNEL, "start") as late:
        async with asyncio.timeout(5):
            first = await anext(late)
            await server.emit(CHANNEL, *words[6:])
            told = [first, *[await anext(late) for _ in range(3)]]
            assert "".join(event.delta for event in told) == "abcdefgh"
            assert "".join([(await anext(early)).delta for _ in range(3)]) == "fgh"
    assert server.count("channel.subscribe") == 1
