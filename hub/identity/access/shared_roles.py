"""Compiled roles on the backplane: what one node has read of a state of roles, the others need not.

Each is sealed for the place where it stands, which says whose role it is, and of which state. So
who can write to the backplane gives nobody a permission, be it that they make one up or put an
entry somewhere else; what is no entry of that place is as good as missing, and so is one that was
sealed with another key. That it stands there for a while longer than it is needed does no harm.

The backplane helps or is done without: a look-up waits for it for a moment at most, and to put
something there for no moment at all.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import orjson

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.identity.tokens.seal import Seal, Unreadable
from hub.rbac.compiling import CompiledRole, packed, unpacked
from hub.telemetry.lookups import Lookups

KEPT_S: Final = 900.0
"""How long an entry stands there. Nodes remember it by themselves: it is for those that come, and
what is left of old states is gone as soon."""
WAIT_S: Final = 0.1
"""A backplane that has not answered by then is done without."""
MOST_UNSAID: Final = 2_000
"""What is still to be put there; more than that is not."""

_FORM: Final = 1
"""Of what is kept, and of how it is compiled: another form has places of its own."""


class Place(NamedTuple):
    """Where a role stands: whose it is (None: built in), the names of the states of that tenant's
    own roles ("" for a built-in one, which has nothing of them) and of the built-in ones, and its
    id.
    """

    tenant_id: str | None
    own: str
    built_in: str
    role_id: str

    @property
    def key(self) -> str:
        """Of its entry on the backplane."""
        of = "built-in" if self.tenant_id is None else f"{self.tenant_id}:{self.own}"
        return f"permissions:{_FORM}:{of}:{self.built_in}:{self.role_id}"

    @property
    def purpose(self) -> str:
        """What its entry is sealed for."""
        return "compiled role " + orjson.dumps([_FORM, *self]).decode()


class SharedRoles:
    """``close`` it before the backplane."""

    def __init__(self, backplane: Backplane, seal: Seal, lookups: Lookups | None = None) -> None:
        self._backplane = backplane
        self._seal = seal
        self._lookups = lookups or Lookups()
        self._unsaid: dict[Place, CompiledRole] = {}
        self._putting: asyncio.Task[None] | None = None

    async def find(self, places: Collection[Place]) -> dict[Place, CompiledRole]:
        """What stands there of these, all of them asked for at once."""
        try:
            async with asyncio.timeout(WAIT_S):
                kept = await asyncio.gather(*(self._kept(place) for place in places))
        except TimeoutError:
            kept = []
        found = {place: role for place, role in zip(places, kept, strict=False) if role}
        self._lookups.hits += len(found)
        self._lookups.misses += len(places) - len(found)
        return found

    async def _kept(self, place: Place) -> CompiledRole | None:
        try:
            sealed = await self._backplane.cache_get(place.key)
        except Fault:
            return None
        if sealed is None:
            return None
        try:
            text = sealed.decode(errors="replace")
            return unpacked(self._seal.open(text, place.purpose).plain)
        except Unreadable:
            return None

    def put(self, roles: Mapping[Place, CompiledRole]) -> None:
        """Have them there before long, if that can be."""
        for place, role in roles.items():
            if len(self._unsaid) < MOST_UNSAID:
                self._unsaid[place] = role
        if self._unsaid and (self._putting is None or self._putting.done()):
            self._putting = asyncio.create_task(self._put())

    async def _put(self) -> None:
        while self._unsaid:
            place, role = self._unsaid.popitem()
            sealed = self._seal.seal(packed(role), place.purpose).encode()
            try:
                async with asyncio.timeout(WAIT_S):
                    await self._backplane.cache_set(place.key, sealed, KEPT_S)
            except (Fault, TimeoutError):
                self._unsaid.clear()

    async def close(self) -> None:
        """Put nothing there any more. Idempotent."""
        self._unsaid.clear()
        if self._putting is not None:
            self._putting.cancel()
            await asyncio.gather(self._putting, return_exceptions=True)
