"""Nodes that share Redis: a worker that is lost or paused, and a Redis that forgets."""

import asyncio
import signal
import time
from functools import partial

from tests.agents.agui import Reading, judge
from tests.agents.client import Client, opened, run_of
from tests.agents.conftest import someone
from tests.agents.test_runs import slowly
from tests.faults.conftest import StartWorker
from tests.parts.figures import Figures
from tests.parts.hub import ServeHub
from tests.parts.redis import RedisProcess

WORDS = 40
WHOLE = "".join(f"w{at} " for at in range(WORDS))
TAKEN_OVER_S = 9.0 + 3.0 + 10.0
"""The lease, a sweep, and what a loaded machine takes."""


async def assert_told_right(client: Client, conversation: str) -> None:
    """What a client has that applied all events is what is kept."""
    reading = Reading()
    for event in client.events(conversation):
        reading.feed(event)
    kept = await client.messages(conversation)
    assert reading.texts == {message["id"]: message["content"] for message in kept}
    assert [message["content"] for message in kept][1:] == [WHOLE]
    assert kept[1]["complete"]


async def test_runs_whose_workers_are_killed_or_paused_are_taken_over_and_end_once(
    serve_hub: ServeHub,
    start_worker: StartWorker,
    redis_server: RedisProcess,
    sqlite_url: str,
    figures: Figures,
) -> None:
    shared = {"HUB_REDIS_URL": redis_server.url, "HUB_DATABASE_URL": sqlite_url}
    async with (
        serve_hub(worker=False, **shared) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        # A worker that drives as many runs as it may takes no other: each gets one of the two.
        killed, paused = [start_worker(**shared, HUB_RUN_CONCURRENCY="1") for _ in range(2)]
        for worker in (killed, paused):
            await worker.says("the worker is up")
        conversations = [await client.conversation() for _ in range(2)]
        sent = [await client.send(each, slowly(WORDS, 100)) for each in conversations]
        for conversation in conversations:
            await client.says(conversation, "w3 ")
        killed.send(signal.SIGKILL)
        paused.send(signal.SIGSTOP)
        gone_at = time.monotonic()
        start_worker(**shared)
        for conversation in conversations:
            await client.until(partial(_restated, client, conversation), TAKEN_OVER_S)
            taken_over_s = time.monotonic() - gone_at
        figures(f"workers killed and paused: runs taken over after {taken_over_s:.1f} s")
        # It comes back while the other is at it, with half an answer in its hands.
        paused.send(signal.SIGCONT)
        await paused.says("a run was lost to another worker")
        for conversation, asked in zip(conversations, sent, strict=True):
            end = await client.ended(conversation)
            assert (run_of(end), end["outcome"]["type"]) == (asked["run_id"], "success")
            await assert_told_right(client, conversation)
            run = await client.call("run.get", run_id=asked["run_id"])
            assert (run["status"], run["attempt"]) == ("succeeded", 2)
            # One more run, so that what came late of the one before would be seen before its end.
            await client.send(conversation, "a word to end with")
            await client.ended(conversation, 2)
            judge(client.events(conversation))
            assert len(client.ends(conversation)) == 2


def _restated(client: Client, conversation: str) -> bool:
    kinds = [event["type"] for event in client.events(conversation)]
    return "MESSAGES_SNAPSHOT" in kinds


async def test_a_redis_that_is_killed_in_the_middle_of_an_answer_costs_no_words(
    serve_hub: ServeHub, own_redis: RedisProcess, sqlite_url: str
) -> None:
    settings = {"HUB_REDIS_URL": own_redis.url, "HUB_DATABASE_URL": sqlite_url}
    async with (
        serve_hub(**settings) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(WORDS, 40))
        await client.says(conversation, "w4 ")
        await asyncio.to_thread(own_redis.restart)
        before = len(client.heard)
        at = {key: client.heard[-1][key] for key in ("epoch", "seq")}
        # The log is gone with its Redis: the hub says so, and the client joins the next one.
        await client.until(lambda: client.notices[-1][0] == "subscription.ended")
        assert client.notices[-1][1]["reason"] == "resume_gap"
        answered = await client.subscribe(conversation, at)
        assert not answered["recovered"]
        end = await client.ended(conversation)
        assert (run_of(end), end["outcome"]["type"]) == (sent["run_id"], "success")
        reading = Reading(answered["snapshot"])
        for heard in client.heard[before:]:
            reading.feed(heard["event"])
        kept = await client.messages(conversation)
        assert [message["content"] for message in kept][1:] == [WHOLE]
        assert reading.texts == {message["id"]: message["content"] for message in kept}
        past = await client.past(conversation)
        judge(past)
        assert [event["type"] for event in past].count("RUN_FINISHED") == 1
