"""Watches: who is told when somebody's standing is no longer what it was.

A connection, an event stream and a run live longer than the question whether they may. Each watches
the standing that it rests on. A change that is heard of is looked up at once, for those that it
touches; and should its word be lost, every standing that is watched is looked up again within 5 s:
some at a time, so that ten thousand cost a few queries a second and no timer each. One that ends by
itself before it is looked up again is looked up at its end.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Protocol

from hub.faults import Fault
from hub.identity.access.authority import Authority, NoStanding
from hub.identity.access.standing import Key, Member
from hub.identity.tokens.api_key_text import KeyHolder, KeyUser
from hub.rbac.actor import Actor
from hub.rounds import Rounds
from hub.telemetry.logs import log

SWEEP_S: Final = 4.0
"""How old the last look at a watched standing becomes."""
TICK_S: Final = 0.25
FRESH_S: Final = 0.5
"""A standing that begins to be watched and was looked up longer ago is looked up at once."""
LATE_S: Final = 0.005
"""How long after its end a standing is looked up: what is early finds it still there."""
AWAY_S: Final = 1.0
"""Pause before it is tried again while the database is away."""
BATCH: Final = 500
"""Standings that are looked up in one query."""


class Watcher(Protocol):
    """Somebody who rests on a standing."""

    def standing(self, found: Actor | Fault) -> None:
        """It is another now: NoStanding if there is none any more, backend_unavailable if it has
        changed and cannot be known. Called on the loop; must not block or raise.
        """


class _Watched:
    __slots__ = ("actor", "looked", "role_ids", "tenant_id", "user_id", "watchers")

    def __init__(self, user_id: str, tenant_id: str, actor: Actor | None, looked: float) -> None:
        self.user_id = user_id
        self.tenant_id = tenant_id
        self.actor = actor  # what all who watch know; None if not all know the same
        self.looked = looked  # of time.monotonic()
        self.role_ids: frozenset[str] | None = None  # until it was looked up here
        self.watchers: dict[Watcher, None] = {}


class Watches:
    """The watches of one node. ``start``, then ``close``."""

    def __init__(self, authority: Authority, *, sweep_s: float = SWEEP_S) -> None:
        self._authority = authority
        self._sweep_s = sweep_s
        self._watched: dict[Key, _Watched] = {}  # the one looked at longest ago comes first
        self._of_user: dict[str, set[Key]] = {}
        self._of_tenant: dict[str, set[Key]] = {}
        self._of_key: dict[str, set[Key]] = {}  # those who come by an API key
        self._doubtful: dict[Key, None] = {}
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._sweeping = Rounds(
            "look up standings again", self._sweep, every_s=min(TICK_S, sweep_s)
        )
        authority.on_change(self._changed)

    async def start(self) -> None:
        """Begin to look."""
        self._sweeping.start()

    async def close(self) -> None:
        """Look no more."""
        self._closed = True
        await self._sweeping.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, key: Key, watcher: Watcher, actor: Actor | None = None) -> None:
        """Tell ``watcher`` when the standing of ``key`` is no longer ``actor``.

        Without an actor the watcher asks the authority, after this.
        """
        watched = self._watched.get(key)
        begins = watched is None
        if watched is None:
            watched = self._watched[key] = _Watched(*_place(key, actor), actor, time.monotonic())
            for index, id in self._indexed(key, watched):
                index.setdefault(id, set()).add(key)
        watched.watchers[watcher] = None
        if actor is not None and watched.actor != actor:
            watched.actor = None  # one of the two is of the past: all are told the present
        if self._outdated(key, actor, begins=begins):
            self._doubt((key,))

    def _outdated(self, key: Key, actor: Actor | None, *, begins: bool) -> bool:
        known = self._authority.known(key)
        if known is None:
            return actor is not None  # something was heard since; or it is about to be asked
        standing, age_s = known
        self._wake(key, standing.remaining_s - age_s)
        # One that is watched already is looked up again in time, whoever else comes to watch it.
        return (begins and age_s > FRESH_S) or (actor is not None and standing.actor != actor)

    def _indexed(self, key: Key, watched: _Watched) -> Iterator[tuple[dict[str, set[Key]], str]]:
        """Where it is found by what may change."""
        yield self._of_user, watched.user_id
        yield self._of_tenant, watched.tenant_id
        if isinstance(key, KeyHolder | KeyUser):
            yield self._of_key, key.key_id

    def _wake(self, key: Key, remaining_s: float) -> None:
        """Look at its end, if that comes before it is looked up again anyway."""
        if remaining_s <= self._sweep_s + AWAY_S:
            loop = asyncio.get_running_loop()
            loop.call_later(max(0.0, remaining_s) + LATE_S, self._doubt, (key,))

    def remove(self, key: Key, watcher: Watcher) -> None:
        """Tell ``watcher`` no more. Idempotent."""
        watched = self._watched.get(key)
        if watched is None or watched.watchers.pop(watcher, watcher) is watcher:
            return
        if not watched.watchers:
            del self._watched[key]
            for index, id in self._indexed(key, watched):
                index[id].discard(key)
                if not index[id]:
                    del index[id]

    # --- what is heard of ---

    def _changed(self, kind: str, id: str) -> None:
        self._doubt(self._touched(kind, id))

    def _touched(self, kind: str, id: str) -> Iterator[Key]:
        match kind:
            case "session":
                yield id
                yield from self._of_key.get(id, ())
            case "user":
                yield from self._of_user.get(id, ())
            case "tenant":
                yield from self._of_tenant.get(id, ())
            case "role" | "group":
                for key, watched in self._watched.items():
                    if watched.role_ids is None or id in watched.role_ids:
                        yield key

    def _doubt(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key in self._watched:
                self._doubtful[key] = None
        if self._doubtful and self._looking is None and not self._closed:
            self._looking = asyncio.create_task(self._clear())

    async def _clear(self) -> None:
        try:
            while self._doubtful:
                keys = list(islice(self._doubtful, BATCH))
                for key in keys:
                    del self._doubtful[key]
                fault = await self._look(keys)
                if fault is not None:
                    for key in keys:
                        self._tell(key, fault)
        finally:
            self._looking = None

    # --- what is not heard of ---

    async def _sweep(self) -> None:
        due = time.monotonic() - self._sweep_s
        while keys := [
            key for key, watched in islice(self._watched.items(), BATCH) if watched.looked <= due
        ]:
            fault = await self._look(keys)
            if fault is not None:
                # Asked again after a while; every request is refused meanwhile.
                log.warning("standings could not be looked up", why=fault.reason)
                self._give_up(tuple(self._watched), fault)
                await asyncio.sleep(AWAY_S)
                return

    def _give_up(self, keys: Iterable[Key], fault: Fault) -> None:
        """Tell who watches what could not be looked up for too long. Unsure means no."""
        too_old = time.monotonic() - self._sweep_s - AWAY_S
        for key in keys:
            watched = self._watched.get(key)
            if watched is not None and watched.looked <= too_old:
                self._tell(key, fault)

    async def _look(self, keys: list[Key]) -> Fault | None:
        """Look these up, and tell who watches what has changed; the fault if that cannot be."""
        began = time.monotonic()
        try:
            found = await self._authority.renewed(keys)
        except Fault as fault:
            return fault
        except Exception:
            log.exception("looking up standings failed")
            return Fault("internal_error")
        for key, standing in found.items():
            watched = self._watched.pop(key, None)
            if watched is None:
                continue
            self._watched[key] = watched
            watched.looked = began
            if isinstance(standing, NoStanding):
                self._tell(key, standing)
                continue
            watched.role_ids = standing.role_ids
            self._wake(key, standing.remaining_s)
            if watched.actor != standing.actor:
                watched.actor = standing.actor
                self._tell(key, standing.actor)
        return None

    def _tell(self, key: Key, found: Actor | Fault) -> None:
        watched = self._watched.get(key)
        for watcher in tuple(watched.watchers) if watched is not None else ():
            watcher.standing(found)


def _place(key: Key, actor: Actor | None) -> Member:
    if actor is not None:
        return Member(actor.user_id, actor.tenant_id)
    if isinstance(key, str | KeyHolder):
        raise ValueError("whose login session or key it is has to be said")
    return Member(key.user_id, key.tenant_id)
