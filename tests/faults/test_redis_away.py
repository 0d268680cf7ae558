"""Redis goes away and comes back: what a node still does, and what it costs whom."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from hub.agents.orchestrator import RUN_QUEUE
from hub.backplane.redis_keys import Keys
from tests.agents.client import TERMINAL, Client, opened, run_of
from tests.agents.conftest import someone
from tests.agents.test_runs import slowly
from tests.backplane.sinks import eventually
from tests.faults.following import Following, ready, report
from tests.faults.sending import two_senders
from tests.parts.figures import Figures
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess

PAUSE_S = 31.0
"""Longer than any lease and any deadline in the hub that Redis is asked within."""
AWAY_S = 2.0
"""A node says within this that Redis is away."""


@pytest.mark.parametrize(("how", "pace"), [("kill", (100, 40)), ("pause", (170, 200))])
async def test_a_run_of_this_node_goes_on_and_is_read_here_while_redis_is_away(
    how: str,
    pace: tuple[int, int],
    serve_hub: ServeHub,
    own_redis: RedisProcess,
    sqlite_url: str,
    *,
    figures: Figures,
) -> None:
    words, delay_ms = pace
    whole = "".join(f"w{at} " for at in range(words))
    settings = {"HUB_REDIS_URL": own_redis.url, "HUB_DATABASE_URL": sqlite_url}
    async with serve_hub(**settings) as hub:
        token = await someone(hub)
        async with (
            opened(hub.url, token) as client,
            opened(hub.url, token) as late,
            two_senders(hub.url, token) as senders,
        ):
            conversation = await client.conversation(follow=False)
            other = await client.conversation(follow=False)
            async with Following(client, conversation) as early:
                sent = await client.send(conversation, slowly(words, delay_ms))
                await early.says("w3 ")
                old = {"epoch": early.joins[0]["epoch"], "seq": 1}
                (own_redis.kill if how == "kill" else own_redis.pause)()
                gone_at = time.monotonic()
                noticed = await ready(hub.url, False, AWAY_S)
                asked_at = time.monotonic()
                kept = await client.send(other, "kept all the same")
                answered = time.monotonic() - asked_at
                await early.until(lambda: len(early.joins) > 1)
                assert early.ends == ["resume_gap"]
                # Somebody who comes now, with an old position, reads along.
                async with Following(late, conversation, old) as joined:
                    assert not joined.joins[0]["recovered"]
                    await joined.says("w40 ")
                    await early.says("w40 ")
                    if how == "pause":
                        await asyncio.sleep(gone_at + PAUSE_S - time.monotonic())
                    pause = early.longest_pause(gone_at)
                    back_at = time.monotonic()
                    (own_redis.start if how == "kill" else own_redis.resume)()
                    back = await ready(hub.url, True, 5)
                    taken = max([await each.takes_again() for each in senders]) - back_at
                    for reader in (early, joined):
                        await reader.until(lambda reader=reader: len(reader.ends) > 0)
                    await early.until(lambda: len(early.joins) > 2)
                    shared = time.monotonic() - back_at
                    attempt = (await client.call("run.get", run_id=sent["run_id"]))["attempt"]
                    # A Redis that only slept knows whose run it is; a new one has forgotten.
                    assert attempt == 1 or how == "kill"
                    await early.ended(sent["run_id"])
                    await joined.ended(sent["run_id"])
                    for reader in (early, joined):
                        assert len(reader.terminal(sent["run_id"])) == 1
                        messages = await reader.agrees()
                        assert [m["content"] for m in messages][1:] == [whole]
            # What was acknowledged meanwhile is answered now.
            async with Following(client, other, old) as answers:
                await answers.says("kept all the same")
                await answers.until(lambda: len(answers.reading.texts) == 2)
                assert kept["message_id"] in answers.reading.texts
            # Also of what was sent before the node knew. A Redis that only slept has all ends.
            seen_at = gone_at + noticed if how == "pause" else back_at
            assert sum(sender.under_way(gone_at, seen_at) for sender in senders) > 0
            for sender in senders:
                await sender.stop()
                await sender.judge(client, 0.0 if how == "pause" else gone_at)
            report(
                figures,
                f"Redis {how}",
                said_by_the_node_after=noticed,
                acknowledged_after=answered,
                pause_of_the_stream=pause,
                ready_again_after=back,
                shared_log_read_again_after=shared,
                messages_taken_again_after=taken,
            )
            assert await ends_in_the_log(hub, conversation) == [sent["run_id"]]


async def ends_in_the_log(hub: ServedHub, conversation: str) -> list[str]:
    """The runs whose end is in the log that all nodes read, in order."""
    page = await hub.hub.services.backplane.read(f"conversation:{conversation}", 0, 10_000)
    events = [json.loads(entry.data) for entry in page.entries]
    return [run_of(event) for event in events if event["type"] in TERMINAL]


async def test_what_is_published_while_pub_sub_is_cut_reaches_a_reader_without_its_noticing(
    serve_hub: ServeHub, own_redis: RedisProcess, sqlite_url: str, figures: Figures
) -> None:
    settings = {"HUB_REDIS_URL": own_redis.url, "HUB_DATABASE_URL": sqlite_url}
    async with serve_hub(**settings) as hub, opened(hub.url, await someone(hub)) as client:
        conversation = await client.conversation(follow=False)
        fills = hub.hub.services.metrics.gap_fills
        async with Following(client, conversation) as reader:
            sent = await client.send(conversation, slowly(300, 8))
            with own_redis.client() as redis:

                async def cut() -> bool:
                    return bool(redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))

                for at in (20, 80, 140):
                    await reader.says(f"w{at} ")
                    await eventually(cut)
            await reader.ended(sent["run_id"])
            # Every seq, in order, in one log, on one subscription.
            assert (len(reader.joins), reader.ends) == (1, [])
            (filled,) = (sample for sample in next(iter(fills.collect())).samples[:1])
            assert filled.value > 0
            report(
                figures,
                "pub/sub cut three times",
                longest_pause=reader.longest_pause(reader.moments[0]),
            )
            kept = await reader.agrees()
            assert kept[-1]["content"] == "".join(f"w{at} " for at in range(300))


async def test_a_redis_that_is_flushed_in_the_middle_of_an_answer_costs_no_words_and_no_message(
    serve_hub: ServeHub, own_redis: RedisProcess, sqlite_url: str, figures: Figures
) -> None:
    settings = {"HUB_REDIS_URL": own_redis.url, "HUB_DATABASE_URL": sqlite_url}
    async with (
        serve_hub(HUB_RUN_CONCURRENCY="2", **settings) as hub,
        opened(hub.url, token := await someone(hub)) as client,
        AsyncExitStack() as stack,
    ):
        conversation, beside, behind = [await client.conversation(follow=False) for _ in range(3)]
        async with Following(client, conversation) as reader:
            sent = await client.send(conversation, slowly(150, 20))
            busy = await client.send(beside, slowly(1_000, 100))
            await reader.says("w5 ")
            await eventually(lambda: is_(client, busy["run_id"], "running"))
            # No worker is free: what is sent now waits in Redis.
            senders = await stack.enter_async_context(two_senders(hub.url, token))
            last = await client.send(behind, "wait for a worker")
            before = reader.joins[0]["epoch"]
            with own_redis.client() as redis:
                waiting = redis.zrange(Keys("hub").named("queue", RUN_QUEUE)[1], 0, -1)
                assert any(behind.encode() in item for item in waiting)
                redis.flushall()
            flushed_at, flushed = time.monotonic(), datetime.now(UTC)
            await client.call("run.cancel", run_id=busy["run_id"])
            await reader.until(lambda: len(reader.joins) > 1)
            assert reader.ends[0] == "resume_gap"
            assert not reader.joins[1]["recovered"]
            assert reader.joins[1]["epoch"] != before
            told = time.monotonic() - flushed_at
            await reader.ended(sent["run_id"])
            await eventually(lambda: is_(client, last["run_id"], "succeeded"))
            for each in senders:
                await each.takes_again()
                await each.stop()
                await each.judge(client, 0.0)  # no run had begun
            run = await client.call("run.get", run_id=last["run_id"])
            began = datetime.fromisoformat(run["started_at"]) - flushed
            report(
                figures,
                "Redis flushed",
                readers_joined_the_next_log_after=told,
                what_was_queued_began_after=began.total_seconds(),
            )
            kept = await reader.agrees()
            assert kept[-1]["content"] == "".join(f"w{at} " for at in range(150))
            assert [m["content"] for m in await client.messages(behind)] == [
                "wait for a worker"
            ] * 2
            assert await ends_in_the_log(hub, conversation) == [sent["run_id"]]
            assert await ends_in_the_log(hub, behind) == [last["run_id"]]


async def is_(client: Client, run_id: str, status: str) -> bool:
    """Whether a run is in this state."""
    return bool((await client.call("run.get", run_id=run_id))["status"] == status)
