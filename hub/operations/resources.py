"""Whose is it, and with whom is it shared? The tenant, the owner and the grants of what an id or a
channel names, for the dispatcher.

What was found is remembered for a while. What is deleted, or shared with others than before, is
forgotten at once on every node; one that does not hear of it looks again within ``REMEMBERED_S``,
and for what is followed on it finds it by itself (``looking``). A grant that expires ends at
its instant, by this node's clock, without anybody's word.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import orjson
from sqlmodel import col, select

from hub.backplane.interface import Backplane
from hub.events.agenda import Agenda
from hub.faults import Fault
from hub.ids import is_id
from hub.operations import grants
from hub.operations.belongings import FINDERS
from hub.operations.grants import Whose
from hub.rbac.actor import Actor
from hub.rbac.decision import Resource, decide
from hub.rbac.sharing import Granted
from hub.rounds import Rounds
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Run, now
from hub.telemetry.lookups import Lookups
from hub.tenancy.tenants import founder

TOPIC: Final = "gone"
REMEMBERED: Final = 20_000
REMEMBERED_S: Final = 5.0
LOOK_S: Final = 4.0
"""How often it is looked whose the conversations are that are followed on this node."""
OLD_S: Final = 60.0
"""How long after it has to be looked up again something is remembered nevertheless."""
RUNS_REMEMBERED: Final = 1_000
BATCH: Final = 500


class _Found(NamedTuple):
    whose: Whose
    until: float  # of time.monotonic()


class Resources:
    """Finds resources by kind and id within a tenant."""

    def __init__(
        self,
        database: Database,
        backplane: Backplane,
        moved: Callable[[str], None],
        lookups: Lookups | None = None,
    ) -> None:
        """``moved(id)`` is called for a conversation that was found to be another's than before, or
        shared with others, though nothing was heard of it; and at the end of a grant on it.
        """
        self._lookups = lookups or Lookups()
        self._database = database
        self._backplane = backplane
        self._moved = moved
        self._listeners: list[Callable[[str], None]] = []
        self._in_use: list[Callable[[], Iterable[str]]] = []
        self._known: OrderedDict[str, _Found] = OrderedDict()  # conversations
        # Questions that are not answered yet, by conversation and tenant, and who asks them.
        self._asked: dict[tuple[str, str], asyncio.Future[Whose | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._changed_since: set[str] = set()  # conversations, since it was asked
        self._expiring = Agenda(self._expired)  # conversations with grants that end
        # Of runs: the tenant, and the conversation.
        self._conversations: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._meanwhile: set[str] = set()  # what has changed since it was last looked again
        self._founder: str | None = None

    async def start(self) -> None:
        """Listen to what other nodes delete. Raises Fault("backend_unavailable")."""
        await self._backplane.listen(TOPIC, self._heard)

    def close(self) -> None:
        """Wait for the end of no grant any more. Idempotent."""
        self._expiring.close()

    def on_gone(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(channel)`` for each channel that is no more; it must not block."""
        self._listeners.append(listener)

    def look_after(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Let ``looking`` look after these conversations, too."""
        self._in_use.append(in_use)

    async def find(self, kind: str, identifier: str, actor: Actor) -> Resource:
        """The resource, as this actor may come to it.

        Raises Fault not_found: also for one of another tenant, and another user's own channel;
        permission_denied for the tenant's audit trail, of which everyone knows that it is there.
        """
        if kind == "channel" and not identifier.startswith("conversation:"):
            return _other_channel(identifier, actor)
        if kind in ("metrics", "hub", "operated"):
            return await self._of_the_operator(kind)
        if kind == "tenant":
            return await self._tenant(identifier, actor)
        if (find := FINDERS.get(kind)) is not None:
            return await find(self._database, kind, identifier, actor)
        conversation_id = await self._conversation_of(kind, identifier, actor.tenant_id)
        whose = conversation_id and await self._whose(conversation_id, actor.tenant_id)
        if not whose:
            raise Fault("not_found")
        granted: tuple[Granted, ...] = ()
        if whose.granted and whose.owner_id != actor.user_id:
            granted = grants.of(whose.granted, actor)
        return Resource(kind, identifier, actor.tenant_id, whose.owner_id, granted)

    async def gone(self, conversation_id: str, tenant_id: str) -> None:
        """Say that a conversation was deleted, and its channel with it, after that was committed.

        This node acts on it before this awaits anything. Raises Fault("backend_unavailable") when
        others could not be told.
        """
        self.forget(conversation_id, tenant_id)
        await self._backplane.publish(TOPIC, orjson.dumps([conversation_id, tenant_id]))

    def forget(self, conversation_id: str, tenant_id: str) -> None:
        """Forget a conversation and its channel on this node, whose readers end."""
        self._drop(conversation_id)
        for listener in self._listeners:
            listener(f"conversation:{conversation_id}")

    def changed(self, kind: str, id: str) -> None:
        """Forget whose a conversation was, and with whom it was shared, when the authority says
        that this has changed.
        """
        if kind == "conversation":
            self._drop(id)

    def _drop(self, id: str) -> None:
        if self._asking is not None:
            self._changed_since.add(id)
        self._meanwhile.add(id)
        self._known.pop(id, None)
        self._expiring.drop(id)

    def _heard(self, message: bytes) -> None:
        conversation_id, tenant_id = orjson.loads(message)
        self.forget(conversation_id, tenant_id)

    def looking(self, followed: Callable[[], list[str]]) -> Rounds:
        """Looks whose the conversations of the followed channels are, and with whom they are
        shared, again and again, once it is started.
        """
        look = partial(self._look, followed)
        return Rounds("look whose conversations are", look, every_s=LOOK_S)

    async def _look(self, followed: Callable[[], list[str]]) -> None:
        self._meanwhile.clear()
        names = [name for name in followed() if name.startswith("conversation")]
        found = {name.partition(":")[2] for name in names}
        ids = list(found.union(*(in_use() for in_use in self._in_use)))
        try:
            for at in range(0, len(ids), BATCH):
                await self._look_again(ids[at : at + BATCH])
        finally:
            self._forget_old()

    def _forget_old(self) -> None:
        """Forget what nobody has asked for in a while: it would have to be looked up anyway."""
        long_ago = time.monotonic() - OLD_S
        # The one that was used longest ago comes first.
        for id in [
            id for id, known in islice(self._known.items(), 10 * BATCH) if known.until < long_ago
        ]:
            del self._known[id]
            self._expiring.drop(id)

    async def _look_again(self, ids: list[str]) -> None:
        self._meanwhile.clear()
        began = time.monotonic()
        async with self._database.read(EVERY_TENANT) as session:
            found = await grants.look_up(session, ids)
        for id in ids:
            if id in self._meanwhile:
                continue
            known, whose = self._known.get(id), found.get(id)
            if known is not None:
                self._learn(id, known.whose.tenant_id, whose, began)
            elif whose is not None:
                # It was forgotten among many others: nobody here knows whether it is as it was.
                self._moved(id)

    def _learn(self, id: str, tenant_id: str, whose: Whose | None, at: float) -> None:
        """Remember whose a conversation is, and tell who listens if this node had missed a word."""
        known = self._known.get(id)
        if whose is None:
            if known is not None and known.whose.tenant_id == tenant_id:
                self.forget(id, tenant_id)
            return
        forgotten = _remember(self._known, id, _Found(whose, at + REMEMBERED_S))
        if forgotten is not None:
            self._expiring.drop(forgotten)
        self._expire_later(id, whose)
        if known is not None and known.whose != whose:
            self._moved(id)

    # --- grants end ---

    def _expire_later(self, id: str, whose: Whose) -> None:
        ends = whose.next_end()
        if ends is None:
            self._expiring.drop(id)
        else:
            left_s = max(0.0, (ends - now()).total_seconds())
            self._expiring.set(id, asyncio.get_running_loop().time() + left_s)

    def _expired(self, id: str) -> None:
        """A grant on a conversation has come to its end, unless the clock was set back."""
        known = self._known.get(id)
        if known is None:
            return
        whose = known.whose.at(now())
        if whose != known.whose:
            self._known[id] = _Found(whose, known.until)
        self._expire_later(id, whose)
        if whose != known.whose:
            self._moved(id)

    async def _of_the_operator(self, kind: str) -> Resource:
        """What is of the whole hub (its numbers, and its tenants as they are operated) is the
        operator's, whose tenant the first start made. Which that is does not change, so it is
        looked for once.
        """
        if self._founder is None:
            async with self._database.read(EVERY_TENANT) as session:
                self._founder = await founder(session)
            if self._founder is None:
                raise Fault("not_found")
        return Resource(kind, "hub", self._founder, None)

    async def _tenant(self, tenant_id: str, actor: Actor) -> Resource:
        """One's own is its own. To the operator another is as somebody else's in theirs, and to all
        others it is foreign, whether it is there or not.
        """
        if tenant_id == actor.tenant_id:
            return Resource("tenant", tenant_id, tenant_id, None)
        if (await self._of_the_operator("hub")).tenant_id == actor.tenant_id:
            return Resource("tenant", tenant_id, actor.tenant_id, tenant_id)
        return Resource("tenant", tenant_id, tenant_id, None)

    async def _conversation_of(self, kind: str, identifier: str, tenant_id: str) -> str | None:
        """The conversation that the thing is of: its owner is the thing's."""
        if kind == "channel":
            kind, _, identifier = identifier.partition(":")
        if kind == "conversation" and is_id(identifier, "c"):
            return identifier
        if kind == "run" and is_id(identifier, "r"):
            return await self._conversation_of_run(identifier, tenant_id)
        return None

    async def _conversation_of_run(self, run_id: str, tenant_id: str) -> str | None:
        # Which run is of which conversation does not change.
        known = self._conversations.get(run_id)
        if known is not None and known[0] == tenant_id:
            self._conversations.move_to_end(run_id)
            return known[1]
        async with self._database.read(tenant_id) as session:
            statement = select(Run.conversation_id).where(col(Run.id) == run_id)
            found = (await session.exec(statement)).first()
        if found is not None:
            _remember(self._conversations, run_id, (tenant_id, found), RUNS_REMEMBERED)
        return found

    async def _whose(self, conversation_id: str, tenant_id: str) -> Whose | None:
        known = self._known.get(conversation_id)
        # Another tenant's is looked for like one that is not there: in the same time.
        if (
            known is not None
            and known.whose.tenant_id == tenant_id
            and known.until > time.monotonic()
        ):
            self._known.move_to_end(conversation_id)
            self._lookups.hits += 1
            return known.whose
        # Asked once, for all who want to know at the same time: a conversation that has changed is
        # one for all who follow it. And together with all others that are asked for: thousands of
        # clients that come back have a conversation each.
        self._lookups.misses += 1
        key = (conversation_id, tenant_id)
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(asked)  # by one who goes away the others lose nothing

    async def _ask(self) -> None:
        """Look up all that are asked for, until none is."""
        try:
            while self._asked:
                await self._ask_together(list(islice(self._asked, BATCH)))
        except BaseException as error:
            self._fail(list(self._asked), error)
            raise
        finally:
            self._asking = None

    async def _ask_together(self, keys: list[tuple[str, str]]) -> None:
        self._changed_since.clear()
        began = time.monotonic()
        try:
            found = await self._look_up(keys)
        except Fault as fault:
            self._fail(keys, fault)
            return
        for key in keys:
            id, tenant_id = key
            if id in self._changed_since:
                continue  # it is asked for again; of others it does not matter: some always change
            whose = found.get(id)
            if whose is not None and whose.tenant_id != tenant_id:
                whose = None
            self._learn(id, tenant_id, whose, began)
            asked = self._asked.pop(key)
            if not asked.done():
                asked.set_result(whose)

    async def _look_up(self, keys: list[tuple[str, str]]) -> dict[str, Whose]:
        tenants = {tenant_id for _, tenant_id in keys}
        if len(tenants) == 1:
            async with self._database.read(tenants.pop()) as session:
                return await grants.look_up(session, [id for id, _ in keys])
        async with self._database.read(EVERY_TENANT) as session:  # which is in each question
            return await grants.look_up_there(session, keys)

    def _fail(self, keys: Iterable[tuple[str, str]], error: BaseException) -> None:
        for key in keys:
            asked = self._asked.pop(key)
            if not asked.done():
                asked.set_exception(error)
                asked.exception()  # it is seen, even if whoever asked has gone


K = TypeVar("K")
V = TypeVar("V")


def _remember(known: OrderedDict[K, V], key: K, value: V, most: int | None = None) -> K | None:
    """Remember it; what was forgotten for it. ``most``: by default ``REMEMBERED``."""
    known[key] = value
    known.move_to_end(key)
    return known.popitem(last=False)[0] if len(known) > (most or REMEMBERED) else None


def _other_channel(name: str, actor: Actor) -> Resource:
    if name.startswith("user:"):
        return _own_channel(name, actor)
    if name == "audit":
        return _trail(actor)
    raise Fault("not_found")


def _own_channel(name: str, actor: Actor) -> Resource:
    """What is addressed to a user is for that user alone, whatever permissions others hold."""
    if name != f"user:{actor.user_id}":
        raise Fault("not_found")
    return Resource("channel", name, actor.tenant_id, actor.user_id)


def _trail(actor: Actor) -> Resource:
    """The audit trail is the tenant's own, and for who may read it."""
    trail = Resource("channel", "audit", actor.tenant_id, None)
    verdict = decide(actor, "audit:read", trail)
    if not verdict.allowed:
        raise Fault(verdict.fault)
    return trail
