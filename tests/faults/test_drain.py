"""SIGTERM to a worker: its runs end in the drain window, or are another's at once."""

import asyncio
import signal
import time

from tests.agents.agui import judge
from tests.agents.client import Client, opened, run_of
from tests.agents.conftest import someone
from tests.agents.test_runs import slowly
from tests.faults.conftest import StartWorker
from tests.faults.processes import WorkerProcess
from tests.parts.figures import Figures
from tests.parts.hub import ServeHub
from tests.parts.redis import RedisProcess

HANDED_OVER_S = 1.0
"""From a worker's end to the first word of the next. A sweep would come within 3 s, on average in
half of it."""


def shared(redis: RedisProcess, database: str, **more: str) -> dict[str, str]:
    return {"HUB_REDIS_URL": redis.url, "HUB_DATABASE_URL": database, **more}


async def ended(worker: WorkerProcess, within: float) -> tuple[int, float]:
    """The status of a worker that was told to end, and how long it took."""
    began = time.monotonic()
    status = await asyncio.to_thread(worker.process.wait, within)
    return status, time.monotonic() - began


async def begun(client: Client, words: int, pause_ms: int) -> tuple[str, str]:
    """A conversation and its run, which has begun."""
    conversation = await client.conversation()
    sent = await client.send(conversation, slowly(words, pause_ms))
    await client.says(conversation, "w2 ")
    return conversation, sent["run_id"]


async def test_a_run_that_can_end_in_the_window_ends_and_what_waits_behind_it_is_handed_over(
    serve_hub: ServeHub, start_worker: StartWorker, redis_server: RedisProcess, sqlite_url: str
) -> None:
    settings = shared(redis_server, sqlite_url, HUB_DRAIN_SECONDS="20")
    async with (
        serve_hub(worker=False, **settings) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        worker = start_worker(**settings)
        await worker.says("the worker is up")
        conversation, run_id = await begun(client, 30, 50)
        behind = await client.send(conversation, "a word to end with")
        worker.send(signal.SIGTERM)
        await worker.says("the node drains")
        other = start_worker(**settings)
        await client.ended(conversation, 2)
        assert (await ended(worker, 5))[0] == 0
        await other.says("the worker is up")
        judge(client.events(conversation))
        assert [run_of(end) for end in client.ends(conversation)] == [run_id, behind["run_id"]]
        for run in (run_id, behind["run_id"]):
            told = await client.call("run.get", run_id=run)
            assert (told["status"], told["attempt"]) == ("succeeded", 1)


async def test_a_run_that_outlasts_the_window_is_another_workers_within_a_second(
    serve_hub: ServeHub,
    start_worker: StartWorker,
    redis_server: RedisProcess,
    sqlite_url: str,
    figures: Figures,
) -> None:
    settings = shared(redis_server, sqlite_url, HUB_DRAIN_SECONDS="0.5")
    async with (
        serve_hub(worker=False, **settings) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        worker = start_worker(**settings)
        await worker.says("the worker is up")
        conversation, run_id = await begun(client, 1_000, 100)
        other = start_worker(**settings)
        await other.says("the worker is up")
        worker.send(signal.SIGTERM)
        status, took = await ended(worker, 10)
        gone_at = time.monotonic()
        await client.until(lambda: _restated(client, conversation))
        handed_over = time.monotonic() - gone_at
        figures(
            f"a worker told to end: gone after {took:.2f} s, its run goes on {handed_over:+.2f} s "
            "after that"
        )
        assert status == 0
        assert handed_over < HANDED_OVER_S
        await client.call("run.cancel", run_id=run_id)
        await client.ended(conversation)
        judge(client.events(conversation))
        assert (await client.call("run.get", run_id=run_id))["attempt"] == 2


def _restated(client: Client, conversation: str) -> bool:
    return "MESSAGES_SNAPSHOT" in [event["type"] for event in client.events(conversation)]


async def test_a_second_signal_ends_a_worker_at_once(
    serve_hub: ServeHub, start_worker: StartWorker, redis_server: RedisProcess, sqlite_url: str
) -> None:
    settings = shared(redis_server, sqlite_url, HUB_DRAIN_SECONDS="600")
    async with (
        serve_hub(worker=False, **settings) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        worker = start_worker(**settings)
        await worker.says("the worker is up")
        _, run_id = await begun(client, 200, 100)
        worker.send(signal.SIGTERM)
        await worker.says("the node drains")
        worker.send(signal.SIGINT)  # of the same wish, by a terminal say
        assert (await client.call("run.get", run_id=run_id))["status"] == "running"
        while worker.process.poll() is None and "at once" not in worker.log:
            await asyncio.sleep(0.1)
            worker.send(signal.SIGTERM)
        status, _ = await ended(worker, 5)
        assert status == 0, worker.log
        assert (await client.call("run.get", run_id=run_id))["status"] == "running"
