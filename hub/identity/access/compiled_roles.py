"""Roles compiled, and remembered under the name of the state that they are in.

The database gives the roles of a tenant another name whenever one of them changes
(``hub.storage.role_states``), and says what it is with every look-up. What is remembered under a
name is true for good, so that nothing is ever forgotten because of a change: who looks up after it
asks for another name. This node remembers in its memory, and all nodes together on the backplane
(``shared_roles``); what neither has is asked of the database.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Final

from hub.identity.access.definitions import States, lineages
from hub.identity.access.shared_roles import Place, SharedRoles
from hub.rbac.compiling import CompiledRole, compiled
from hub.rbac.roles import BUILT_IN
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.telemetry.lookups import Lookups

MOST: Final = 200_000
"""Permissions that all roles in memory come to, some 20 MB; the least recently used go first."""

Asked = tuple[str, str]
"""A tenant, and a role that somebody has there."""


class CompiledRoles:
    """``shared``: where nodes share them, if there are others."""

    def __init__(
        self,
        database: Database,
        shared: SharedRoles | None = None,
        lookups: Lookups | None = None,
        most: int = MOST,
    ) -> None:
        self._database = database
        self._shared = shared
        self._lookups = lookups or Lookups()
        self._known = _Known(most)

    async def find(
        self, wanted: Collection[Asked], states: Mapping[str, States]
    ) -> dict[Asked, CompiledRole]:
        """What roles give, as of a moment at or after the one that ``states``, of each tenant, were
        read at. Of no other tenant's role anything is found, and of one that is gone.

        Raises Fault("backend_unavailable").
        """
        found: dict[Asked, CompiledRole] = {}
        places: dict[Asked, Place] = {}
        for asked in wanted:
            place = _place(asked, states[asked[0]])
            role = None if place is None else self._known.get(place)
            if role is not None:
                found[asked] = role
            elif place is not None:
                places[asked] = place
        self._lookups.hits += len(found)
        self._lookups.misses += len(wanted) - len(found)
        if places and self._shared is not None:
            shared = await self._shared.find(set(places.values()))
            for asked, place in places.items():
                if place in shared:
                    found[asked] = shared[place]
            self._keep(shared)
        if missing := [asked for asked in wanted if asked not in found]:
            found |= await self._read(missing)
        return found

    async def _read(self, missing: Collection[Asked]) -> dict[Asked, CompiledRole]:
        async with self._database.read(EVERY_TENANT) as session:
            definitions, states = await lineages(session, {role_id for _, role_id in missing})
        made: dict[str, CompiledRole] = {}
        found: dict[Asked, CompiledRole] = {}
        kept: dict[Place, CompiledRole] = {}
        for asked in missing:
            tenant_id, role_id = asked
            role = definitions.get(role_id)
            if role is None or role.tenant_id not in (None, tenant_id):
                continue
            if role_id not in made:
                made[role_id] = compiled(role_id, definitions)
            found[asked] = made[role_id]
            # Not the names that were asked for: the roles may have changed since.
            place = _place(asked, states[role.tenant_id])
            if place is not None and place.tenant_id == role.tenant_id:
                kept[place] = made[role_id]
        self._keep(kept)
        if self._shared is not None:
            self._shared.put(kept)
        return found

    def _keep(self, roles: Mapping[Place, CompiledRole]) -> None:
        for place, role in roles.items():
            self._known.put(place, role)


def _place(asked: Asked, states: States) -> Place | None:
    """Where a role is remembered; None while its state has no name."""
    tenant_id, role_id = asked
    if not states.built_in:
        return None
    if role_id in BUILT_IN:
        return Place(None, "", states.built_in, role_id)
    if not states.own:
        return None
    return Place(tenant_id, states.own, states.built_in, role_id)


class _Known:
    """Roles by their places, the least recently used first."""

    def __init__(self, most: int) -> None:
        self._roles: OrderedDict[Place, CompiledRole] = OrderedDict()
        self._most = most
        self._size = 0

    def get(self, place: Place) -> CompiledRole | None:
        role = self._roles.get(place)
        if role is not None:
            self._roles.move_to_end(place)
        return role

    def put(self, place: Place, role: CompiledRole) -> None:
        if place in self._roles:
            return  # under one name there is one content
        self._roles[place] = role
        self._size += _size(role)
        while self._size > self._most:
            self._size -= _size(self._roles.popitem(last=False)[1])


def _size(role: CompiledRole) -> int:
    return 8 + len(role.permissions) + len(role.line)
