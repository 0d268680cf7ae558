"""Two nodes, a run whose model says what it is told to, and clients that resume at either node."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle
from typing import Any, cast

import orjson

from hub.agents.answers import Answers
from hub.agents.conversations.transcript import Transcript
from hub.agents.orchestrator import Orchestrator
from hub.agents.permission import Asker
from hub.agents.runner import Runner
from hub.backplane.interface import Backplane, Lease, LeaseLost, Position
from hub.events.delivery import Delivery
from hub.events.fanout import Fanout
from hub.events.outbox import FlushScheduler, Outbox
from hub.events.position import Since
from hub.faults import Fault
from hub.ids import new_id
from hub.inference.catalogue import Catalogue
from hub.inference.interface import (
    ChatDone,
    ChatPart,
    ChatRequest,
    ModelInfo,
    ReasoningDelta,
    TextDelta,
)
from hub.operations import joining
from hub.protocol.rfc6455 import payloads
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Tenant, User
from hub.telemetry.metrics import Metrics
from hub.transports.subscriptions import Subscriptions
from tests.agents.agui import Reading
from tests.events.test_outbox import Pipe

LEASE_S = 9.0
OUTBOX = 2_500
"""So small that a stalled reader's deltas are joined, and that it is given up for a long text."""
KEEP_S = 0.05
SETTLED_S = 20.0
AGAIN_S = 0.005
"""How soon a worker tries again that could not work."""


@dataclass(frozen=True)
class House:
    """A tenant, its one user, and that user's conversation, in which nothing was said."""

    tenant: str
    user: str
    conversation: str


async def begin_house(database: Database, name: str) -> House:
    house = House(new_id("t"), new_id("u"), new_id("c"))
    async with database.write(EVERY_TENANT) as session:
        session.add(Tenant(id=house.tenant, name=name))
        session.add(User(id=house.user, email=f"{house.user.lower()}@hub.example"))
        await session.flush()
        session.add(
            Conversation(id=house.conversation, tenant_id=house.tenant, owner_id=house.user)
        )
    return house


class Dictation:
    """One answer: its words so far, spoken or thought, and whether it is whole."""

    def __init__(self) -> None:
        self.words: list[TextDelta | ReasoningDelta] = []
        self.whole = False
        self.told = 0  # to whom was told most of it
        self.more = asyncio.Event()

    @property
    def spoken(self) -> list[str]:
        return [word.text for word in self.words if isinstance(word, TextDelta)]


class Dictated:
    """A catalogue of one model, which answers a question as it is told to, again if asked again."""

    provider = "dictated"

    def __init__(self) -> None:
        self.answers: defaultdict[str, Dictation] = defaultdict(Dictation)

    async def resolve(self, wanted: str | None) -> ModelInfo:
        return ModelInfo("dictated", self.provider, 8_192)

    def client(self) -> "Dictated":
        return self

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatPart, None]:
        answer = self.answers[request.messages[-1].content]
        answer.told = 0
        while not (answer.whole and answer.told == len(answer.words)):
            if answer.told == len(answer.words):
                answer.more.clear()
                await answer.more.wait()
                continue
            answer.told += 1
            for _ in range(4):  # or the pen would join them, and nobody else could
                await asyncio.sleep(0)
            yield answer.words[answer.told - 1]
        yield ChatDone("stop", 1, 1)


