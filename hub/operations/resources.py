"""Whose is it? The tenant and owner of what an id or a channel names, for the dispatcher.

Owners do not change, so what was found is remembered for a while. What is deleted is forgotten at
once on every node; one that does not hear of it looks again within ``REMEMBERED_S``.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson
from sqlmodel import col, select

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.ids import is_id
from hub.rbac.actor import Actor
from hub.rbac.decision import Resource
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Run, Tenant

TOPIC: Final = "gone"
REMEMBERED: Final = 20_000
REMEMBERED_S: Final = 5.0


class _Found(NamedTuple):
    resource: Resource
    until: float  # of time.monotonic()


class Resources:
    """Finds resources by kind and id within a tenant."""

    def __init__(self, database: Database, backplane: Backplane) -> None:
        self._database = database
        self._backplane = backplane
        self._listeners: list[Callable[[str], None]] = []
        self._known: OrderedDict[tuple[str, str, str], _Found] = OrderedDict()
        self._metrics: Resource | None = None

    async def start(self) -> None:
        """Listen to what other nodes delete. Raises Fault("backend_unavailable")."""
        await self._backplane.listen(TOPIC, self._heard)

    def on_gone(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(channel)`` for each channel that is no more; it must not block."""
        self._listeners.append(listener)

    async def find(self, kind: str, identifier: str, actor: Actor) -> Resource:
        """The resource, as this actor may come to it.

        Raises Fault not_found: also for one of another tenant, and another user's own channel.
        """
        if kind == "channel" and identifier.startswith("user:"):
            return _own_channel(identifier, actor)
        if kind == "metrics":
            return await self._find_metrics()
        key = (kind, identifier, actor.tenant_id)
        known = self._known.get(key)
        if known is not None and known.until > time.monotonic():
            self._known.move_to_end(key)
            return known.resource
        self._known.pop(key, None)
        found = await self._look_up(kind, identifier, actor.tenant_id)
        if found is None:
            raise Fault("not_found")
        self._known[key] = _Found(found, time.monotonic() + REMEMBERED_S)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def gone(self, conversation_id: str, tenant_id: str) -> None:
        """Say that a conversation was deleted, and its channel with it, after that was committed.

        This node acts on it before this awaits anything. Raises Fault("backend_unavailable") when
        others could not be told.
        """
        self.forget(conversation_id, tenant_id)
        await self._backplane.publish(TOPIC, orjson.dumps([conversation_id, tenant_id]))

    def forget(self, conversation_id: str, tenant_id: str) -> None:
        """Forget a conversation and its channel on this node, whose readers end."""
        channel = f"conversation:{conversation_id}"
        self._known.pop(("conversation", conversation_id, tenant_id), None)
        self._known.pop(("channel", channel, tenant_id), None)
        for listener in self._listeners:
            listener(channel)

    def _heard(self, message: bytes) -> None:
        conversation_id, tenant_id = orjson.loads(message)
        self.forget(conversation_id, tenant_id)

    async def _find_metrics(self) -> Resource:
        """The numbers of the whole hub are the operator's, whose tenant the first start made. That
        it is the oldest does not change, so it is looked for once.
        """
        if self._metrics is None:
            async with self._database.read(EVERY_TENANT) as session:
                oldest = select(Tenant.id).order_by(col(Tenant.created_at), col(Tenant.id)).limit(1)
                tenant_id = (await session.exec(oldest)).first()
            if tenant_id is None:
                raise Fault("not_found")
            self._metrics = Resource("metrics", "hub", tenant_id, None)
        return self._metrics

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
        """A conversation's channel is its owner's."""
        kind, _, identifier = name.partition(":")
        if kind == "conversation" and is_id(identifier, "c"):
            subject = await self._conversation(identifier, tenant_id)
            return subject and Resource("channel", name, tenant_id, subject.owner_id)
        return None


def _own_channel(name: str, actor: Actor) -> Resource:
    """What is addressed to a user is for that user alone, whatever permissions others hold."""
    if name != f"user:{actor.user_id}":
        raise Fault("not_found")
    return Resource("channel", name, actor.tenant_id, actor.user_id)
