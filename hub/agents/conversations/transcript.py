"""A conversation's messages as AG-UI writes them, and a snapshot of them at a position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from sqlmodel import col, select

from hub.backplane.interface import Backplane, Position
from hub.events.fold import OpenMessage, Progress, fold
from hub.events.vocabulary import Message, messages_snapshot
from hub.faults import Fault
from hub.storage import tables
from hub.storage.database import Database

SNAPSHOT_BYTES: Final = 256 * 1024
"""A snapshot holds the newest messages whose contents come to no more than this."""

SNAPSHOT_MESSAGES: Final = 500
_TRIES: Final = 10
_PAGE: Final = 500
_DECISIVE: Final = (b'"RUN_STARTED"', b'"RUN_FINISHED"', b'"RUN_ERROR"', b'"MESSAGES_SNAPSHOT"')


@dataclass(frozen=True)
class Snapshot:
    """A ``MESSAGES_SNAPSHOT`` event, and the position of the log that it is the state at."""

    position: Position
    event: dict[str, object]


def as_event_message(row: tables.Message) -> Message:
    """A durable message as AG-UI writes it."""
    message: Message = {"id": row.id, "role": row.role, "content": row.content}
    if not row.complete:
        message["metadata"] = {"complete": False}
    return message


def tell(
    rows: Sequence[tables.Message], run_id: str | None, spoken: Sequence[OpenMessage]
) -> list[Message]:
    """The durable messages, and in their place among them those of the run in progress, ``run_id``,
    as ``spoken`` has them: messages that wait for a run of their own come after it.

    What the run has said already is in the database only in part until it has ended. A message that
    is there is whole, even where the log has no more than its beginning.
    """
    kept = {row.id: row.content for row in rows}
    said = [
        {"id": each.id, "role": each.role, "content": kept.get(each.id, each.text)}
        for each in spoken
    ]
    known = {message.id for message in spoken}
    messages: list[Message] = []
    for row in rows:
        if row.run_id != run_id or run_id is None:
            messages.append(as_event_message(row))
        elif row.role == "user" and row.id not in known:
            messages.append(as_event_message(row))
            if row.step == 0:  # the question; what steers the run comes after what was said
                messages += said
                said = []
    return [*messages, *said]


class Transcript:
    """Reads conversations whole: from the database and, for the run in progress, from the log."""

    def __init__(self, database: Database, backplane: Backplane) -> None:
        self._database = database
        self._backplane = backplane

    async def durable(self, tenant_id: str, conversation_id: str) -> list[tables.Message]:
        """The newest durable messages, oldest first, within the limits of a snapshot."""
        async with self._database.read(tenant_id) as session:
            rows = (
                await session.exec(
                    select(tables.Message)
                    .where(col(tables.Message.conversation_id) == conversation_id)
                    .order_by(col(tables.Message.turn).desc(), col(tables.Message.step).desc())
                    .limit(SNAPSHOT_MESSAGES)
                )
            ).all()
        size = 0
        kept: list[tables.Message] = []
        for row in rows:
            size += len(orjson.dumps(row.content))  # as it goes over the wire
            if size > SNAPSHOT_BYTES and kept:
                break
            kept.append(row)
        return kept[::-1]

    async def snapshot(self, tenant_id: str, conversation_id: str) -> Snapshot:
        """The conversation's messages, and the position at which exactly these are its state.

        The log is folded up to a position, then the database is read, then the log is looked at
        again: if a run began or ended meanwhile, the two may not agree, and it is done again.
        Raises Fault("backend_unavailable") if that never settles.
        """
        channel = f"conversation:{conversation_id}"
        for _ in range(_TRIES):
            progress, at = await self.progress(channel)
            rows = await self.durable(tenant_id, conversation_id)
            tail = await self._backplane.read(channel, at.seq, _PAGE)
            moved = tail.epoch != at.epoch or tail.last - at.seq > len(tail.entries)
            if not moved and not any(
                mark in entry.data for entry in tail.entries for mark in _DECISIVE
            ):
                return Snapshot(at, messages_snapshot(_told(rows, progress)))
        raise Fault("backend_unavailable", "The conversation changes too fast; try again.")

    async def progress(self, channel: str) -> tuple[Progress, Position]:
        """What the channel's log amounts to, and where it ended when it was read."""
        progress, at = Progress(), Position("", 0)
        while True:
            page = await self._backplane.read(channel, at.seq, _PAGE)
            if page.epoch != at.epoch and at.seq:  # another log, of which this is not the beginning
                progress, at = Progress(), Position("", 0)
                continue
            if page.first > at.seq + 1:  # trimmed past what was read
                progress = Progress()
            fold((entry.data for entry in page.entries), progress)
            at = Position(page.epoch, page.entries[-1].seq if page.entries else page.last)
            if at.seq >= page.last:
                return progress, at


def _told(rows: Sequence[tables.Message], progress: Progress) -> list[Message]:
    return tell(rows, progress.run_id, tuple(progress.messages.values()))
