"""Runs that are begun again or said again: what readers of the log make of it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest
from hub_client import connect
from sqlalchemy import update
from sqlmodel import col, select

from hub.agents import run_log, worker
from hub.agents.orchestrator import Orchestrator
from hub.backplane.memory import MemoryBackplane
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Run, Usage, now
from tests.agents.agui import Reading, accept, judge
from tests.agents.client import Client, opened, run_of, said
from tests.agents.conftest import someone
from tests.agents.test_runs import script, slowly
from tests.backplane.sinks import eventually
from tests.parts.hub import ServedHub, ServeHub


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SWEEP_S", 0.05)


def lose_leases(hub: ServedHub) -> None:
    """As if every worker had been paused for longer than its lease."""
    cast(MemoryBackplane, hub.hub.services.backplane)._shared.leases.clear()


async def assert_all_agree(client: Client, conversation: str, snapshot: Any = None) -> None:
    """What a client has that applied everything is what is kept, in its order."""
    reading = Reading(snapshot)
    for event in client.events(conversation):
        reading.feed(event)
    kept = {message["id"]: message["content"] for message in await client.messages(conversation)}
    assert reading.texts == kept
    assert list(reading.texts) == list(kept)


async def test_a_run_that_is_taken_over_says_so_and_ends_once(hub: ServedHub) -> None:
    async with opened(hub.url, await someone(hub)) as client:
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(30))
        await client.says(conversation, "w3 ")
        lose_leases(hub)
        await client.ended(conversation)
        events = client.events(conversation)
        judge(events)
        kinds = [event["type"] for event in events]
        assert (kinds.count("RUN_STARTED"), kinds.count("MESSAGES_SNAPSHOT")) == (1, 1)
        whole = "".join(f"w{at} " for at in range(30))
        assert said(events).endswith(whole)
        assert said(events).startswith("w0 w1 w2 w3 ")
        await assert_all_agree(client, conversation)
        run = await client.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["attempt"]) == ("succeeded", 2)


async def test_what_lost_workers_have_used_is_counted_once_each(hub: ServedHub) -> None:
    async with opened(hub.url, await someone(hub)) as client:
        await client.call("quota.set", subject="me", quota="tokens.day", limit=100_000)
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(80, 15))
        for times in (1, 2):
            await client.until(partial(_said, client, conversation, "w3 ", times))
            lose_leases(hub)
        end = await client.ended(conversation)
        rows = await _usage_rows(hub, sent["run_id"])
        assert [row.output_tokens < 80 for row in rows] == [True, True, False]
        assert min(row.output_tokens for row in rows) >= 4
        assert min(row.input_tokens for row in rows) > 0
        (told,) = (await client.call("run.get", run_id=sent["run_id"]))["usage"]
        assert told["output_tokens"] == sum(row.output_tokens for row in rows)
        assert [used["outputTokens"] for used in end["usage"]] == [told["output_tokens"]]
        (quota,) = (await client.call("quota.get", subject="me"))["quotas"]
        assert quota["used"] == sum(row.input_tokens + row.output_tokens for row in rows)
        assert quota["reserved"] == 0


def _said(client: Client, conversation: str, word: str, times: int) -> bool:
    return said(client.events(conversation)).count(word) == times


async def _usage_rows(hub: ServedHub, run_id: str) -> Sequence[Usage]:
    async with hub.hub.services.database.read(EVERY_TENANT) as session:
        found = select(Usage).where(col(Usage.run_id) == run_id).order_by(col(Usage.created_at))
        return (await session.exec(found)).all()


async def test_a_sweep_that_fails_for_an_unforeseen_reason_is_made_again(
    hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    unattended = Orchestrator.unattended
    failed = asyncio.Event()

    async def fails_once(self: Orchestrator, *asked: Any) -> list[tuple[str, str]]:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("an error that nobody mapped")
        return await unattended(self, *asked)

    monkeypatch.setattr(worker, "AWAY_S", 0.05)
    monkeypatch.setattr(Orchestrator, "unattended", fails_once)
    await asyncio.wait_for(failed.wait(), 5)
    async with opened(hub.url, await someone(hub)) as client:
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(30))
        await client.says(conversation, "w3 ")
        lose_leases(hub)  # only the sweep can find the run now
        await client.ended(conversation)
        run = await client.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["attempt"]) == ("succeeded", 2)


async def test_a_steered_run_that_is_taken_over_keeps_what_it_has_said(hub: ServedHub) -> None:
    token = await someone(hub)
    async with opened(hub.url, token) as client, opened(hub.url, token) as late:
        conversation = await client.conversation()
        await client.send(conversation, slowly(25))
        await client.says(conversation, "w1 ")
        # The answer to this one is lost with its worker.
        steering = slowly(24, 25).replace("w", "v")
        await client.send(conversation, steering, on_busy="steer")
        await client.says(conversation, "v3 ")
        lose_leases(hub)
        await client.until(lambda: said(client.events(conversation)).count("v0 ") == 2)
        answered = await late.subscribe(conversation, {"epoch": "e_lost", "seq": 1})
        roles = [message["role"] for message in answered["snapshot"]["messages"]]
        assert roles == ["user", "assistant", "user", "assistant"]
        await client.ended(conversation)
        await late.ended(conversation)
        judge(client.events(conversation))
        await assert_all_agree(client, conversation)
        await assert_all_agree(late, conversation, answered["snapshot"])
        contents = [message["content"] for message in await client.messages(conversation)]
        assert contents[1] == "".join(f"w{at} " for at in range(25))
        assert contents[3] == "".join(f"v{at} " for at in range(24))


async def test_a_long_answer_is_said_again_so_that_a_trimmed_log_can_be_read(
    serve_hub: ServeHub, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "RESTATE_EVERY", 6)
    async with serve_hub(HUB_DATABASE_URL=sqlite_url) as hub:
        token = await someone(hub)
        async with opened(hub.url, token) as client, opened(hub.url, token) as late:
            conversation = await client.conversation()
            await client.send(conversation, slowly(40, 10))
            waits = await client.send(conversation, "This waits.")
            await client.says(conversation, "w20 ")
            answered = await late.subscribe(conversation, {"epoch": "e_lost", "seq": 1})
            await asyncio.gather(client.ended(conversation, 2), late.ended(conversation, 2))
            events = client.events(conversation)
            judge(events)
            snapshots = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
            assert len(snapshots) >= 4
            for snapshot in snapshots:  # each begins a reading that ends with the whole text
                told = [message["id"] for message in snapshot["messages"]]
                assert told[-1] == waits["message_id"]
                reading = Reading(snapshot)
                for event in events[events.index(snapshot) + 1 :]:
                    reading.feed(event)
                kept = await client.messages(conversation)
                assert reading.texts == {m["id"]: m["content"] for m in kept}
            await assert_all_agree(client, conversation)
            await assert_all_agree(late, conversation, answered["snapshot"])


def thinking(words: int, delay_ms: int = 20) -> str:
    """A message that lets the model think so many words, and then answer."""
    thoughts = [f"t{at} " for at in range(words)]
    return script(thinking=thoughts, tokens=["So ", "it ", "is."], delay_ms=delay_ms)


def thought(events: list[dict[str, Any]]) -> str:
    kind = "REASONING_MESSAGE_CONTENT"
    return "".join(event["delta"] for event in events if event["type"] == kind)


async def test_who_comes_while_the_model_thinks_has_what_it_has_thought(
    serve_hub: ServeHub, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "RESTATE_EVERY", 6)  # it is said again, too
    async with serve_hub(HUB_DATABASE_URL=sqlite_url) as hub:
        token = await someone(hub)
        async with opened(hub.url, token) as client, opened(hub.url, token) as late:
            conversation = await client.conversation("thinking")
            sent = await client.send(conversation, thinking(60))
            await client.until(lambda: "t9 " in thought(client.events(conversation)))
            answered = await late.subscribe(conversation, {"epoch": "e_lost", "seq": 1})
            accept(answered["snapshot"])
            question, so_far = answered["snapshot"]["messages"]
            assert (question["id"], so_far["role"]) == (sent["message_id"], "reasoning")
            assert so_far["content"].startswith("t0 t1 ")
            await asyncio.gather(client.ended(conversation), late.ended(conversation))
            events = client.events(conversation)
            judge(events)
            whole = "".join(f"t{at} " for at in range(60))
            assert thought(events) == whole
            heard = late.events(conversation)
            ends = next(at for at, e in enumerate(heard) if e["type"] == "REASONING_END")
            reading = Reading(answered["snapshot"])
            for event in heard[: ends + 1]:
                reading.feed(event)
            assert reading.texts[so_far["id"]] == whole
            assert any(event["type"] == "MESSAGES_SNAPSHOT" for event in heard[:ends])
            await assert_all_agree(late, conversation, answered["snapshot"])
            await assert_all_agree(client, conversation)


async def test_a_run_that_is_taken_over_while_the_model_thinks_thinks_again(hub: ServedHub) -> None:
    async with opened(hub.url, await someone(hub)) as client:
        conversation = await client.conversation("thinking")
        await client.send(conversation, thinking(30))
        await client.until(lambda: "t3 " in thought(client.events(conversation)))
        lose_leases(hub)
        await client.ended(conversation)
        events = client.events(conversation)
        judge(events)  # what the lost worker left open was ended
        (snapshot,) = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
        assert [message["role"] for message in snapshot["messages"]] == ["user"]
        since = events[events.index(snapshot) :]
        assert thought(since) == "".join(f"t{at} " for at in range(30))
        await assert_all_agree(client, conversation)


async def test_a_log_that_is_lost_alone_is_begun_with_the_whole_state(hub: ServedHub) -> None:
    token = await someone(hub)
    async with opened(hub.url, token) as client, opened(hub.url, token) as late:
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(40, 10))
        await client.says(conversation, "w3 ")
        # As by eviction: the lease is still held, and the run goes on in a new log.
        cast(MemoryBackplane, hub.hub.services.backplane)._shared.logs.clear()
        await client.until(lambda: client.notices[-1][0] == "subscription.ended")
        at = {key: client.heard[-1][key] for key in ("epoch", "seq")}
        answered = await late.subscribe(conversation, at)
        assert not answered["recovered"]
        await late.ended(conversation)
        restated = [e for e in late.events(conversation) if e["type"] == "MESSAGES_SNAPSHOT"]
        reading = Reading(restated[0] if restated else answered["snapshot"])
        events = late.events(conversation)
        for event in events[events.index(restated[0]) + 1 :] if restated else events:
            reading.feed(event)
        kept = await late.messages(conversation)
        assert reading.texts == {message["id"]: message["content"] for message in kept}
        run = await late.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["attempt"]) == ("succeeded", 1)


async def test_an_end_that_the_log_has_is_not_said_again_even_when_its_key_is_forgotten(
    hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ANNOUNCED_EVERY_S", 0.02)
    services = hub.hub.services

    async def noted(run_id: str) -> bool:
        async with services.database.read(EVERY_TENANT) as session:
            row = await session.get(Run, run_id)
            return row is not None and row.announced

    async with opened(hub.url, await someone(hub)) as client:
        conversation = await client.conversation()
        sent = await client.send(conversation, "only once")
        await client.ended(conversation)
        await eventually(lambda: noted(sent["run_id"]))
        # As after a crash between the end and its note, found when the key has expired.
        log = cast(MemoryBackplane, services.backplane)._shared.logs.begun(
            f"conversation:{conversation}", 0.0
        )
        log.keys.clear()
        async with services.database.write(EVERY_TENANT) as session:
            long_ago = now() - timedelta(seconds=60)
            await session.exec(
                update(Run)
                .where(col(Run.id) == sent["run_id"])
                .values(announced=False, finished_at=long_ago)
            )
        await eventually(lambda: noted(sent["run_id"]))
        await client.send(conversation, "and another")
        await client.ended(conversation, 2)
        judge(client.events(conversation))
        assert len({run_of(end) for end in client.ends(conversation)}) == 2


async def test_the_client_library_shows_the_answer_of_a_run_that_was_taken_over(
    hub: ServedHub,
) -> None:
    async with connect(hub.url, token=await someone(hub)) as library:
        conversation = await library.conversations.create(model="echo")
        stream = conversation.send(slowly(30))
        lost = False
        async for _ in stream:
            if not lost and "w3 " in "".join(stream.texts.values()):
                lost = True
                lose_leases(hub)
        whole = "".join(f"w{at} " for at in range(30))
        assert list(stream.texts.values())[-1] == whole
