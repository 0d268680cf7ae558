"""Whose is it? The tenant and owner of what an id or a channel names, for the dispatcher.

What was found is remembered for a while. What is deleted, or shared with others than before, is
forgotten at once on every node; one that does not hear of it looks again within ``REMEMBERED_S``,
and for what is followed on it finds it by itself (``keep_looking``).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import orjson
from sqlalchemy import or_
from sqlmodel import col, select

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.ids import is_id
from hub.rbac.actor import Actor
from hub.rbac.decision import Resource
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    Conversation,
    Group,
    LoginSession,
    Membership,
    Role,
    Run,
    Tenant,
)
from hub.telemetry.logs import log

TOPIC: Final = "gone"
REMEMBERED: Final = 20_000
REMEMBERED_S: Final = 5.0
LOOK_S: Final = 4.0
"""How often it is looked whose the conversations are that are followed on this node."""
BATCH: Final = 500


class _Found(NamedTuple):
    tenant_id: str
    owner_id: str
    until: float  # of time.monotonic()


class Resources:
    """Finds resources by kind and id within a tenant."""

    def __init__(
        self, database: Database, backplane: Backplane, moved: Callable[[str], None]
    ) -> None:
        """``moved(id)`` is called for a conversation that was found to be another's than before,
        though nothing was heard of it.
        """
        self._database = database
        self._backplane = backplane
        self._moved = moved
        self._listeners: list[Callable[[str], None]] = []
        self._known: OrderedDict[str, _Found] = OrderedDict()  # conversations
        self._conversations: OrderedDict[str, str] = OrderedDict()  # of runs
        self._looking: dict[tuple[str, str], asyncio.Task[str | None]] = {}
        self._changes = 0
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
        if kind in ("role", "group"):
            return await self._find_of_tenant(kind, identifier, actor.tenant_id)
        if kind in ("user", "account", "session"):
            return await self._find_person(kind, identifier, actor.tenant_id)
        conversation_id = await self._conversation_of(kind, identifier, actor.tenant_id)
        owner_id = conversation_id and await self._owner(conversation_id, actor.tenant_id)
        if not owner_id:
            raise Fault("not_found")
        return Resource(kind, identifier, actor.tenant_id, owner_id)

    async def gone(self, conversation_id: str, tenant_id: str) -> None:
        """Say that a conversation was deleted, and its channel with it, after that was committed.

        This node acts on it before this awaits anything. Raises Fault("backend_unavailable") when
        others could not be told.
        """
        self.forget(conversation_id, tenant_id)
        await self._backplane.publish(TOPIC, orjson.dumps([conversation_id, tenant_id]))

    def forget(self, conversation_id: str, tenant_id: str) -> None:
        """Forget a conversation and its channel on this node, whose readers end."""
        self._changes += 1
        self._known.pop(conversation_id, None)
        for listener in self._listeners:
            listener(f"conversation:{conversation_id}")

    def changed(self, kind: str, id: str) -> None:
        """Forget whose a conversation was, when the authority says that it has changed."""
        if kind == "conversation":
            self._changes += 1
            self._known.pop(id, None)

    def _heard(self, message: bytes) -> None:
        conversation_id, tenant_id = orjson.loads(message)
        self.forget(conversation_id, tenant_id)

    async def keep_looking(self, followed: Callable[[], list[str]]) -> None:
        """Look whose the conversations of the followed channels are, again and again; for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            ids = [name.partition(":")[2] for name in followed() if name.startswith("conversation")]
            for at in range(0, len(ids), BATCH):
                try:
                    await self._look_again(ids[at : at + BATCH])
                except Fault as fault:
                    log.warning("it cannot be looked whose conversations are", why=fault.reason)
                    break
                except Exception:
                    log.exception("looking whose conversations are failed")
                    break

    async def _look_again(self, ids: list[str]) -> None:
        changes, began = self._changes, time.monotonic()
        of = col(Conversation.id).in_(ids)
        async with self._database.read(EVERY_TENANT) as session:
            rows = await session.exec(
                select(Conversation.id, Conversation.tenant_id, Conversation.owner_id).where(of)
            )
            owners = {id: (tenant_id, owner_id) for id, tenant_id, owner_id in rows.all()}
        for id in ids:
            if changes == self._changes and (known := self._known.get(id)) is not None:
                tenant_id, owner_id = owners.get(id, (known.tenant_id, None))
                self._learn(id, tenant_id, owner_id, began)

    def _learn(self, id: str, tenant_id: str, owner_id: str | None, at: float) -> None:
        """Remember whose a conversation is, and tell who listens if this node had missed a word."""
        known = self._known.get(id)
        if owner_id is None:
            if known is not None and known.tenant_id == tenant_id:
                self.forget(id, tenant_id)
            return
        _remember(self._known, id, _Found(tenant_id, owner_id, at + REMEMBERED_S))
        if known is not None and known[:2] != (tenant_id, owner_id):
            self._moved(id)

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

    async def _find_of_tenant(self, kind: str, identifier: str, tenant_id: str) -> Resource:
        """What belongs to the tenant at large; the built-in roles are of every tenant."""
        found: Any = select(Group.id).where(col(Group.id) == identifier)
        if kind == "role":
            theirs = or_(col(Role.tenant_id).is_(None), col(Role.tenant_id) == tenant_id)
            found = select(Role.id).where(col(Role.id) == identifier, theirs)
        async with self._database.read(tenant_id) as session:
            if (await session.exec(found)).first() is None:
                raise Fault("not_found")
        return Resource(kind, identifier, tenant_id, None)

    async def _find_person(self, kind: str, identifier: str, tenant_id: str) -> Resource:
        """A member (``user``: the tenant's; ``account``: their own), or a login session there."""
        wanted = (
            select(LoginSession.user_id).where(col(LoginSession.id) == identifier)
            if kind == "session"
            else select(Membership.user_id).where(col(Membership.user_id) == identifier)
        )
        async with self._database.read(tenant_id) as session:
            user_id = (await session.exec(wanted.limit(1))).first()
        if user_id is None:
            raise Fault("not_found")
        return Resource(kind, identifier, tenant_id, None if kind == "user" else user_id)

    async def _conversation_of(self, kind: str, identifier: str, tenant_id: str) -> str | None:
        """The conversation that the thing is of: its owner is the thing's."""
        if kind == "channel":
            noun, _, identifier = identifier.partition(":")
            kind = noun if noun == "conversation" else ""
        if kind == "conversation" and is_id(identifier, "c"):
            return identifier
        if kind == "run" and is_id(identifier, "r"):
            return await self._conversation_of_run(identifier, tenant_id)
        return None

    async def _conversation_of_run(self, run_id: str, tenant_id: str) -> str | None:
        # What run is of which conversation does not change; another tenant's is not owned there.
        known = self._conversations.get(run_id)
        if known is not None:
            self._conversations.move_to_end(run_id)
            return known
        async with self._database.read(tenant_id) as session:
            statement = select(Run.conversation_id).where(col(Run.id) == run_id)
            found = (await session.exec(statement)).first()
        if found is not None:
            _remember(self._conversations, run_id, found)
        return found

    async def _owner(self, conversation_id: str, tenant_id: str) -> str | None:
        known = self._known.get(conversation_id)
        if known is not None and known.until > time.monotonic():
            self._known.move_to_end(conversation_id)
            return known.owner_id if known.tenant_id == tenant_id else None
        # Asked for once, though a thousand clients that come back together want to know.
        asked = (conversation_id, tenant_id)
        looking = self._looking.get(asked)
        if looking is None:
            looking = asyncio.create_task(self._look(conversation_id, tenant_id))
            self._looking[asked] = looking
            looking.add_done_callback(partial(self._looked, asked))
        return await asyncio.shield(looking)

    def _looked(self, asked: tuple[str, str], looking: "asyncio.Task[str | None]") -> None:
        del self._looking[asked]
        if not looking.cancelled():
            looking.exception()  # it is seen, even if all who asked have gone

    async def _look(self, conversation_id: str, tenant_id: str) -> str | None:
        statement = select(Conversation.owner_id).where(col(Conversation.id) == conversation_id)
        while True:
            changes, began = self._changes, time.monotonic()
            async with self._database.read(tenant_id) as session:
                owner_id = (await session.exec(statement)).first()
            if changes == self._changes:  # nothing was heard while it was asked
                break
        self._learn(conversation_id, tenant_id, owner_id, began)
        return owner_id


K = TypeVar("K")
V = TypeVar("V")


def _remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def _own_channel(name: str, actor: Actor) -> Resource:
    """What is addressed to a user is for that user alone, whatever permissions others hold."""
    if name != f"user:{actor.user_id}":
        raise Fault("not_found")
    return Resource("channel", name, actor.tenant_id, actor.user_id)
