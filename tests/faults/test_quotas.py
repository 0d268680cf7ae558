"""Quotas where workers are killed, and where several nodes accept messages."""

import asyncio
import signal
from typing import Any

from tests.agents.client import DEADLINE_S, Client, Refused, opened
from tests.agents.conftest import someone
from tests.agents.test_runs import slowly
from tests.faults.conftest import StartWorker
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess

TAKEN_OVER_S = 9.0 + 3.0 + 5.0
"""The lease, a sweep, and what a loaded machine takes."""


async def _quotas(client: Client) -> dict[str, tuple[int, int]]:
    """What is used and reserved of each quota of one's own."""
    answer = await client.call("quota.get", subject="me")
    return {quota["quota"]: (quota["used"], quota["reserved"]) for quota in answer["quotas"]}


async def test_a_run_whose_worker_was_killed_is_settled_once_by_the_next(
    serve_hub: ServeHub,
    start_worker: StartWorker,
    redis_server: RedisProcess,
    postgres_url: str,
) -> None:
    shared = {"HUB_REDIS_URL": redis_server.url, "HUB_DATABASE_URL": postgres_url}
    async with (
        serve_hub(worker=False, **shared) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        await client.call("quota.set", subject="me", quota="runs", limit=1)
        await client.call("quota.set", subject="me", quota="tokens.day", limit=100_000)
        conversation = await client.conversation()
        killed = start_worker(**shared)
        await killed.says("the worker is up")
        undisturbed = await client.conversation()
        (alone,) = await _usage(client, undisturbed, await client.send(undisturbed, slowly(12, 0)))
        sent = await client.send(conversation, slowly(12, 100))
        await client.says(conversation, "w3 ")
        killed.send(signal.SIGKILL)
        start_worker(**shared)
        held = await _quotas(client)
        assert held["runs"] == (0, 1), "a run whose worker died is still a run"
        assert held["tokens.day"][1] > 0
        (usage,) = await _usage(client, conversation, sent, within=TAKEN_OVER_S + 10)
        run = await client.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["attempt"]) == ("succeeded", 2)
        # The model was asked twice, and had said at least "w0 w1 w2 w3 " when its worker died.
        assert usage["input_tokens"] > alone["input_tokens"]
        lost = usage["output_tokens"] - alone["output_tokens"]
        assert 4 <= lost <= 13
        spent = [one["input_tokens"] + one["output_tokens"] for one in (alone, usage)]
        assert await _quotas(client) == {"runs": (0, 0), "tokens.day": (sum(spent), 0)}
        report = await client.call("usage.get")
        assert (report["total"]["runs"], report["total"]["output_tokens"]) == (
            2, alone["output_tokens"] + usage["output_tokens"]
        )  # fmt: skip


async def _usage(
    client: Client, conversation: str, sent: dict[str, Any], within: float = DEADLINE_S
) -> list[dict[str, Any]]:
    """What the run has used when it has ended, as its end tells it, too."""
    end = await client.ended(conversation, within=within)
    used: list[dict[str, Any]] = (await client.call("run.get", run_id=sent["run_id"]))["usage"]
    assert [one["outputTokens"] for one in end["usage"]] == [one["output_tokens"] for one in used]
    return used


async def test_nodes_that_accept_at_once_share_a_budget_of_one_and_hear_of_a_change(
    serve_hub: ServeHub, redis_server: RedisProcess, postgres_url: str
) -> None:
    shared = {"HUB_REDIS_URL": redis_server.url, "HUB_DATABASE_URL": postgres_url}
    async with (
        serve_hub(worker=False, **shared) as one,
        serve_hub(worker=False, **shared) as two,
    ):
        token = await someone(one)
        async with opened(one.url, token) as here, opened(two.url, token) as there:
            clients = [here, there]
            conversations = [await here.conversation(follow=False) for _ in range(10)]
            for client in clients:  # both know now that nothing is limited
                await client.send(conversations[0], "Hello")
            heard = _told(two)
            await here.call("quota.set", subject="me", quota="requests.day", limit=3)
            await asyncio.wait_for(heard.wait(), 1.0)
            answers: list[Any] = await asyncio.gather(
                *(clients[at % 2].send(conversations[at % 10], "Hello") for at in range(100)),
                return_exceptions=True,
            )
            refused = [answer.reason for answer in answers if isinstance(answer, Refused)]
            assert refused == ["quota_exceeded"] * 99
            assert (await _quotas(there))["requests.day"] == (3, 0)


def _told(hub: ServedHub) -> asyncio.Event:
    """Set when the node has heard that quotas have changed."""
    heard, quotas = asyncio.Event(), hub.hub.services.quotas
    forget = quotas._forget

    def note(tenant_id: str) -> None:
        forget(tenant_id)
        heard.set()

    quotas._forget = note  # type: ignore[method-assign]
    return heard
