"""The erasure of conversations whose owner's account was deleted.

The note of it (``Erasure``) was written with the deletion, so that whatever dies meanwhile, some
node goes on. A conversation where a run is active waits for the run's end, which is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.agents.orchestrator import Orchestrator
from hub.agents.run_state import ACTIVE
from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.rounds import Rounds
from hub.storage.database import Database
from hub.storage.erasing import erase
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Erasure, Run, now
from hub.telemetry.logs import log

LOOK_S: Final = 60.0
"""How often a node looks for what another did not finish."""
BUSY_S: Final = 1.0
"""After which a conversation with an active run is looked at again."""
SETTLED: Final = timedelta(seconds=120)
"""How long a note stays: what was under way when the account was deleted has come to its end."""
BATCH: Final = 50


async def active_runs(session: AsyncSession, conversation_id: str) -> Sequence[str]:
    """The ids of the conversation's runs that have not ended."""
    found = await session.exec(
        select(Run.id).where(
            col(Run.conversation_id) == conversation_id, col(Run.status).in_(ACTIVE)
        )
    )
    return found.all()


async def delete_conversation(session: AsyncSession, conversation_id: str) -> str:
    """Delete a conversation with all that is in it, in the transaction of ``session``, for good;
    whose it was.

    Raises Fault: "not_found", "conversation_busy" while a run is active there.
    """
    row = await session.get(Conversation, conversation_id, with_for_update=True)
    if row is None:
        raise Fault("not_found")
    if await active_runs(session, conversation_id):
        raise Fault("conversation_busy", "A run is active here; cancel it, then delete.")
    await erase(session, Conversation, col(Conversation.id) == conversation_id)
    return row.owner_id


class Erasures:
    """Deletes what is noted. ``await start()`` … ``await close()``."""

    def __init__(
        self,
        database: Database,
        backplane: Backplane,
        orchestrator: Orchestrator,
        gone: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """``gone(conversation_id, tenant_id)`` is told of each conversation that was deleted."""
        self._database = database
        self._backplane = backplane
        self._orchestrator = orchestrator
        self._gone = gone
        self._rounds = Rounds("delete what is to be deleted", self._round, every_s=LOOK_S)

    async def start(self) -> None:
        """Begin to look."""
        self._rounds.start()

    async def close(self) -> None:
        """Stop; what is not done is done by another node, or later. Idempotent."""
        await self._rounds.close()

    def wake(self) -> None:
        """There is something to delete."""
        self._rounds.wake()

    async def _round(self) -> None:
        if await self.sweep():
            asyncio.get_running_loop().call_later(BUSY_S, self._rounds.wake)

    async def sweep(self) -> bool:
        """Delete what is noted; whether something has to wait for the end of a run."""
        async with self._database.read(EVERY_TENANT) as session:
            notes = (await session.exec(select(Erasure).order_by(col(Erasure.id)))).all()
        busy = [note for note in notes if not await self._done(note)]
        return bool(busy)

    async def _done(self, note: Erasure) -> bool:
        done, after = True, ""
        while found := await self._owned(note, after):
            for conversation_id, tenant_id in found:
                after = conversation_id
                done = await self._delete(conversation_id, tenant_id) and done
        if done and note.created_at < now() - SETTLED:
            async with self._database.write(EVERY_TENANT) as session:
                await session.exec(delete(Erasure).where(col(Erasure.id) == note.id))
        return done

    async def _owned(self, note: Erasure, after: str) -> Sequence[tuple[str, str]]:
        owned = (
            select(Conversation.id, Conversation.tenant_id)
            .where(col(Conversation.owner_id) == note.user_id, col(Conversation.id) > after)
            .order_by(col(Conversation.id))
            .limit(BATCH)
        )
        if note.tenant_id is not None:
            owned = owned.where(col(Conversation.tenant_id) == note.tenant_id)
        async with self._database.read(EVERY_TENANT) as session:
            return (await session.exec(owned)).all()

    async def _delete(self, conversation_id: str, tenant_id: str) -> bool:
        """Delete one; False if a run is active there, which is asked to end."""
        try:
            async with self._database.write(tenant_id) as session:
                await delete_conversation(session, conversation_id)
        except Fault as fault:
            if fault.reason == "not_found":
                return True
            if fault.reason != "conversation_busy":
                raise
            async with self._database.read(tenant_id) as session:
                active = await active_runs(session, conversation_id)
            for run_id in active:
                with suppress(Fault):  # it is looked at again
                    await self._orchestrator.cancel(tenant_id, run_id)
            return False
        try:
            await self._gone(conversation_id, tenant_id)
            # What was said is in the log too.
            await self._backplane.discard(f"conversation:{conversation_id}")
        except Fault as fault:
            # It is deleted all the same; other nodes find out.
            log.warning("could not tell of a deleted conversation", why=fault.reason)
        return True
