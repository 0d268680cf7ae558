"""What is taken away while Redis does not answer, of which no node hears from another: it ends
within one bounded recheck, in the middle of an answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import pytest

from hub.identity.access.authority import RECHECK_S
from hub.identity.access.changes import announce
from tests.agents.client import Client, Refused, opened
from tests.agents.test_runs import slowly
from tests.backplane.sinks import eventually
from tests.faults.following import ready, report
from tests.faults.test_revocation import CHANNEL, SESSION, Person, Taking, _end, person
from tests.parts.figures import Figures
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess

AWAY_S: Final = 2.0
"""A node says within this that Redis is away."""
SLACK_S: Final = 1.0
"""What the scheduler may take on a busy machine, on top of the recheck."""
REASONS: Final = {**SESSION, **CHANNEL}


@contextmanager
def paused(redis: RedisProcess) -> Iterator[None]:
    """Redis does not answer in the block, and goes on after it whatever happens."""
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


@asynccontextmanager
async def two_nodes(
    serve_hub: ServeHub, redis: RedisProcess, database_url: str
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    """Where things are taken away, and where answers are given and followed."""
    settings = {
        "HUB_DATABASE_URL": database_url,
        "HUB_REDIS_URL": redis.url,
        "HUB_RUN_CONCURRENCY": "16",
    }
    async with serve_hub(worker=False, **settings) as here, serve_hub(**settings) as there:
        yield here, there


@dataclass
class Follower:
    """Somebody who follows an answer of their own. ``client`` has heard ``before`` events of the
    log that was read before Redis was away.
    """

    who: Person
    client: Client
    conversation: str
    before: int = 0

    async def follow_again(self) -> None:
        """Their node reads its own log now, as a client is told to by ``resume_gap``."""
        await self.client.until(lambda: _end(self.client) == "resume_gap")
        self.client.notices.clear()

        async def joins() -> bool:
            try:
                await self.client.subscribe(self.conversation)
            except Refused as refused:
                assert refused.reason == "backend_unavailable"  # noqa: PT017
                return False
            return True

        await eventually(joins)
        self.before = len(self.client.heard)
        await self.hears_more()

    async def hears_more(self) -> None:
        heard = len(self.client.heard)
        await self.client.until(lambda: len(self.client.heard) > heard, 5)


@asynccontextmanager
async def following(here: ServedHub, there: ServedHub) -> AsyncIterator[Follower]:
    who = await person(here)
    async with opened(there.url, who.token) as client:
        conversation = await client.conversation()
        await client.send(conversation, slowly(1_000, 50))
        await client.says(conversation, "w3 ")
        yield Follower(who, client, conversation)


async def taken_away(
    here: ServedHub, there: ServedHub, one: Follower, take: Taking, after: float
) -> float:
    """Seconds from the commit to the end that the client is told of, where it can do no more."""
    await asyncio.sleep(after)  # not luck: when in a node's round it is taken away is the trial
    assert not one.client.notices
    change = await take(here, one.who, one.conversation)
    began = time.perf_counter()
    # As an operation does, whose word goes nowhere.
    telling = asyncio.create_task(announce(here.hub.services.authority.changed, change))
    await one.client.until(lambda: _end(one.client), RECHECK_S + SLACK_S)
    took = time.perf_counter() - began
    assert _end(one.client) == REASONS[take]
    heard = len(one.client.heard)
    await refused(there, one, take)
    await telling
    assert len(one.client.heard) == heard  # of what it followed, nothing came after the end
    return took


async def refused(there: ServedHub, one: Follower, take: Taking) -> None:
    """The next request is not answered as it was."""
    if take in CHANNEL:
        with pytest.raises(Refused) as refusal:
            await one.client.subscribe(one.conversation)
        assert refusal.value.reason == CHANNEL[take]
        return
    async with asyncio.timeout(SLACK_S):
        await one.client.socket.wait_closed()
    assert one.client.socket.close_code == 4503
    async with httpx.AsyncClient(base_url=there.url, trust_env=False) as http:
        headers = {"Authorization": f"Bearer {one.who.token}"}
        answer = await http.get(f"/v1/conversations/{one.conversation}", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["data"]["reason"] == "unauthenticated"


async def test_what_is_taken_away_while_redis_is_paused_ends_within_one_recheck(
    serve_hub: ServeHub, own_redis: RedisProcess, postgres_url: str, figures: Figures
) -> None:
    async with (
        two_nodes(serve_hub, own_redis, postgres_url) as (here, there),
        AsyncExitStack() as stack,
    ):
        takings = list(REASONS)
        *losers, other = [
            await stack.enter_async_context(following(here, there)) for _ in [*takings, None]
        ]
        with paused(own_redis):
            await ready(there.url, False, AWAY_S)
            await asyncio.gather(*(one.follow_again() for one in (*losers, other)))
            step = RECHECK_S / len(takings)
            times = await asyncio.gather(
                *(
                    taken_away(here, there, one, take, at * step)
                    for at, (one, take) in enumerate(zip(losers, takings, strict=True))
                )
            )
            named = {take.__name__: took for take, took in zip(takings, times, strict=True)}
            report(figures, "taken away with Redis paused, ended after", **named)
            # Who is not concerned reads on, in the log that they joined.
            await other.hears_more()
            assert other.client.notices == []
            seqs = [heard["seq"] for heard in other.client.heard[other.before :]]
            assert seqs == sorted(set(seqs))
            assert len({heard["epoch"] for heard in other.client.heard[other.before :]}) == 1
        assert max(times) < RECHECK_S + SLACK_S
