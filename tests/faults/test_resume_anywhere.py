"""Whatever happens, what a client has assembled is what is there: state and events equal the state
that is read afresh. Runs that begin, go on and end; clients that come, stall, break off and resume
at either node; logs that are trimmed and lost; messages that pub/sub lost; a Redis that is killed
and begins again with nothing, or that a node cannot reach for a while.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from hub.agents import run_log, runner
from hub.backplane import redis_pubsub
from hub.backplane.choice import open_backplane
from hub.backplane.interface import Backplane
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.redis_keys import Keys
from hub.backplane.standby import StandbyBackplane
from hub.events import fanout
from hub.events.position import Since
from hub.storage.database import Database
from hub.telemetry.metrics import Metrics
from tests.backplane.test_standby import Plugged
from tests.faults.resumers import Node, Tab, Talk, begin_house
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
        self.seen: Counter[bool] = Counter()
        """How often a client was compared, and how often (False) nothing could be said of it."""

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

    async def whole(self) -> None:
        """Have all there that was taken away, and each node know of it."""


class MemoryPlace(Place):
    async def backplanes(self) -> tuple[Backplane, Backplane]:
        self.shared = MemoryShared(LogLimits(entries=KEPT, ttl_s=1e9))
        return MemoryBackplane(self.shared), MemoryBackplane(self.shared)

    def lose(self) -> None:
        self.shared.clear()


USERS = ("one", "two")
"""What Redis knows the nodes by."""


class RedisPlace(Place):
    """``server`` knows ``USERS``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, database: Database, server: RedisProcess
    ) -> None:
        super().__init__(loop, database)
        self.server = server
        self.cut: set[str] = set()

    async def backplanes(self) -> tuple[Backplane, Backplane]:
        self.nodes = [
            open_backplane(self.server.url.replace("//", f"//{user}:x@"), f"n_{user}")
            for user in USERS
        ]
        for each in self.nodes:
            await each.start()
        return self.nodes[0], self.nodes[1]

    def trim(self, channel: str) -> None:
        if self.server.alive():
            with self.server.client() as client:
                client.xtrim(Keys("hub").of(channel).log, maxlen=KEPT, approximate=False)

    def lose(self) -> None:
        if self.server.alive():
            with self.server.client() as client:
                client.flushall()

    def hiccup(self) -> None:
        if self.server.alive():
            with self.server.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def kill(self) -> None:
        """What it had is lost when it comes back."""
        if self.server.alive():
            self.server.kill()

    def cut_off(self, at: int) -> None:
        """A node does not reach it any more, and what it has said last may have been done."""
        if self.server.alive():
            self.cut.add(USERS[at])
            with self.server.client() as client:
                client.execute_command("ACL", "SETUSER", USERS[at], "off")
                client.execute_command("CLIENT", "KILL", "USER", USERS[at])

    async def whole(self) -> None:
        if not self.server.alive():
            self.server.start()
        for user in self.cut:
            with self.server.client() as client:
                client.execute_command("ACL", "SETUSER", user, "on")
        self.cut.clear()
        for each in self.nodes:
            assert isinstance(each, StandbyBackplane)
            await each.look()


def machine(place: Place) -> type[RuleBasedStateMachine]:
    """The machine on this place; each example has a conversation of its own, and from the beginning
    a client at each node: many examples have rules by which none comes.
    """

    class ResumeMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            place.run(self._begin())

        async def _begin(self) -> None:
            house = await begin_house(place.database, f"house {next(place.names)}")
            self.backplanes = await place.backplanes()
            self.talk = Talk(place.database, self.backplanes, house)
            self.talk.tabs += [
                await Tab(self.talk, node).begin("start") for node in self.talk.nodes
            ]

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

        @rule(
            which=st.integers(0, MANY - 1),
            words=st.lists(WORD, min_size=2, max_size=8),
            node=st.integers(0, 1),
            away=st.booleans(),
        )
        def one_misses_what_the_model_says(
            self, which: int, words: list[str], node: int, away: bool
        ) -> None:
            """It is away, or has stalled: it is told all of it at once, later."""

            async def miss(tab: Tab) -> None:
                (tab.leave if away else tab.stall)()
                await self.talk.say(words)
                await self.talk.told()
                if away:
                    await tab.reconnect(self.talk.nodes[node])

            if (tab := self._tab(which)) is not None:
                place.run(miss(tab))

        @rule()
        def the_log_is_trimmed(self) -> None:
            place.trim(self.talk.channel)

        @rule()
        def the_log_is_lost(self) -> None:
            self.talk.losses += 1
            place.lose()

        @rule(node=st.integers(0, 1))
        def a_client_comes_between_two_losses(self, node: int) -> None:
            """The next log has the number at which it begins, too."""
            self.the_log_is_lost()
            self.a_client_comes(node, "start")
            self.the_log_is_lost()

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
            await place.whole()
            await self.talk.say(["last"])  # a lost log is noticed when it is written to
            for node in self.talk.nodes:
                fresh = await self.talk.state(node)
                self._all_have(self.talk.tabs, fresh)

        def _all_have(self, tabs: list[Tab], fresh: dict[str, str]) -> None:
            for tab in tabs:
                place.seen[tab.reading is not None] += 1
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


