"""The authority: what the holder of a token may do at this moment, on every node.

An actor is made from the database and kept. A change anywhere (a session revoked, a role taken
away) is published on the backplane, and what it touches is forgotten at once on every node. In any
case an actor is looked up again after 5 s, in one query for all that are due: with the backplane
away, no word of a change comes, and that is how long one can go unnoticed. If the database is away
then, nobody is let through (G4: unsure means no).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Container, Mapping
from typing import Final, NamedTuple

import orjson

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.identity.access.compiled_roles import CompiledRoles
from hub.identity.access.standing import Key, Member, Standing, Why, look_up, why
from hub.identity.tokens.access_tokens import REFUSED, Claims
from hub.ids import is_id, new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.telemetry.lookups import Lookups

TOPIC: Final = "authority"
RECHECK_S: Final = 5.0
KINDS: Final = ("session", "user", "tenant", "role", "group", "conversation")
"""What may change. ``session``: a login session or an API key; ``user``: it itself, its
memberships, the groups it is in; ``group``: what it has; ``conversation``: who it is shared with,
which touches no actor, but what actors may do there.
"""

# Actors that are in use and fall due within this time are looked up together with one that is due.
_TOGETHER_S: Final = 1.0
_BATCH: Final = 500

ChangeListener = Callable[[str, str], None]
"""Called as ``listener(kind, id)`` on the event loop; it must not block or raise."""


class NoStanding(Fault):
    """The fault "unauthenticated" of who has no standing any more; ``why`` is for themselves."""

    def __init__(self, why: Why) -> None:
        super().__init__("unauthenticated", REFUSED)
        self.why = why


class _Known(NamedTuple):
    standing: Standing
    changes: int  # how many had been heard of
    since: float  # of time.monotonic()
    due: float
    asked: list[bool]  # whether it was used since it was looked up


_Answer = Standing | NoStanding


class Authority:
    """Answers who someone is now. ``await start()`` before use."""

    def __init__(
        self,
        database: Database,
        backplane: Backplane,
        *,
        recheck_s: float = RECHECK_S,
        roles: CompiledRoles | None = None,
        lookups: Lookups | None = None,
    ) -> None:
        self._lookups = lookups or Lookups()
        self._database = database
        self._roles = roles or CompiledRoles(database)
        self._backplane = backplane
        self._recheck_s = recheck_s
        self._known: dict[Key, _Known] = {}
        self._wanted: dict[Key, asyncio.Future[_Answer]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._changes = 0
        # For each question that is under way, who has changed since it was asked.
        self._heard_since: list[set[str]] = []
        # What has changed lately, and when: who rests on it was looked up before and is void.
        self._voids: dict[str, tuple[int, float]] = {}
        self._listeners: list[ChangeListener] = []
        self._self = new_id("n")

    async def start(self) -> None:
        """Listen to changes. Raises Fault("backend_unavailable")."""
        await self._backplane.listen(TOPIC, self._heard)

    def on_change(self, listener: ChangeListener) -> None:
        """Call ``listener(kind, id)`` after each change, wherever it was made."""
        self._listeners.append(listener)

    async def actor(self, claims: Claims) -> Actor:
        """The actor of these claims, with the permissions they have now.

        Raises Fault: NoStanding when the session or the API key is over, the user disabled, the
        tenant suspended or the membership gone; "backend_unavailable" when that cannot be known.
        """
        actor = (await self.standing(claims.key)).actor
        if actor.user_id != claims.user_id or actor.tenant_id != claims.tenant_id:
            raise NoStanding("session_revoked")
        return actor

    async def member(self, user_id: str, tenant_id: str) -> Actor:
        """A user in a tenant with the permissions they have now, signed in or not.

        Raises Fault as ``actor`` does; the actor has no ``session_id``.
        """
        return (await self.standing(Member(user_id, tenant_id))).actor

    async def standing(self, key: Key) -> Standing:
        """The standing of whoever this is. Raises Fault as ``actor`` does."""
        known = self._valid(key)
        if known is None:
            self._lookups.misses += 1
            return await self._renewed(key)
        self._lookups.hits += 1
        known.asked[0] = True
        return known.standing

    async def renewed(self, keys: Collection[Key]) -> dict[Key, Standing | NoStanding]:
        """What the database says of each at this moment, whatever is known, in one query.

        For up to some hundreds at once. Raises Fault("backend_unavailable").
        """
        answers: dict[Key, _Answer] = {}
        doubted: set[Key] = set()
        while left := [key for key in keys if key not in answers]:
            answers |= await self._asked(left, doubted, alone=True)
        return answers

    def known(self, key: Key) -> tuple[Standing, float] | None:
        """What was looked up and may still be so, and how many seconds ago that was."""
        known = self._valid(key)
        return known and (known.standing, time.monotonic() - known.since)

    def _valid(self, key: Key) -> _Known | None:
        known = self._known.get(key)
        if known is None or known.due <= time.monotonic():
            return None
        if self._voids and self._is_void(known):
            del self._known[key]
            return None
        return known

    def _is_void(self, known: _Known) -> bool:
        voids = self._voids
        return any(id in voids and voids[id][0] > known.changes for id in _rests_on(known.standing))

    async def changed(self, kind: str, id: str) -> None:
        """Say that something of ``KINDS`` has changed, after that was committed.

        This node acts on it before this awaits anything. Raises Fault("backend_unavailable") when
        other nodes could not be told; they find out within 5 s.
        """
        if kind not in KINDS:
            raise ValueError(kind)
        self.found(kind, id)
        message = {"kind": kind, "id": id, "from": self._self}
        await self._backplane.publish(TOPIC, orjson.dumps(message))

    def _heard(self, message: bytes) -> None:
        change = orjson.loads(message)
        if change["from"] != self._self:
            self.found(change["kind"], change["id"])

    def found(self, kind: str, id: str) -> None:
        """This node has heard of a change, or has found one by looking: act on it here."""
        self._changes += 1
        if kind != "conversation":
            for heard in self._heard_since:
                heard.add(id)
        if kind == "session" and not is_id(id, "ak"):
            self._known.pop(id, None)
        elif kind != "conversation":
            # Noted, not looked for among all who are known: a change costs nothing but this.
            now = time.monotonic()
            self._voids.pop(id, None)
            self._voids[id] = (self._changes, now)
            while (first := next(iter(self._voids))) != id:
                if self._voids[first][1] > now - self._recheck_s:
                    break
                del self._voids[first]  # whoever was looked up before is due by now
        for listener in self._listeners:
            listener(kind, id)

    async def _renewed(self, key: Key) -> Standing:
        future = self._wanted.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._wanted[key] = future
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        # Shielded: several callers wait for one answer, and one of them may be cancelled.
        found = await asyncio.shield(future)
        if isinstance(found, NoStanding):
            raise NoStanding(found.why)
        return found

    async def _look(self) -> None:
        """Look up all that are wanted, until none is."""
        doubted: set[Key] = set()
        while self._wanted:
            wanted = dict(list(self._wanted.items())[:_BATCH])
            try:
                found = await self._asked(wanted, doubted)
            except Fault as fault:
                _answer_all(self._wanted, wanted, fault)
            except BaseException as error:
                self._looking = None
                _answer_all(self._wanted, dict(self._wanted), error)
                raise
            else:
                for key, answer in found.items():
                    future = self._wanted.pop(key)
                    if not future.done():
                        future.set_result(answer)
        self._looking = None

    async def _asked(
        self, wanted: Collection[Key], doubted: set[Key], *, alone: bool = False
    ) -> dict[Key, "_Answer"]:
        """What the database says of each, but of those of whom a change was heard meanwhile: they
        are to be asked for again. Changes of others do not count, or nobody would be let in while
        there are always some.

        Who is not found may be anybody, so that for them any change counts; but not twice in a row,
        which ``doubted`` is for. ``alone``: those who are nearly due are not looked up with them.
        """
        changes, began, heard = self._changes, time.monotonic(), set[str]()
        keys = list(wanted)
        if not alone:
            keys += self._nearly_due(began, _BATCH - len(wanted), wanted)
        self._heard_since.append(heard)
        try:
            found = await look_up(self._database, keys, self._roles)
            gone = [key for key in wanted if key not in found]
            causes = await why(self._database, gone) if gone else {}
        finally:
            self._heard_since = [each for each in self._heard_since if each is not heard]
        for key in keys:
            standing = found.get(key)
            if standing is None:
                self._known.pop(key, None)
            elif heard.isdisjoint(_rests_on(standing)):
                due = began + min(self._recheck_s, standing.remaining_s)
                used = not alone and key in wanted
                self._known[key] = _Known(standing, changes, began, due, [used])
            else:
                del found[key]
        unsure = {key for key in gone if heard and key not in doubted}
        doubted.difference_update(gone)
        doubted |= unsure
        answers: dict[Key, _Answer] = {key: found[key] for key in wanted if key in found}
        for key in gone:
            if key not in unsure:
                answers[key] = NoStanding(_cause(key, causes))
        return answers

    def _nearly_due(self, moment: float, limit: int, wanted: Container[Key]) -> list[Key]:
        """Who is in use and falls due soon; who is not, and is due, is forgotten."""
        soon: list[Key] = []
        for key, known in list(self._known.items()):
            if key in wanted or known.due > moment + _TOGETHER_S:
                continue
            if known.asked[0] and len(soon) < limit:
                soon.append(key)
            elif known.due <= moment:
                del self._known[key]
        return soon


def _rests_on(standing: Standing) -> tuple[str, ...]:
    """Where a change may make it another."""
    actor = standing.actor
    return (actor.session_id, actor.user_id, actor.tenant_id, *standing.role_ids)


def _answer_all(
    waiting: dict[Key, "asyncio.Future[_Answer]"],
    answered: dict[Key, "asyncio.Future[_Answer]"],
    error: BaseException,
) -> None:
    for key, future in answered.items():
        waiting.pop(key, None)
        if not future.done():
            future.set_exception(error)
            future.exception()  # it is seen, even if the caller has gone


def _cause(key: Key, causes: Mapping[Key, Why]) -> Why:
    """A session that never was is as one that was revoked."""
    return causes.get(key) or ("session_revoked" if isinstance(key, str) else "membership_ended")
