"""Statements about the rows of runs and messages, each inside the transaction of its caller.

Rows whose state a transaction goes on to change are locked (SQLite has one writer at a time
anyway, and knows no locks of rows); a conversation's row is locked before its runs'.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Integer, bindparam, func, tuple_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.agents.conversations.context import BYTES_PER_TOKEN, MAX_CONTEXT_TOKENS
from hub.agents.generation import GENERATION_STEPS, Output
from hub.agents.run_state import ACTIVE, RunEvent, RunStatus, advance
from hub.backplane.interface import LeaseLost
from hub.faults import Fault
from hub.storage.scope import prebuilt
from hub.storage.tables import Conversation, Message, Run, Usage, now

HISTORY_TURNS: Final = 200
HISTORY_BYTES: Final = MAX_CONTEXT_TOKENS * BYTES_PER_TOKEN
"""What a prompt can hold of a conversation, however long its messages are."""
HISTORY_PAGE: Final = 32
"""Messages that are read of it at once, from the newest; each further page is twice as long."""
MAX_STEERING: Final = 100
"""Messages that may wait to steer one generation of a run; it has ``GENERATION_STEPS`` steps."""

_conversation: BindParameter[str] = bindparam("conversation")
_turn: BindParameter[int] = bindparam("turn")
_NEXT_TURN: Final = prebuilt(
    update(Conversation)
    .where(col(Conversation.id) == _conversation)
    .values(turns=col(Conversation.turns) + 1)
    .returning(col(Conversation.turns))
    .execution_options(synchronize_session=False)
)
_MODEL: Final = prebuilt(select(Conversation.model).where(col(Conversation.id) == _conversation))
_HELD: Final = prebuilt(
    select(Conversation.id)
    .where(col(Conversation.id) == _conversation)
    .with_for_update(key_share=True)
)
_KNOWN: Final = prebuilt(
    select(Message).where(
        col(Message.conversation_id) == _conversation,
        col(Message.client_message_id) == bindparam("name"),
    )
)
_ACTIVE: Final = prebuilt(
    select(Run)
    .where(col(Run.conversation_id) == _conversation, col(Run.status).in_(ACTIVE))
    .order_by(col(Run.turn))
    .with_for_update()
)
_ENDED: Final = prebuilt(
    update(Run)
    .where(
        col(Run.id) == bindparam("run"),
        col(Run.status) == bindparam("from_status"),
        col(Run.attempt) == bindparam("of_attempt"),
    )
    .values(
        status=bindparam("to_status"),
        finished_at=bindparam("ended_at"),
        error_code=bindparam("code"),
        error_message=bindparam("message"),
    )
    .returning(col(Run.reservation))
    .execution_options(synchronize_session=False)
)
_USED: Final = prebuilt(
    select(
        func.sum(col(Usage.input_tokens) + col(Usage.output_tokens)), func.sum(col(Usage.cost))
    ).where(col(Usage.run_id) == bindparam("run"))
)
_LAST_STEP: Final = prebuilt(
    select(func.max(Message.step)).where(
        col(Message.conversation_id) == _conversation, col(Message.turn) == _turn
    )
)
_HISTORY: Final = prebuilt(
    select(Message)
    .where(
        col(Message.conversation_id) == _conversation,
        col(Message.turn) > _turn - HISTORY_TURNS,
        tuple_(col(Message.turn), col(Message.step))
        < tuple_(bindparam("before_turn", type_=Integer), bindparam("before_step", type_=Integer)),
    )
    .order_by(col(Message.turn).desc(), col(Message.step).desc())
    .limit(bindparam("page"))
)


async def next_turn(session: AsyncSession, conversation_id: str) -> int:
    # The update also locks the row, so that messages of one conversation are accepted in turn.
    turn = (
        await session.exec(_NEXT_TURN, params={"conversation": conversation_id})
    ).scalar_one_or_none()
    if turn is None:
        raise Fault("not_found")
    return int(turn)


async def model_of(session: AsyncSession, conversation_id: str) -> str | None:
    """The model that the conversation names."""
    return (await session.exec(_MODEL, params={"conversation": conversation_id})).first()


async def hold(session: AsyncSession, conversation_id: str) -> None:
    """Accept no message into the conversation until the end of this transaction."""
    await session.exec(_HELD, params={"conversation": conversation_id})


async def known(
    session: AsyncSession, conversation_id: str, client_message_id: str
) -> Message | None:
    asked = {"conversation": conversation_id, "name": client_message_id}
    return (await session.exec(_KNOWN, params=asked)).first()


async def active(session: AsyncSession, conversation_id: str) -> Sequence[Run]:
    return (await session.exec(_ACTIVE, params={"conversation": conversation_id})).all()


async def end(session: AsyncSession, run: Run, event: RunEvent, fault: Fault | None) -> str | None:
    """End a run, once; what it had reserved.

    Raises LeaseLost if it has ended, or belongs to another attempt.
    """
    ended = await session.exec(
        _ENDED,
        params={
            "run": run.id,
            "from_status": run.status,
            "of_attempt": run.attempt,
            "to_status": advance(run.status, event),
            "ended_at": now(),
            "code": fault.reason if fault else None,
            "message": fault.message if fault else None,
        },
    )
    row = ended.first()
    if row is None:
        raise LeaseLost(run.id)
    reservation: str | None = row[0]
    return reservation


async def holds(session: AsyncSession, run: Run) -> None:
    """Lock a run's row. Raises LeaseLost if the run is as it is no more: another attempt has it."""
    current = await session.get(Run, run.id, with_for_update=True)
    if current is None or current.status != run.status or current.attempt != run.attempt:
        raise LeaseLost(run.id)


