"""The authority: what the holder of a token may do at this moment, on every node.

An actor is made from the database and kept. A change anywhere (a session revoked, a role taken
away) is published on the backplane, and what it touches is forgotten at once on every node. In any
case an actor is looked up again after 5 s, in one query for all that are due: with the backplane
away, no word of a change comes, and that is how long one can go unnoticed. If the database is away
then, nobody is let through (G4: unsure means no).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.identity.standing import Standing, look_up
from hub.identity.tokens import Claims
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database

TOPIC: Final = "authority"
RECHECK_S: Final = 5.0
KINDS: Final = ("session", "user", "tenant", "role")

# Actors that are in use and fall due within this time are looked up together with one that is due.
_TOGETHER_S: Final = 1.0
_BATCH: Final = 500

ChangeListener = Callable[[str, str], None]
"""Called as ``listener(kind, id)`` on the event loop; it must not block or raise."""


class _Known(NamedTuple):
    actor: Actor
    role_ids: frozenset[str]
    due: float  # of time.monotonic()
    asked: list[bool]  # whether it was used since it was looked up


class Authority:
    """Answers who someone is now. ``await start()`` before use."""

    def __init__(
        self, database: Database, backplane: Backplane, *, recheck_s: float = RECHECK_S
    ) -> None:
        self._database = database
        self._backplane = backplane
        self._recheck_s = recheck_s
        self._known: dict[str, _Known] = {}
        self._wanted: dict[str, asyncio.Future[Standing | None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._changes = 0
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

        Raises Fault: "unauthenticated" when the session is over, the user disabled, the tenant
        suspended or the membership gone; "backend_unavailable" when that cannot be known.
        """
        known = self._known.get(claims.session_id)
        if known is None or known.due <= time.monotonic():
            actor = await self._renewed(claims.session_id)
        else:
            known.asked[0] = True
            actor = known.actor
        if actor.user_id != claims.user_id or actor.tenant_id != claims.tenant_id:
            raise _over()
        return actor

    def fresh_s(self, claims: Claims) -> float:
        """Seconds until the actor of these claims is looked up again; 0 if it is not known."""
        known = self._known.get(claims.session_id)
        return 0.0 if known is None else max(0.0, known.due - time.monotonic())

    async def changed(self, kind: str, id: str) -> None:
        """Say that a session, user, tenant or role has changed, after that was committed.

        ``kind`` is one of ``KINDS``. This node acts on it before this awaits anything. Raises
        Fault("backend_unavailable") when other nodes could not be told; they find out within 5 s.
        """
        if kind not in KINDS:
            raise ValueError(kind)
        self._forget(kind, id)
        message = {"kind": kind, "id": id, "from": self._self}
        await self._backplane.publish(TOPIC, orjson.dumps(message))

    def _heard(self, message: bytes) -> None:
        change = orjson.loads(message)
        if change["from"] != self._self:
            self._forget(change["kind"], change["id"])

    def _forget(self, kind: str, id: str) -> None:
        self._changes += 1
        if kind == "session":
            self._known.pop(id, None)
        else:
            for session_id, known in list(self._known.items()):
                if _touches(known, kind, id):
                    del self._known[session_id]
        for listener in self._listeners:
            listener(kind, id)

    async def _renewed(self, session_id: str) -> Actor:
        future = self._wanted.get(session_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._wanted[session_id] = future
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        # Shielded: several callers wait for one answer, and one of them may be cancelled.
        standing = await asyncio.shield(future)
        if standing is None:
            raise _over()
        return standing.actor

    async def _look(self) -> None:
        """Look up all that are wanted, until none is."""
        while self._wanted:
            wanted = dict(list(self._wanted.items())[:_BATCH])
            try:
                found = await self._settled(wanted)
            except Fault as fault:
                _answer_all(self._wanted, wanted, fault)
            except BaseException as error:
                self._looking = None
                _answer_all(self._wanted, dict(self._wanted), error)
                raise
            else:
                for session_id, future in wanted.items():
                    del self._wanted[session_id]
                    if not future.done():
                        future.set_result(found.get(session_id))
        self._looking = None

    async def _settled(
        self, wanted: dict[str, "asyncio.Future[Standing | None]"]
    ) -> dict[str, Standing]:
        """What the database says, with no change heard of while it was asked."""
        while True:
            changes = self._changes
            began = time.monotonic()
            session_ids = [*wanted, *self._nearly_due(began, _BATCH - len(wanted), wanted)]
            found = await look_up(self._database, session_ids)
            if changes != self._changes:
                continue
            for session_id in session_ids:
                standing = found.get(session_id)
                if standing is None:
                    self._known.pop(session_id, None)
                    continue
                due = began + min(self._recheck_s, standing.remaining_s)
                self._known[session_id] = _Known(
                    standing.actor, standing.role_ids, due, [session_id in wanted]
                )
            return found

    def _nearly_due(
        self, moment: float, limit: int, wanted: dict[str, "asyncio.Future[Standing | None]"]
    ) -> list[str]:
        """Who is in use and falls due soon; who is not, and is due, is forgotten."""
        soon: list[str] = []
        for session_id, known in list(self._known.items()):
            if session_id in wanted or known.due > moment + _TOGETHER_S:
                continue
            if known.asked[0] and len(soon) < limit:
                soon.append(session_id)
            elif known.due <= moment:
                del self._known[session_id]
        return soon


def _touches(known: _Known, kind: str, id: str) -> bool:
    match kind:
        case "user":
            return known.actor.user_id == id
        case "tenant":
            return known.actor.tenant_id == id
        case _:
            return id in known.role_ids


def _answer_all(
    waiting: dict[str, "asyncio.Future[Standing | None]"],
    answered: dict[str, "asyncio.Future[Standing | None]"],
    error: BaseException,
) -> None:
    for session_id, future in answered.items():
        waiting.pop(session_id, None)
        if not future.done():
            future.set_exception(error)
            future.exception()  # it is seen, even if the caller has gone


def _over() -> Fault:
    return Fault("unauthenticated", "The session is over. Sign in again.")
