"""Whatever happens, what a client has assembled is what is there: state and events equal the state
that is read afresh. Runs that begin, go on and end; clients that come, stall, break off and resume
at either node; logs that are trimmed and lost; messages that pub/sub lost.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from hub.agents import run_log, runner
from hub.backplane.interface import Backplane
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.redis import RedisBackplane
from hub.backplane.redis_keys import Keys
from hub.events.position import Since
from hub.storage.database import Database
from tests.faults.resumers import Tab, Talk, begin_house
from tests.parts.redis import RedisProcess

T = TypeVar("T")

KEPT = 12
"""Entries that a log keeps. A run says its state again after half of them."""

MANY = 6
"""Clients at most."""

WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.sampled_from(
    ["👩‍👩‍👧", 'a "quoted" \\ word', "e\u0301", "x" * 400]
)


class Place:
    """What the nodes share: ``backplanes`` makes the two, and the rest harms it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, database: Database) -> None:
        self.loop = loop
        self.database = database
        self.names = itertools.count(1)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def backplanes(self) -> tuple[Backplane, Backplane]:
        raise NotImplementedError

    def trim(self, channel: str) -> None:
        """Lose the oldest entries."""

    def lose(self) -> None:
        """Lose everything."""

    def hiccup(self) -> None:
        """Lose what is being published."""


class MemoryPlace(Place):
    async def backplanes(self) -> tuple[Backplane, Backplane]:
        self.shared = MemoryShared(LogLimits(entries=KEPT, ttl_s=1e9))
        return MemoryBackplane(self.shared), MemoryBackplane(self.shared)

    def lose(self) -> None:
        self.shared.clear()