def harsher(place: RedisPlace) -> type[RuleBasedStateMachine]:
    """The machine, and a Redis that goes away."""

    class AwayMachine(machine(place)):  # type: ignore[misc]
        talk: Talk

        @rule()
        def redis_is_killed(self) -> None:
            self.talk.losses += 1
            place.kill()

        @rule(node=st.integers(0, 1))
        def a_node_is_cut_off(self, node: int) -> None:
            self.talk.losses += 1  # a local log has a beginning of its own
            place.cut_off(node)

        @rule()
        def redis_is_back(self) -> None:
            place.run(place.whole())

        @rule(
            words=st.lists(WORD, min_size=1, max_size=6), killed=st.booleans(), stays=st.booleans()
        )
        def redis_goes_away_and_the_run_goes_on(
            self, words: list[str], killed: bool, stays: bool
        ) -> None:
            """Who reads where the run is driven has all that it says, from whichever log."""
            place.run(self._agree())
            node = self.talk.at_work
            assert node is not None
            self.talk.losses += 1
            if killed:
                place.kill()
            else:
                place.cut_off(self.talk.nodes.index(node))
            place.run(self._apart(node, words))
            if not stays:
                place.run(self._agree())

        async def _apart(self, node: Node, words: list[str]) -> None:
            await self.talk.say(words)
            here, texts = await self.talk.apart(node)
            self._all_have(here, texts)

    return AwayMachine


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


def _prove(place: Place, machine: type[RuleBasedStateMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert place.seen[True] > max(3 * examples, 5 * place.seen[False]), place.seen


@pytest.fixture(autouse=True)
def _patient_runs_with_short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "RESTATE_EVERY", KEPT // 2)
    monkeypatch.setattr(runner, "MAX_ATTEMPTS", 1_000)  # each lost log is a lost lease


@pytest.fixture
def _who_comes_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_pubsub, "BACKOFF_S", (0.002, 0.01))
    monkeypatch.setattr(redis_pubsub, "SUBSCRIBE_S", 0.1)
    monkeypatch.setattr(fanout, "FILL_RETRY_S", 0.005)
    monkeypatch.setattr(run_log, "RETRY_S", 0.005)
    for module in (run_log, runner):
        monkeypatch.setattr(module, "BACK_S", 0.05)


@pytest.fixture
def redis_of_users(redis_folder: Path) -> Iterator[RedisProcess]:
    users = itertools.chain(
        *(("--user", user, "on", "nopass", "~*", "&*", "+@all") for user in USERS)
    )
    server = RedisProcess(redis_folder / "resumed", *users)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_what_is_assembled_is_what_is_there_on_one_store(sqlite_url: str) -> None:
    with _database(sqlite_url) as (loop, database):
        place = MemoryPlace(loop, database)
        _prove(place, machine(place), 120)


@pytest.mark.usefixtures("_who_comes_back_soon")
def test_what_is_assembled_is_what_is_there_on_redis(
    sqlite_url: str, redis_of_users: RedisProcess
) -> None:
    with _database(sqlite_url) as (loop, database):
        place = RedisPlace(loop, database, redis_of_users)
        _prove(place, harsher(place), 40)


@pytest.mark.usefixtures("_who_comes_back_soon")
async def test_what_was_said_before_a_silence_is_read_when_redis_goes_and_when_it_comes(
    sqlite_url: str,
) -> None:
    database = Database(sqlite_url)
    await database.start()
    shared = MemoryShared()
    plug = Plugged(shared)
    near, far = StandbyBackplane(plug, Metrics()), MemoryBackplane(shared)
    talk = Talk(database, (near, far), await begin_house(database, "quiet"))
    try:
        talk.tabs += [await Tab(talk, node).begin("start") for node in talk.nodes]
        await talk.say(["One"])
        await talk.state(talk.nodes[0])
        plug.away = True
        await talk.say([" and two"])  # and no word follows
        here, texts = await talk.apart(talk.nodes[0])
        assert [tab.reading and tab.reading.texts for tab in here] == [texts]
        plug.mend()
        await near.look()
        for node in talk.nodes:
            texts = await talk.state(node)
            assert [tab.reading and tab.reading.texts for tab in talk.tabs] == [texts, texts]
        assert "One and two" in texts.values()
    finally:
        await talk.close()
        await database.close()


async def test_who_comes_in_the_midst_of_a_message_and_stalls_has_all_of_its_text(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "RESTATE_EVERY", 1_000)  # nothing is said again
    database = Database(sqlite_url)
    await database.start()
    shared = MemoryShared()
    nodes = MemoryBackplane(shared), MemoryBackplane(shared)
    talk = Talk(database, nodes, await begin_house(database, "late"))
    try:
        await talk.say(["One"])
        await talk.state(talk.nodes[0])
        late = await Tab(talk, talk.nodes[1]).begin(None)
        talk.tabs.append(late)
        late.stall()
        await talk.say([" and", " two", " and", " three"])
        await talk.told()
        texts = await talk.state(talk.nodes[0])
        assert late.late
        assert late.largest > 1
        assert late.reading is not None
        assert late.reading.texts == texts
    finally:
        await talk.close()
        await database.close()