class Always:
    """Permits everything."""

    async def may_go_on(self, asker: Asker) -> bool:
        return True

    def watch(self, asker: Asker, doubt: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@dataclass
class Node:
    backplane: Backplane
    fanout: Fanout
    transcript: Transcript
    scheduler: FlushScheduler


class Talk:
    """One conversation on two nodes, and who drives its runs."""

    def __init__(
        self, database: Database, backplanes: tuple[Backplane, Backplane], house: House
    ) -> None:
        self.house = house
        self.channel = f"conversation:{house.conversation}"
        self.metrics = Metrics()
        self.joined = 0
        self.nodes = [
            Node(
                each,
                Fanout(each, self.metrics, scheduler),
                Transcript(database, each),
                scheduler,
            )
            for each in backplanes
            for scheduler in (self._scheduler(),)
        ]
        self.model = Dictated()
        self.orchestrator = Orchestrator(database, backplanes[0])
        self.tabs: list[Tab] = []
        self.losses = 0
        self.talking = False
        self._sent = 0
        self._driven = 0
        self.at_work: Node | None = None
        """Where a run is under way, as far as is known."""
        self._work = asyncio.Event()
        self._driver = asyncio.create_task(self._drive())

    def _scheduler(self) -> FlushScheduler:
        def count(joined: int) -> None:
            self.joined += joined

        return FlushScheduler(count)

    async def say(self, words: list[str], *, thinking: bool = False) -> None:
        """Let the model say words, or think them, in a run that is begun if there is none."""
        if not self.talking:
            self.talking = True
            self._sent += 1
            user = Actor(self.house.user, self.house.tenant, "", (), frozenset())
            await self.orchestrator.send(
                user,
                self.house.conversation,
                f"message {self._sent}",
                f"question {self._sent}",
                model=None,
                on_busy="queue",
            )
            self._work.set()
        self._answer.words += map(ReasoningDelta if thinking else TextDelta, words)
        self._answer.more.set()

    def finish(self) -> None:
        """Let the model end its answer."""
        if self.talking:
            self.talking = False
            self._answer.whole = True
            self._answer.more.set()

    @property
    def _answer(self) -> Dictation:
        return self.model.answers[f"question {self._sent}"]

    @property
    def _quiet(self) -> bool:
        """Whether all that was to be said is said, and every run but the one in progress ended."""
        answer = self._answer
        if self.talking:
            return self._driven == self._sent - 1 and answer.told == len(answer.words)
        return self._driven == self._sent

    async def _drive(self) -> None:
        """As workers do, one on each node in turn, which lose their leases with the log."""
        nodes, done = cycle(self.nodes), list[str]()
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                idle = await self._drive_at(next(nodes), done)
            except Fault:  # Redis is away
                idle = False
            self.at_work = None
            if not idle:
                self._work.set()
                await asyncio.sleep(AGAIN_S)

    async def _drive_at(self, node: Node, done: list[str]) -> bool:
        """Drive the runs at a node; False if there is more to do, but not here and now."""
        lease = await node.backplane.acquire(self.channel, LEASE_S)
        if lease is None:
            return False
        try:
            while True:
                assignment = await self.orchestrator.next_assignment(
                    self.house.tenant, self.house.conversation, skip=done
                )
                if assignment is None:
                    return True
                runner = Runner(
                    assignment,
                    lease,
                    orchestrator=self.orchestrator,
                    transcript=node.transcript,
                    catalogue=cast(Catalogue, self.model),
                    backplane=node.backplane,
                    metrics=self.metrics,
                    permits=Always(),
                    answers=Answers(node.backplane, self.metrics, 0),
                )
                self.at_work = node
                keeper = asyncio.create_task(_keep(node, lease, runner))
                try:
                    driven = await runner.drive()
                finally:
                    keeper.cancel()
                if not driven:
                    return False  # the lease is lost, as it is with the log
                if not runner.shared:
                    return False  # its end is to be said again where all can read it
                done.append(runner.run_id)
                self._driven += 1
                await self.orchestrator.announced([runner.run_id])
        finally:
            with suppress(Fault):
                await node.backplane.release(lease)

    async def told(self) -> None:
        """Let the model say what it is to say; not if it cannot, in a while."""
        for _ in range(100):
            if self._answer.told == len(self._answer.words):
                break
            await asyncio.sleep(0.001)

    async def settle(self) -> None:
        """Wait until every client that reads has read all there is."""
        async with asyncio.timeout(SETTLED_S):
            while True:  # until the time is up
                await self._pause()
                with suppress(Fault):
                    log = await self.nodes[0].backplane.read(self.channel, 0, 0)
                    if not self._quiet:
                        continue
                    for tab in self.tabs:
                        await tab.go_on()
                    if log != await self.nodes[1].backplane.read(self.channel, 0, 0):
                        continue
                    if all(tab.at == Position(log.epoch, log.last) for tab in self.tabs):
                        return

    async def _pause(self) -> None:
        await asyncio.sleep(0.002)
        if self._driver.done():
            self._driver.result()

    async def state(self, node: Node) -> dict[str, str]:
        """The messages as somebody finds them who comes only now, where all the others are."""
        async with asyncio.timeout(SETTLED_S):
            while True:
                await self.settle()
                texts = await self._found(node, self.tabs)
                if texts is not None:
                    return texts

    async def apart(self, node: Node) -> tuple[list["Tab"], dict[str, str]]:
        """While the node of the run is cut off from Redis: those who read there, when they have
        read all that was said, and the messages as somebody finds them there who comes only now.
        """
        async with asyncio.timeout(SETTLED_S):
            while True:
                await self._pause()
                here = [tab for tab in self.tabs if tab.node is node]
                with suppress(Fault):
                    for tab in here:
                        await tab.go_on()
                    texts = await self._found(node, here)
                    if texts is not None:
                        return here, texts

    async def _found(self, node: Node, tabs: list["Tab"]) -> dict[str, str] | None:
        """The messages as they are found at a node, once all is there that the model has said, and
        these clients are there.
        """
        taken = await node.transcript.snapshot(self.house.tenant, self.house.conversation)
        texts = Reading(cast(dict[str, Any], taken.event)).texts
        all_said = "".join(self._answer.spoken) in texts.values()
        there = all(tab.at == taken.position for tab in tabs)
        return texts if all_said and there else None

    async def close(self) -> None:
        self._driver.cancel()
        for tab in self.tabs:
            tab.leave()
        await asyncio.gather(
            self._driver, *(tab.following for tab in self.tabs), return_exceptions=True
        )
        for node in self.nodes:
            await node.fanout.close()


async def _keep(node: Node, lease: Lease, runner: Runner) -> None:
    """Renew a run's lease, as its worker does, and stop the run when it is lost."""
    while True:
        await asyncio.sleep(KEEP_S)
        try:
            await node.backplane.renew(lease, LEASE_S)
        except LeaseLost:
            runner.lose_lease()
            return
        except Fault:
            continue


async def _allowed(channel: str) -> None:
    """Whoever is here may be here."""


class Tab:
    """A client with one subscription: what it has read, assembled.

    ``reading`` is None while it cannot know the whole state. One that came ``late``, with no
    position, has looked for the state beside what it is told, as it was ``found`` at some position.
    """

    def __init__(self, talk: Talk, node: Node) -> None:
        self.talk = talk
        self.node = node
        self.at = Position("", 0)
        self.reading: Reading | None = None
        self.found = Position("", 0)
        self.late = False
        self.largest = 1
        self._open()

    def _open(self) -> None:
        self.pipe = Pipe()
        self.over: str | None = None
        self.stalled = False
        self.following: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(0))
        self.outbox = Outbox(self.pipe, self.node.scheduler, self, OUTBOX)
        self.subscriptions = Subscriptions(self.node.fanout, self, self._told, self.outbox.forget)

    # --- Reader ---

    @property
    def write(self) -> Callable[[bytes], object] | None:
        return self.outbox.write

    def deliver(self, delivery: Delivery) -> None:
        self.outbox.deliver(delivery)

    async def room(self) -> None:
        await self.outbox.room()

    def ended(self, channel: str, reason: str) -> None:
        self.subscriptions.ended(channel, reason)

    # --- the outbox's owner ---

    def overflowed(self) -> None:
        self.over = "too_slow"

    def failed(self) -> None:
        raise AssertionError("a pipe takes everything")

    def turned(self) -> None:
        self.subscriptions.turned()

    # --- what a client does ---

    def _told(self, channel: str, reason: str) -> None:
        self.over = reason

    async def begin(self, since: Since) -> "Tab":
        try:
            await self._begin(since)
        except Fault as fault:  # Redis is away: it comes back later
            self.leave()
            self.over = fault.reason
        return self

    async def _begin(self, since: Since) -> None:
        talk, node = self.talk, self.node
        join, snapshot = await joining.begin(
            node.fanout,
            node.transcript,
            self,
            channel=talk.channel,
            tenant_id=talk.house.tenant,
            since=since,
        )
        self.subscriptions.add(talk.channel, join, None)
        if snapshot is not None:
            self._know(Reading(dict(snapshot)), late=False)
        elif since == "start" and not talk.losses:
            self._know(Reading(), late=False)
        self.at = join.position
        self.following = asyncio.create_task(
            self.subscriptions.follow(talk.channel, join, _allowed)
        )
        if since is None:
            taken = await node.transcript.snapshot(talk.house.tenant, talk.house.conversation)
            if taken.position.epoch == join.position.epoch:
                self._know(Reading(cast(dict[str, Any], taken.event)), late=True)
                self.found = taken.position

    def _know(self, reading: Reading | None, *, late: bool) -> None:
        self.reading, self.late, self.found = reading, late, Position("", 0)

    def read(self) -> None:
        """Take in what has come."""
        data = b"".join(self.pipe.written)
        self.pipe.written.clear()
        for payload in payloads(data):
            params = orjson.loads(payload)["params"]
            span = params.get("span", 1)
            before = self.at
            assert params["epoch"] == before.epoch
            assert params["seq"] - span == before.seq, "a gap or a repeat"
            self.at = Position(params["epoch"], params["seq"])
            self.largest = max(self.largest, span)
            self._take(params["event"], before)

    def _take(self, event: dict[str, Any], before: Position) -> None:
        if event["type"] == "MESSAGES_SNAPSHOT" and self.reading is None:
            self._know(Reading(event), late=False)
        elif self.reading is not None and self.found <= before:
            mine = self.reading.texts
            self.reading.feed(event)
            if event["type"] == "MESSAGES_SNAPSHOT":  # it says again what was assembled
                again = self.reading.texts
                assert all(again[each].startswith(mine[each]) for each in mine.keys() & again)
        elif self.found < self.at:  # part of it is in the state that was found, and part is not
            self._know(None, late=False)

    def stall(self) -> None:
        """Read nothing: the transport is full."""
        if not self.stalled:
            self.stalled = True
            self.pipe.fill()

    def read_on(self) -> None:
        if self.stalled:
            self.stalled = False
            self.pipe.drained()

    def leave(self) -> None:
        self.outbox.close()
        self.subscriptions.drop(self.talk.channel)

    async def reconnect(self, node: Node) -> None:
        """The connection breaks, and what was on its way is lost; it comes back at a node."""
        self.leave()
        self.node = node
        self._open()
        await self.begin(self.at)

    async def go_on(self) -> None:
        """Read, and come back where the hub has ended the subscription."""
        self.read_on()
        self.read()
        if self.following.done() and not self.following.cancelled():
            self.following.result()
        if self.over is not None:
            await self.reconnect(self.node)

    def copy(self, node: Node) -> "Tab":
        """Another client that stands where this one does."""
        other = Tab(self.talk, node)
        other.at, other.reading = self.at, deepcopy(self.reading)
        other.found, other.late = self.found, self.late
        return other
