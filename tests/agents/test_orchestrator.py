"""The rows of runs under transactions that cross, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy import update
from sqlmodel import col

from hub.agents import orchestrator, rows
from hub.agents.conversations.context import MAX_CONTEXT_TOKENS, fit
from hub.agents.generation import Output
from hub.agents.orchestrator import Assignment, OnBusy, Orchestrator, Sent
from hub.agents.run_state import RunEvent
from hub.backplane.interface import LeaseLost
from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.ids import new_id
from hub.inference.interface import ChatMessage
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Message, Run, Tenant, User, now

CROSSING_S = 0.4
"""Long enough for a transaction that does not wait for the other to have ended."""


@dataclass
class Desk:
    """An orchestrator, and one user with one conversation."""

    database: Database
    orchestrator: Orchestrator
    actor: Actor
    conversation: str

    async def send(self, content: str, name: str | None = None, on_busy: OnBusy = "queue") -> Sent:
        return await self.orchestrator.send(
            self.actor,
            self.conversation,
            name or new_id("x"),
            content,
            model=None,
            on_busy=on_busy,
        )

    async def begin(self) -> Assignment:
        assignment = await self.orchestrator.next_assignment(
            self.actor.tenant_id, self.conversation
        )
        assert assignment is not None
        return assignment

    async def finish(
        self, run: Run, text: str = "So.", event: RunEvent = RunEvent.FINISHED, number: int = 0
    ) -> bool:
        output = Output(new_id("m"), text, True, number)
        return await self.orchestrator.finish(run, event, output=output, usage=None, fault=None)

    async def run(self, run_id: str) -> Run:
        async with self.database.read(self.actor.tenant_id) as session:
            row = await session.get(Run, run_id)
        assert row is not None
        return row


@pytest.fixture
async def desk(database: Database) -> Desk:
    actor = Actor(new_id("u"), new_id("t"), new_id("s"), ("owner",), frozenset())
    conversation = new_id("c")
    async with database.write(EVERY_TENANT) as session:
        session.add(Tenant(id=actor.tenant_id, name="Ours"))
        session.add(User(id=actor.user_id, email="ada@hub.example"))
        await session.flush()
        session.add(
            Conversation(id=conversation, tenant_id=actor.tenant_id, owner_id=actor.user_id)
        )
    return Desk(database, Orchestrator(database, MemoryBackplane()), actor, conversation)


async def test_many_that_send_the_same_message_at_once_get_the_same_answer(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.send("Hello", "the one") for _ in range(20)))
    assert len(set(answers)) == 1
    first = await desk.begin()
    assert first.run.id == answers[0].run_id
    assert [message.content for message in first.history] == ["Hello"]


async def test_many_that_send_at_once_are_accepted_in_turn(desk: Desk) -> None:
    await asyncio.gather(*(desk.send(f"number {at}") for at in range(15)))
    seen = []
    for _ in range(15):
        run = (await desk.begin()).run
        seen.append(run.turn)
        assert await desk.finish(run)
        await desk.orchestrator.announced([run.id])
    assert seen == list(range(1, 16))


async def test_a_run_that_was_taken_over_is_ended_by_its_new_worker_alone(desk: Desk) -> None:
    await desk.send("Hello")
    lost = (await desk.begin()).run
    taken = (await desk.begin()).run
    assert (lost.id, lost.attempt, taken.attempt) == (taken.id, 1, 2)
    with pytest.raises(LeaseLost):
        await desk.finish(lost, "late")
    with pytest.raises(LeaseLost):
        await desk.orchestrator.keep(lost, Output(new_id("m"), "late", True, 0), None)
    assert await desk.finish(taken, "in time")
    with pytest.raises(LeaseLost):
        await desk.finish(taken, "twice")
    async with desk.database.read(desk.actor.tenant_id) as session:
        history = await rows.history(session, taken)
    assert [message.content for message in history] == ["Hello", "in time"]


async def test_an_ended_run_is_handed_out_until_its_end_is_announced(desk: Desk) -> None:
    sent = await desk.send("Hello")
    await desk.finish((await desk.begin()).run)
    again = await desk.begin()
    assert (again.run.id, again.announce_only) == (sent.run_id, True)
    await desk.orchestrator.announced([sent.run_id])
    assert await desk.orchestrator.next_assignment(desk.actor.tenant_id, desk.conversation) is None


async def test_a_message_that_steers_in_the_moment_of_the_end_is_not_lost(desk: Desk) -> None:
    await desk.send("Hello")
    run = (await desk.begin()).run
    async with desk.database.write(desk.actor.tenant_id) as session:
        # A message is being accepted to steer the run …
        await rows.next_turn(session, desk.conversation)
        (active,) = await rows.active(session, desk.conversation)
        session.add(
            Message(
                id=new_id("m"),
                tenant_id=desk.actor.tenant_id,
                conversation_id=desk.conversation,
                turn=active.turn,
                step=await rows.steering_step(session, active),
                role="user",
                content="Wait!",
                run_id=active.id,
            )
        )
        await session.flush()
        # … when the run wants to end.
        ending = asyncio.create_task(desk.finish(run))
        await asyncio.wait({ending}, timeout=CROSSING_S)
        assert not ending.done()
    assert await ending is False
    assert [m.content for m in await desk.orchestrator.steering(run, 0)] == ["Wait!"]
    assert (await desk.run(run.id)).status == "running"


async def test_a_generation_is_steered_by_so_many_messages_and_the_run_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_STEERING", 3)
    await desk.send("Hello")
    run = (await desk.begin()).run
    for generation in range(2):
        names = [f"{generation}.{at}" for at in range(3)]
        sent = [await desk.send(name, name, on_busy="steer") for name in names]
        with pytest.raises(Fault) as refused:
            await desk.send("One more", on_busy="steer")
        assert refused.value.reason == "conversation_busy"
        assert await desk.send(names[2], names[2], on_busy="steer") == sent[2]
        assert await desk.finish(run, number=generation) is False
        steering = await desk.orchestrator.steering(run, generation)
        assert [message.content for message in steering] == names
        await desk.orchestrator.keep(run, Output(new_id("m"), "So.", True, generation), None)
    assert await desk.finish(run, number=2)


@pytest.mark.parametrize("begun", [False, True], ids=["queued", "running"])
async def test_a_full_queue_still_takes_an_interrupt_in_the_place_of_what_it_ends(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(orchestrator, "MAX_WAITING", 3)
    first, *_ = [await desk.send(f"number {at}") for at in range(3)]
    if begun:
        await desk.begin()
    with pytest.raises(Fault, match="wait in it already"):
        await desk.send("One more")
    await desk.send("Stop!", on_busy="interrupt")
    ended = await desk.run(first.run_id)
    assert ended.cancel_requested if begun else ended.status == "cancelled"
    with pytest.raises(Fault, match="wait in it already"):
        await desk.send("One more")


async def test_a_full_queue_still_takes_what_steers_its_running_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrator, "MAX_WAITING", 3)
    first, *_ = [await desk.send(f"number {at}") for at in range(3)]
    with pytest.raises(Fault, match="wait in it already"):
        await desk.send("Be brief", on_busy="steer")  # nothing runs yet: it would be queued
    await desk.begin()
    steering = await desk.send("Be brief", on_busy="steer")
    assert steering.run_id == first.run_id


async def test_a_message_that_comes_just_after_the_end_gets_a_run_of_its_own(desk: Desk) -> None:
    first = await desk.send("Hello")
    run = (await desk.begin()).run
    async with desk.database.write(desk.actor.tenant_id) as session:
        await rows.hold(session, desk.conversation)
        await session.exec(
            update(Run)
            .where(col(Run.id) == run.id)
            .values(status="succeeded", finished_at=now(), announced=True)
        )
        sending = asyncio.create_task(desk.send("Wait!", on_busy="steer"))
        await asyncio.wait({sending}, timeout=CROSSING_S)
        assert not sending.done()
    sent = await sending
    assert sent.run_id != first.run_id
    assert (await desk.begin()).run.id == sent.run_id


async def test_a_cancel_that_crosses_a_beginning_is_not_lost(desk: Desk) -> None:
    sent = await desk.send("Hello")
    async with desk.database.write(desk.actor.tenant_id) as session:
        run = await session.get(Run, sent.run_id, with_for_update=True)
        assert run is not None
        run.status, run.attempt, run.started_at = "running", 1, now()
        session.add(run)
        await session.flush()
        cancelling = asyncio.create_task(
            desk.orchestrator.cancel(desk.actor.tenant_id, sent.run_id)
        )
        await asyncio.wait({cancelling}, timeout=CROSSING_S)
        assert not cancelling.done()
    await cancelling
    row = await desk.run(sent.run_id)
    assert (row.status, row.cancel_requested) == ("running", True)
    assert await desk.orchestrator.cancel_requested([row.id]) == {row.id}


async def test_a_beginning_that_crosses_a_cancel_does_not_begin(desk: Desk) -> None:
    sent = await desk.send("Hello")
    async with desk.database.write(desk.actor.tenant_id) as session:
        run = await session.get(Run, sent.run_id, with_for_update=True)
        assert run is not None
        assert await rows.cancel(session, [run]) == [run]
        await session.flush()
        beginning = asyncio.create_task(desk.begin())
        await asyncio.wait({beginning}, timeout=CROSSING_S)
        assert not beginning.done()
    assignment = await beginning
    assert (assignment.announce_only, assignment.run.status) == (True, "cancelled")
    assert (await desk.run(sent.run_id)).status == "cancelled"


async def past(desk: Desk, contents: Sequence[str]) -> None:
    """Messages of turns that have ended, oldest first: a question and its answer each turn."""
    async with desk.database.write(desk.actor.tenant_id) as session:
        for at, content in enumerate(contents):
            turn = at // 2 + 1
            if at % 2 == 0:
                assert await rows.next_turn(session, desk.conversation) == turn
            session.add(
                Message(
                    id=new_id("m"),
                    tenant_id=desk.actor.tenant_id,
                    conversation_id=desk.conversation,
                    turn=turn,
                    step=at % 2,
                    role="assistant" if at % 2 else "user",
                    content=content,
                )
            )


@pytest.mark.parametrize("messages", [0, 30, 32, 150])
async def test_a_conversation_of_short_messages_is_read_whole(desk: Desk, messages: int) -> None:
    contents = [f"number {at}" for at in range(messages)]
    await past(desk, contents)
    await desk.send("And now?")
    history = (await desk.begin()).history
    assert [message.content for message in history] == [*contents, "And now?"]


async def test_no_more_turns_are_read_than_the_limit(desk: Desk) -> None:
    await past(desk, [f"number {at}" for at in range(2 * rows.HISTORY_TURNS + 6)])
    await desk.send("And now?")
    history = (await desk.begin()).history
    assert [message.content for message in history[:2]] == ["number 8", "number 9"]
    assert len(history) == 2 * (rows.HISTORY_TURNS - 1) + 1


@pytest.mark.parametrize("letter", ["x", "語"])
async def test_of_long_messages_no_more_are_read_than_a_prompt_can_hold(
    desk: Desk, letter: str
) -> None:
    long = letter * (3_000 // len(letter.encode()))
    contents = [f"{at:03} {long}" for at in range(100)]
    await past(desk, contents)
    await desk.send("And now?")
    history = [message.content for message in (await desk.begin()).history]
    assert history == [*contents, "And now?"][-len(history) :]
    chat = [ChatMessage("user", content) for content in [*contents, "And now?"]]
    prompt = fit(None, chat, MAX_CONTEXT_TOKENS)
    assert fit(None, chat[-len(history) :], MAX_CONTEXT_TOKENS) == prompt
    assert len(prompt) <= len(history) <= len(prompt) + 3


async def test_a_runs_own_turn_is_read_whole_however_long_it_is(desk: Desk) -> None:
    await past(desk, ["Before", "this"])
    await desk.send("x" * 10_000)
    run = (await desk.begin()).run
    for generation in range(3):
        await desk.send(f"steer {generation}", on_busy="steer")
        output = Output(new_id("m"), "y" * 20_000, True, generation)
        await desk.orchestrator.keep(run, output, None)
    history = (await desk.begin()).history  # taken over: its worker counts what was kept
    assert [message.step for message in history] == [0, 1, 2, 1001, 1002, 2001, 2002]
    assert {message.turn for message in history} == {run.turn}


async def test_the_sweep_sees_every_conversation_page_by_page(desk: Desk) -> None:
    made = sorted(new_id("c") for _ in range(7))
    tenant, user = desk.actor.tenant_id, desk.actor.user_id
    async with desk.database.write(tenant) as session:
        session.add_all(Conversation(id=id, tenant_id=tenant, owner_id=user) for id in made)
    for conversation in made:
        for _ in range(2):
            await desk.orchestrator.send(
                desk.actor, conversation, new_id("x"), "Hello", model=None, on_busy="queue"
            )
    seen: list[str] = []
    while page := await desk.orchestrator.unattended(seen[-1] if seen else "", limit=3):
        assert len(page) <= 3
        seen += [conversation for _, conversation in page]
    assert seen == made