async def usage(session: AsyncSession, run_id: str) -> tuple[Usage, ...]:
    """What the generations of a run have used, in their order."""
    found = select(Usage).where(col(Usage.run_id) == run_id).order_by(col(Usage.id))
    return tuple((await session.exec(found)).all())


async def used(session: AsyncSession, run_id: str) -> tuple[int, int]:
    """The tokens that all generations of a run have used, and what they cost."""
    tokens, cost = (await session.exec(_USED, params={"run": run_id})).one()
    return int(tokens or 0), int(cost or 0)


async def last_step(session: AsyncSession, run: Run) -> int:
    asked = {"conversation": run.conversation_id, "turn": run.turn}
    return int((await session.exec(_LAST_STEP, params=asked)).one() or 0)


async def steering_step(session: AsyncSession, run: Run) -> int:
    """The next step after what the turn has: a generation that is not kept yet comes first.

    Raises Fault("conversation_busy") if ``MAX_STEERING`` messages wait for that generation's end.
    """
    generations = (
        await session.exec(
            select(func.count())
            .select_from(Message)
            .where(
                col(Message.conversation_id) == run.conversation_id,
                col(Message.turn) == run.turn,
                col(Message.role) == "assistant",
            )
        )
    ).one()
    under_way = generations * GENERATION_STEPS + 1
    step = max(under_way, await last_step(session, run)) + 1
    if step - under_way > MAX_STEERING:
        raise Fault("conversation_busy", f"{MAX_STEERING} messages wait to steer its run already.")
    return step


async def cancel(session: AsyncSession, runs: Sequence[Run]) -> list[Run]:
    """Cancel queued runs, and ask for the running one's end; those that were not ended yet."""
    changed = []
    for run in runs:
        if run.status == RunStatus.QUEUED:
            run.status = advance(run.status, RunEvent.CANCELLED)
            run.finished_at = now()
        elif run.status == RunStatus.RUNNING:
            run.cancel_requested = True
        else:
            continue
        session.add(run)
        changed.append(run)
    return changed


async def history(session: AsyncSession, run: Run) -> tuple[Message, ...]:
    """What the run's prompt may be made of: its turn whole, with what it has kept already, and
    the newest messages before it, up to ``HISTORY_BYTES`` and one that goes beyond; oldest first.
    """
    asked: dict[str, Any] = {"conversation": run.conversation_id, "turn": run.turn}
    asked |= {"before_turn": run.turn + 1, "before_step": 0, "page": HISTORY_PAGE}
    found: list[Message] = []
    size = 0
    while True:
        page = (await session.exec(_HISTORY, params=asked)).all()
        for message in page:
            if size > HISTORY_BYTES and message.turn < run.turn:
                return tuple(reversed(found))
            found.append(message)
            size += len(message.content.encode())
        if len(page) < asked["page"]:
            return tuple(reversed(found))
        asked |= {"before_turn": page[-1].turn, "before_step": page[-1].step}
        asked["page"] *= 2


def message_of(run: Run, output: Output) -> Message:
    return Message(
        id=output.message_id,
        tenant_id=run.tenant_id,
        conversation_id=run.conversation_id,
        turn=run.turn,
        step=output.generation * GENERATION_STEPS + 1,
        role="assistant",
        content=output.text,
        run_id=run.id,
        complete=output.complete,
    )
