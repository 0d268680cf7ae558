"""The orchestrator: what was asked for, durably, and the run's way through its states.

Every change of a run's state is here, as one transaction that compares the state it expects. The
queue is a hint to workers; the rows are the truth, and a sweep finds what a lost hint forgot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import orjson
from sqlalchemy import and_, bindparam, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from hub.agents import rows
from hub.agents.generation import GENERATION_STEPS, Output
from hub.agents.run_state import ACTIVE, TERMINAL, RunEvent, RunStatus, advance
from hub.agents.spending import Spending
from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.ids import new_id
from hub.limits.quotas import Allowance, Quotas
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.padding import padded
from hub.storage.scope import EVERY_TENANT, prebuilt
from hub.storage.tables import Conversation, Message, Run, Tenant, Usage, now
from hub.storage.tenant_settings import parsed

RUN_QUEUE: Final = "runs"
RUN_CONTROL: Final = "runs"
MAX_WAITING: Final = 20
"""Runs of one conversation that may be queued or run; a ``message.send`` that would add another
is answered busy. One that was asked to cancel is not counted: it needs no model any more, and an
``interrupt`` of a full queue puts its own run in that place.
"""

_FOR_NOW: Final = ("conversation_busy", "quota_exceeded")
"""Why a message is refused that may have been accepted before."""

OnBusy = Literal["queue", "reject", "interrupt", "steer"]


@dataclass(frozen=True)
class Sent:
    message_id: str
    run_id: str


@dataclass(frozen=True)
class Assignment:
    """A run that a worker is to drive: its row, and what it needs to know of the conversation.

    ``default_model``: of the tenant, for a run and a conversation that name none.
    ``answers_since``: since when the tenant takes answers that were given before; None: not.
    ``announce_only``: it has ended already, but its terminal event is not in the log.
    """

    run: Run
    conversation: Conversation
    history: tuple[Message, ...] = ()
    usage: tuple[Usage, ...] = ()
    announce_only: bool = False
    default_model: str | None = None
    answers_since: str | None = None


def queue_item(tenant_id: str, conversation_id: str) -> str:
    return f"{tenant_id}/{conversation_id}"


_DUE: Final = prebuilt(
    select(Run, Conversation, Tenant.settings, Tenant.updated_at)
    .join(Conversation, col(Conversation.id) == col(Run.conversation_id))
    .join(Tenant, col(Tenant.id) == col(Run.tenant_id))
    .where(
        col(Run.conversation_id) == bindparam("conversation"),
        col(Run.id).not_in(bindparam("skip", expanding=True)),
        or_(col(Run.status).in_(ACTIVE), col(Run.announced).is_(False)),
    )
    .order_by(col(Run.turn))
    .limit(1)
    .with_for_update(of=Run)
)


class Orchestrator:
    """Accepts messages and cancels; hands runs to workers and takes their results."""

    def __init__(
        self, database: Database, backplane: Backplane, quotas: Quotas | None = None
    ) -> None:
        self._database = database
        self._backplane = backplane
        self._spending = Spending(quotas)

    # --- what callers ask ---

    async def send(
        self,
        actor: Actor,
        conversation_id: str,
        client_message_id: str,
        content: str,
        *,
        model: str | None,
        on_busy: OnBusy,
    ) -> Sent:
        """Keep a message and the run that is to answer it; both are durable on return.

        The same ``client_message_id`` again gives the same answer. Raises Fault not_found,
        conversation_busy, quota_exceeded, conflict (the same ``client_message_id`` with other
        content, or of somebody else).
        """
        allowance = await self._spending.allowance(actor)
        message = Message(
            id=new_id("m"),
            tenant_id=actor.tenant_id,
            conversation_id=conversation_id,
            turn=0,
            step=0,
            role="user",
            content=content,
            author_id=actor.user_id,
            client_message_id=client_message_id,
        )
        try:
            sent, cancelled = await self._accept(actor, message, model, on_busy, allowance)
        except (IntegrityError, Fault) as refusal:
            if isinstance(refusal, Fault) and refusal.reason not in _FOR_NOW:
                raise
            # Looked up only now: hardly any message is sent twice.
            known = await self._sent_before(message)
            if known is None:
                self._spending.refused(refusal)
                raise
            return known
        for other in cancelled:
            await self._tell_cancelled(other)
        await self._hint(actor.tenant_id, conversation_id)
        return sent

    async def _accept(
        self,
        actor: Actor,
        message: Message,
        model: str | None,
        on_busy: OnBusy,
        allowance: Allowance | None,
    ) -> tuple[Sent, Sequence[Run]]:
        """Keep the message and its run; what they are, and the runs that were cancelled for it.

        Raises IntegrityError for a ``client_message_id`` that the conversation has.
        """
        cancelled: Sequence[Run] = ()
        async with self._database.write(actor.tenant_id) as session:
            message.turn = await rows.next_turn(session, message.conversation_id)
            active = await rows.active(session, message.conversation_id)
            if active and on_busy == "reject":
                raise Fault("conversation_busy", "A run is active in this conversation.")
            if on_busy == "interrupt":
                # The current run only; what others have queued behind it is still wanted.
                cancelled = await rows.cancel(session, active[:1])
            running = next((run for run in active if run.status == RunStatus.RUNNING), None)
            if on_busy == "steer" and running is not None and not running.cancel_requested:
                message.turn = running.turn
                message.step = await rows.steering_step(session, running)
                message.run_id = running.id
                running.reservation = await self._spending.reserve(
                    session, allowance, message, running.model, onto=running
                )
                session.add_all([message, running])
                return Sent(message.id, running.id), ()
            wanted = [r for r in active if r.status in ACTIVE and not r.cancel_requested]
            if len(wanted) >= MAX_WAITING:
                raise Fault("conversation_busy", f"{MAX_WAITING} runs wait in it already.")
            run = Run(
                id=new_id("r"),
                tenant_id=actor.tenant_id,
                conversation_id=message.conversation_id,
                user_id=actor.user_id,
                session_id=actor.session_id,
                message_id=message.id,
                turn=message.turn,
                model=model,
            )
            message.run_id = run.id
            run.reservation = await self._spending.reserve(
                session, allowance, message, model, instead_of=cancelled
            )
            session.add_all([message, run])
        return Sent(message.id, run.id), cancelled

    async def _sent_before(self, message: Message) -> Sent | None:
        """What was answered to the ``client_message_id``, if it is known.

        Raises Fault("conflict") if it was another message.
        """
        name = message.client_message_id
        assert name is not None
        async with self._database.read(message.tenant_id) as session:
            known = await rows.known(session, message.conversation_id, name)
        if known is not None and (known.author_id, known.content) != (
            message.author_id,
            message.content,
        ):
            raise Fault(
                "conflict", "This client_message_id was used for another message; use a new one."
            )
        return None if known is None else Sent(known.id, known.run_id or "")

    async def cancel(self, tenant_id: str, run_id: str) -> Run:
        """End a run; what it has said so far is kept. One that has ended is left as it is.

        Raises Fault not_found.
        """
        async with self._database.write(tenant_id) as session:
            run = await session.get(Run, run_id, with_for_update=True)
            if run is None:
                raise Fault("not_found")
            changed = await rows.cancel(session, [run])
            if changed and run.status == RunStatus.CANCELLED:
                await self._spending.settle(session, run.id, run.reservation)
        if changed:
            await self._tell_cancelled(run)
        return run

    async def _tell_cancelled(self, run: Run) -> None:
        """Tell the worker at once; if that fails it learns of it at its next sweep."""
        try:
            await self._backplane.publish(RUN_CONTROL, orjson.dumps({"cancel": run.id}))
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise
        if run.status == RunStatus.CANCELLED:
            await self._hint(run.tenant_id, run.conversation_id)

    async def _hint(self, tenant_id: str, conversation_id: str) -> None:
        """Tell workers that a conversation has work. A lost hint is found by their sweep."""
        try:
            await self._backplane.enqueue(RUN_QUEUE, queue_item(tenant_id, conversation_id))
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise

    # --- what workers ask ---

    async def next_assignment(
        self, tenant_id: str, conversation_id: str, *, skip: Sequence[str] = ()
    ) -> Assignment | None:
        """The conversation's oldest run that needs a worker, begun; None if there is none.

        ``skip``: runs that the caller has driven to their end, which the row may not say yet.

        The caller holds the conversation's lease, so a run that is ``running`` has lost its
        worker, and is begun again as the next attempt.
        """
        async with self._database.write(tenant_id) as session:
            found = (
                await session.exec(
                    _DUE, params={"conversation": conversation_id, "skip": padded(skip)}
                )
            ).first()
            if found is None:
                return None
            run, conversation, settled, settled_at = found
            ended = RunStatus(run.status).terminal
            # Of one that nobody has begun yet there is none.
            usage = await rows.usage(session, run.id) if ended or run.attempt else ()
            if ended:
                message = await session.get(Message, run.message_id)
                asked = () if message is None else (message,)
                return Assignment(run, conversation, asked, usage, announce_only=True)
            event = RunEvent.TAKEN_OVER if run.status == RunStatus.RUNNING else RunEvent.BEGUN
            run.status = advance(run.status, event)
            run.attempt += 1
            run.started_at = run.started_at or now()
            session.add(run)
            history = await rows.history(session, run)
        settings = parsed(settled)
        return Assignment(
            run,
            conversation,
            history,
            usage,
            default_model=settings.default_model,
            answers_since=settled_at.isoformat() if settings.answer_cache else None,
        )

    async def steering(self, run: Run, generation: int) -> tuple[Message, ...]:
        """The messages that were sent to steer this generation of the run, oldest first."""
        low = generation * GENERATION_STEPS + 1
        async with self._database.read(run.tenant_id) as session:
            found = await session.exec(
                select(Message)
                .where(
                    col(Message.conversation_id) == run.conversation_id,
                    col(Message.turn) == run.turn,
                    col(Message.step) > low,
                    col(Message.step) < low + GENERATION_STEPS,
                    col(Message.role) == "user",
                )
                .order_by(col(Message.step))
            )
            return tuple(found.all())

    async def keep(self, run: Run, output: Output, usage: Usage | None) -> None:
        """Keep a generation's message, and what it used, while the run goes on. Raises LeaseLost if
        it is not ours.
        """
        async with self._database.write(run.tenant_id) as session:
            await rows.holds(session, run)
            session.add(rows.message_of(run, output))
            self._spending.used(session, usage)

    async def count_lost(self, run: Run, usage: Usage) -> bool:
        """Count what a lost worker has used for the run; whether nobody had. Raises LeaseLost if it
        is not ours.
        """
        async with self._database.write(run.tenant_id) as session:
            await rows.holds(session, run)
            if await session.get(Usage, usage.id) is not None:
                return False
            self._spending.used(session, usage)
        return True

    async def finish(
        self,
        run: Run,
        event: RunEvent,
        *,
        output: Output | None,
        usage: Usage | None,
        fault: Fault | None,
    ) -> bool:
        """End a run, with its message and usage, in one transaction.

        Answers False, and changes nothing, when a success came too late to see messages that were
        sent to steer it: then another generation is due. Raises LeaseLost if the run has ended or
        belongs to another attempt.
        """
        async with self._database.write(run.tenant_id) as session:
            if event is RunEvent.FINISHED and output is not None:
                if not self._database.embedded:  # SQLite has one writer at a time anyway
                    await rows.hold(session, run.conversation_id)
                last = await rows.last_step(session, run)
                if last > output.generation * GENERATION_STEPS + 1:
                    return False
            # What the row says is reserved: the run may have been steered since it was begun.
            reservation = await rows.end(session, run, event, fault)
            if output is not None:
                session.add(rows.message_of(run, output))
            self._spending.used(session, usage)
            await self._spending.settle(session, run.id, reservation)
        return True

    async def cancel_requested(self, run_ids: Sequence[str]) -> set[str]:
        """Which of these runs' cancels were asked for, should the word of it have been lost."""
        async with self._database.read(EVERY_TENANT) as session:
            statement = select(Run.id).where(
                col(Run.id).in_(padded(run_ids)), col(Run.cancel_requested).is_(True)
            )
            return set((await session.exec(statement)).all())

    async def announced(self, run_ids: Sequence[str]) -> None:
        """Note that these runs' terminal events are in their logs."""
        async with self._database.write(EVERY_TENANT) as session:
            await session.exec(
                update(Run)
                .where(col(Run.id).in_(padded(run_ids)))
                # A note among workers, by which the run is no other than it was.
                .values(announced=True, updated_at=col(Run.updated_at))
            )

    async def unattended(self, after: str = "", limit: int = 500) -> list[tuple[str, str]]:
        """Conversations (tenant, conversation) with a run that may need a worker: up to ``limit``
        of them, in the order of their ids, after the conversation ``after``.
        """
        settled = now() - timedelta(seconds=3)
        async with self._database.read(EVERY_TENANT) as session:
            found = await session.exec(
                select(Run.tenant_id, Run.conversation_id)
                .where(
                    or_(
                        col(Run.status).in_(ACTIVE),
                        and_(
                            col(Run.status).in_(TERMINAL),
                            col(Run.announced).is_(False),
                            col(Run.finished_at) < settled,
                        ),
                    )
                )
                .where(col(Run.conversation_id) > after)
                .distinct()
                .order_by(col(Run.conversation_id))
                .limit(limit)
            )
            return [(tenant_id, conversation_id) for tenant_id, conversation_id in found.all()]
