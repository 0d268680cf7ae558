"""The fan-out under any interleaving: readers that join, stall, leave and abandon, publishers,
late and lost messages, slow answers, trimmed and lost logs. Each reader gets every event after its
position once and in order, or is told that it cannot.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from hub.backplane.interface import Backplane, Position
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.events.fanout import Fanout, Join
from hub.events.position import Since
from hub.telemetry.metrics import Metrics
from tests.events.readers import CHANNEL, Follower, Held

QUIET = 400
"""Turns of the loop after which everything that can go on has gone on."""


class Subscriber:
    """A reader and the task that joins and follows; ``since`` is what it asked for."""

    def __init__(self, fanout: Fanout, since: Since) -> None:
        self.reader = Follower()
        self.since = since
        self.task = asyncio.get_running_loop().create_task(self._run(fanout))

    async def _run(self, fanout: Fanout) -> Join:
        join = await self.reader.begin(fanout, self.since)
        if self.reader.gone:
            join.abandon()
        else:
            await join.follow()
        return join

    @property
    def alive(self) -> bool:
        return not self.reader.gone and self.reader.reason is None


class FanoutMachine(RuleBasedStateMachine):
    subscribers = Bundle("subscribers")
    positions = Bundle("positions")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.problems: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.shared = MemoryShared(LogLimits(entries=6, ttl_s=1e9, key_ttl_s=60))
        self.publisher = MemoryBackplane(self.shared)
        self.held = Held(MemoryBackplane(self.shared))
        self.held.hold = True
        self.fanout = Fanout(cast(Backplane, self.held), Metrics())
        self.all: list[Subscriber] = []
        self.dropped = False

    def turns(self, count: int) -> None:
        async def go() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(go())

    def inside(self, step: Callable[[], None]) -> None:
        """Do it on the running loop, as a backplane and a connection do."""

        async def go() -> None:
            step()

        self.loop.run_until_complete(go())

    # --- what happens ---

    @rule(count=st.integers(1, 4), target=positions)
    def publish(self, count: int) -> Position:
        async def go() -> Position:
            for _ in range(count):
                appended = await self.publisher.append(CHANNEL, b"{}")
            return Position(appended.epoch, appended.seq)

        return self.loop.run_until_complete(go())

    @rule(count=st.integers(1, 3))
    def messages_arrive(self, count: int) -> None:
        self.inside(lambda: self.held.release(count))

    @rule(count=st.integers(1, 3))
    def messages_are_lost(self, count: int) -> None:
        self.dropped = self.dropped or bool(self.held.kept)
        self.held.drop(count)

    @rule()
    def the_subscription_is_repaired(self) -> None:
        self.inside(self.held.repair)
        self.dropped = False

    @rule(turns=st.lists(st.integers(0, 6), min_size=1, max_size=4))
    def answers_will_be_slow(self, turns: list[int]) -> None:
        self.held.turns.extend(turns)

    @rule(count=st.integers(1, 8))
    def time_passes(self, count: int) -> None:
        self.turns(count)

    @rule()
    def the_log_is_lost(self) -> None:
        self.shared.clear()

    @rule(
        target=subscribers,
        since=st.one_of(st.none(), st.just("start"), positions),
        turns=st.integers(0, 3),
    )
    def join(self, since: Since, turns: int) -> Subscriber:
        async def go() -> Subscriber:
            return Subscriber(self.fanout, since)

        subscriber = self.loop.run_until_complete(go())
        self.all.append(subscriber)
        self.turns(turns)
        return subscriber

    @rule(target=positions, subscriber=subscribers)
    def remember_where_it_is(self, subscriber: Subscriber) -> object:
        return multiple() if subscriber.reader.at is None else subscriber.reader.at

    @rule(subscriber=subscribers)
    def a_reader_stalls(self, subscriber: Subscriber) -> None:
        subscriber.reader.stall()

    @rule(subscriber=subscribers)
    def a_reader_reads_on(self, subscriber: Subscriber) -> None:
        subscriber.reader.read_on()

    @rule(subscriber=consumes(subscribers))
    def a_reader_leaves(self, subscriber: Subscriber) -> None:
        self.inside(lambda: subscriber.reader.leave(self.fanout))

    @rule(subscriber=consumes(subscribers))
    def a_connection_breaks(self, subscriber: Subscriber) -> None:
        self.inside(lambda: subscriber.reader.leave(self.fanout))
        subscriber.task.cancel()

    @rule(subscriber=subscribers)
    def the_next_delivery_is_its_last(self, subscriber: Subscriber) -> None:
        subscriber.reader.on_deliver = lambda: subscriber.reader.leave(self.fanout)

    # --- what must hold ---

    @invariant()
    def nothing_wrong_was_delivered(self) -> None:
        for subscriber in self.all:
            assert subscriber.reader.faults == []
        assert self.problems == []

    def teardown(self) -> None:
        try:
            self.everything_comes_to_rest()
        finally:
            for subscriber in self.all:
                subscriber.task.cancel()
            self.loop.run_until_complete(self.fanout.close())
            self.turns(3)
            self.loop.close()

    def everything_comes_to_rest(self) -> None:
        for subscriber in self.all:
            subscriber.reader.read_on()
        self.held.hold = False
        self.inside(self.held.release)
        if self.dropped:
            self.inside(self.held.repair)
        self.turns(QUIET)
        log = self.loop.run_until_complete(self.publisher.read(CHANNEL, 0, 0))
        for subscriber in self.all:
            assert subscriber.reader.faults == []
            if subscriber.alive:
                assert subscriber.task.done(), "a join that never ends"
                at = Position(log.epoch, log.last)
                if subscriber.reader.at != at:
                    # Only a lost log that nobody has written to since may go unnoticed.
                    assert subscriber.reader.at is not None
                    assert (log.last, subscriber.reader.at.epoch == log.epoch) == (0, False)
        assert self.problems == []
        self._nobody_is_left()

    def _nobody_is_left(self) -> None:
        for subscriber in self.all:
            self.inside(partial(subscriber.reader.leave, self.fanout))
        self.turns(QUIET)
        assert (self.fanout._channels, self.fanout._closing) == ({}, {})
        assert not self.fanout._tasks
        assert self.shared.sinks == {}


TestFanout = FanoutMachine.TestCase
TestFanout.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
