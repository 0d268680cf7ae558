"""Whose is it? The tenant and owner of what an id or a channel names, for the dispatcher.

Owners do not change, so what was found is remembered; that it still exists is for the handler's own
transaction to see.
"""

from collections import OrderedDict
from typing import Final

from sqlmodel import col, select

from hub.faults import Fault
from hub.ids import is_id
from hub.rbac.decision import Resource
from hub.storage.database import Database
from hub.storage.tables import Conversation, Run

REMEMBERED: Final = 20_000


class Resources:
    """Finds resources by kind and id within a tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[tuple[str, str, str], Resource] = OrderedDict()

    async def find(self, kind: str, identifier: str, tenant_id: str) -> Resource:
        """The resource. Raises Fault not_found: also for one of another tenant."""
        key = (kind, identifier, tenant_id)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        found = await self._look_up(kind, identifier, tenant_id)
        if found is None:
            raise Fault("not_found")
        self._known[key] = found
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def forget(self, kind: str, identifier: str, tenant_id: str) -> None:
        """It was deleted."""
        self._known.pop((kind, identifier, tenant_id), None)

    async def _look_up(self, kind: str, identifier: str, tenant_id: str) -> Resource | None:
        if kind == "channel":
            return await self._channel(identifier, tenant_id)
        if kind == "conversation" and is_id(identifier, "c"):
            return await self._conversation(identifier, tenant_id)
        if kind == "run" and is_id(identifier, "r"):
            async with self._database.read(tenant_id) as session:
                statement = select(Run.conversation_id).where(col(Run.id) == identifier)
                conversation_id = (await session.exec(statement)).first()
            if conversation_id is not None:
                owner = await self._conversation(conversation_id, tenant_id)
                return owner and Resource("run", identifier, tenant_id, owner.owner_id)
        return None

    async def _conversation(self, identifier: str, tenant_id: str) -> Resource | None:
        async with self._database.read(tenant_id) as session:
            statement = select(Conversation.owner_id).where(col(Conversation.id) == identifier)
            owner_id = (await session.exec(statement)).first()
        if owner_id is None:
            return None
        return Resource("conversation", identifier, tenant_id, owner_id)

    async def _channel(self, name: str, tenant_id: str) -> Resource | None:
        """A channel is its subject's: a conversation's, or a user's own."""
        kind, _, identifier = name.partition(":")
        if kind == "conversation" and is_id(identifier, "c"):
            subject = await self._conversation(identifier, tenant_id)
            return subject and Resource("channel", name, tenant_id, subject.owner_id)
        if kind == "user" and is_id(identifier, "u"):
            # Whether that user exists is not told: someone else's channel is not found either way.
            return Resource("channel", name, tenant_id, identifier)
        return None