class RedisPlace(Place):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, database: Database, server: RedisProcess
    ) -> None:
        super().__init__(loop, database)
        self.server = server

    async def backplanes(self) -> tuple[Backplane, Backplane]:
        one = RedisBackplane(self.server.url, node="n_one")
        two = RedisBackplane(self.server.url, node="n_two")
        for each in (one, two):
            await each.start()
        return one, two

    def trim(self, channel: str) -> None:
        with self.server.client() as client:
            client.xtrim(Keys("hub").of(channel).log, maxlen=KEPT, approximate=False)

    def lose(self) -> None:
        with self.server.client() as client:
            client.flushall()

    def hiccup(self) -> None:
        with self.server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def machine(place: Place) -> type[RuleBasedStateMachine]:
    """The machine on this place; each example has a conversation of its own."""

    class ResumeMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            place.run(self._begin())

        async def _begin(self) -> None:
            house = await begin_house(place.database, f"house {next(place.names)}")
            self.backplanes = await place.backplanes()
            self.talk = Talk(place.database, self.backplanes, house)

        @rule(
            words=st.lists(WORD, min_size=1, max_size=12),
            thinking=st.booleans(),
            pause=st.booleans(),
        )
        def the_model_speaks_or_thinks(self, words: list[str], thinking: bool, pause: bool) -> None:
            async def speak() -> None:
                await self.talk.say(words, thinking=thinking)
                await asyncio.sleep(0.002 if pause else 0)

            place.run(speak())

        @rule()
        def the_answer_ends(self) -> None:
            self.talk.finish()

        @rule(count=st.integers(1, 10))
        def time_passes(self, count: int) -> None:
            async def turns() -> None:
                for _ in range(count):
                    await asyncio.sleep(0)

            place.run(turns())

        @rule(node=st.integers(0, 1), since=st.sampled_from([None, "start"]))
        def a_client_comes(self, node: int, since: Since) -> None:
            async def come() -> None:
                tab = Tab(self.talk, self.talk.nodes[node])
                self.talk.tabs.append(tab)
                await tab.begin(since)

            if len(self.talk.tabs) < MANY:
                place.run(come())

        @rule(which=st.integers(0, MANY - 1), node=st.integers(0, 1))
        def another_begins_where_one_is(self, which: int, node: int) -> None:
            async def begin(tab: Tab) -> None:
                other = tab.copy(self.talk.nodes[node])
                self.talk.tabs.append(other)
                await other.begin(other.at)

            if len(self.talk.tabs) < MANY and (tab := self._tab(which)) is not None:
                place.run(begin(tab))

        @rule(which=st.integers(0, MANY - 1))
        def one_reads(self, which: int) -> None:
            if (tab := self._tab(which)) is not None:
                tab.read()

        @rule(which=st.integers(0, MANY - 1))
        def one_stalls(self, which: int) -> None:
            if (tab := self._tab(which)) is not None:
                place.run(_now(tab.stall))

        @rule(which=st.integers(0, MANY - 1))
        def one_reads_on(self, which: int) -> None:
            if (tab := self._tab(which)) is not None:
                place.run(_now(tab.read_on))

        @rule(which=st.integers(0, MANY - 1), node=st.integers(0, 1))
        def one_breaks_off_and_resumes(self, which: int, node: int) -> None:
            if (tab := self._tab(which)) is not None:
                place.run(tab.reconnect(self.talk.nodes[node]))

        @rule()
        def the_log_is_trimmed(self) -> None:
            place.trim(self.talk.channel)

        @rule()
        def the_log_is_lost(self) -> None:
            self.talk.losses += 1
            place.lose()

        @rule()
        def messages_are_lost(self) -> None:
            place.hiccup()

        @rule()
        def all_have_read_all(self) -> None:
            if self.talk.talking:
                place.run(self._agree())

        def _tab(self, which: int) -> Tab | None:
            tabs = self.talk.tabs
            return tabs[which % len(tabs)] if tabs else None

        async def _agree(self) -> None:
            """Everybody has what somebody finds who comes only now, at either node."""
            await self.talk.say(["last"])  # a lost log is noticed when it is written to
            for node in self.talk.nodes:
                fresh = await self.talk.state(node)
                for tab in self.talk.tabs:
                    assert tab.reading is None or tab.reading.texts == fresh

        def teardown(self) -> None:
            try:
                place.run(self._agree())
                self.talk.finish()
                place.run(self._kept())
            finally:
                place.run(self._end())

        async def _kept(self) -> None:
            """When all is over, that is what is in the database."""
            await self.talk.settle()
            kept = await self.talk.nodes[0].transcript.durable(
                self.talk.house.tenant, self.talk.house.conversation
            )
            for tab in self.talk.tabs:
                if tab.reading is not None:
                    assert tab.reading.texts == {row.id: row.content for row in kept}

        async def _end(self) -> None:
            await self.talk.close()
            for each in self.backplanes:
                await each.close()

    return ResumeMachine


async def _now(step: Callable[[], None]) -> None:
    step()


@contextmanager
def _database(url: str) -> Iterator[tuple[asyncio.AbstractEventLoop, Database]]:
    loop = asyncio.new_event_loop()
    database = Database(url)
    try:
        loop.run_until_complete(database.start())
        yield loop, database
    finally:
        loop.run_until_complete(database.close())
        loop.close()


def _prove(place: Place, examples: int) -> None:
    run_state_machine_as_test(
        machine(place),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def _patient_runs_with_short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "RESTATE_EVERY", KEPT // 2)
    monkeypatch.setattr(runner, "MAX_ATTEMPTS", 1_000)  # each lost log is a lost lease


def test_what_is_assembled_is_what_is_there_on_one_store(sqlite_url: str) -> None:
    with _database(sqlite_url) as (loop, database):
        _prove(MemoryPlace(loop, database), 250)


def test_what_is_assembled_is_what_is_there_on_redis(
    sqlite_url: str, redis_server: RedisProcess
) -> None:
    with _database(sqlite_url) as (loop, database):
        _prove(RedisPlace(loop, database, redis_server), 60)
