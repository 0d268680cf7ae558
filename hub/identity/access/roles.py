"""The roles of a tenant: the built-in ones, and those of its own."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.definitions import definitions_of
from hub.identity.access.holdings import hand_of
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.inheritance import Definitions, closes_circle, heirs, lineage, rank_of
from hub.rbac.permissions import declaration
from hub.rbac.ranks import Hand, why_not_define, why_not_replace, why_not_touch
from hub.rbac.roles import BUILT_IN, HIGHEST, LOWEST, RoleDefinition, compile_roles
from hub.storage.database import Database
from hub.storage.tables import GroupRole, Invitation, Membership, Role, RolePermission, now

MOST: Final = 100
"""Roles that a tenant may have of its own: all of them are read when its members are looked up."""
MOST_PERMISSIONS: Final = 200
LONGEST_DESCRIPTION: Final = 400
PERMISSION: Final = "role:write"

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Described:
    """A role as it is told of. ``permissions`` are its own, ``all_permissions`` with the inherited
    ones; ``rank`` is no lower than that of what it inherits from.
    """

    id: str
    name: str
    description: str | None
    rank: int
    inherits: str | None
    built_in: bool
    permissions: list[str]
    all_permissions: list[str]
    created_at: datetime
    updated_at: datetime


class Roles:
    """The roles of tenants. ``changed(kind, id)`` is told of what must act at once.

    Where something is changed, ``by`` is who does it, None for the operator; whether they may is
    decided in the transaction that changes it. Raises Fault: "permission_denied" for what is above
    them, "not_found", "conflict" for what clashes, "invalid_params" for what cannot be.
    """

    def __init__(self, database: Database, *, changed: Changed | None = None) -> None:
        self._database = database
        self._changed = changed

    async def all(self, tenant_id: str) -> list[Described]:
        """Every role there is in a tenant, the lowest in rank first."""
        async with self._database.read(tenant_id) as session:
            definitions = await definitions_of(session, [tenant_id])
            rows = await session.exec(select(Role).where(col(Role.id).in_(list(definitions))))
            found = [_described(row, definitions) for row in rows.all()]
        return sorted(found, key=lambda role: (role.rank, role.id))

    async def get(self, tenant_id: str, role_id: str) -> Described:
        """One of them. Raises Fault("not_found")."""
        async with self._database.read(tenant_id) as session:
            definitions = await definitions_of(session, [tenant_id])
            return _described(await _row(session, role_id, definitions), definitions)

    async def create(
        self,
        tenant_id: str,
        by: Actor | None,
        name: str,
        *,
        description: str | None = None,
        inherits: str | None = None,
        rank: int | None = None,
        permissions: Collection[str] = (),
    ) -> Described:
        """A new role of the tenant. ``rank``: by default that of the role it inherits from, else
        the lowest.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            own = [role for role in definitions.values() if role.tenant_id is not None]
            if len(own) >= MOST:
                raise Fault("conflict", f"A tenant has {MOST} roles of its own at most.")
            if rank is None:
                rank = _lowest(inherits, definitions)
            role = RoleDefinition(
                new_id("ro"),
                name,
                rank,
                inherits,
                frozenset(permissions),
                description or "",
                tenant_id,
            )
            _check(hand, role, definitions)
            row = Role(
                id=role.id,
                tenant_id=tenant_id,
                name=name,
                rank=rank,
                inherits=inherits,
                description=description,
            )
            session.add(row)
            await session.flush()
            session.add_all(_permissions(role.id, role.permissions))
            await record(
                session, tenant_id, "role.create", resource=("role", role.id), details=_told(role)
            )
            return _described(row, {**definitions, role.id: role})

    async def update(
        self, tenant_id: str, by: Actor | None, role_id: str, changes: Mapping[str, Any]
    ) -> Described:
        """Change what ``changes`` names: name, description, inherits, rank, permissions. Who has
        the role, or one that inherits from it, has it as it is then. None takes away a description
        and what it inherits from.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            row = await _row(session, role_id, definitions)
            before = _own(definitions[role_id])
            inherits = changes.get("inherits", before.inherits)
            after = replace(
                before,
                name=changes.get("name", before.name),
                rank=changes.get("rank", max(before.rank, _lowest(inherits, definitions))),
                inherits=inherits,
                permissions=frozenset(changes.get("permissions", before.permissions)),
                meaning=changes.get("description", row.description) or "",
            )
            _check(hand, after, definitions)
            row.name, row.rank, row.inherits = after.name, after.rank, after.inherits
            row.description, row.updated_at = after.meaning or None, now()
            session.add(row)
            gone = before.permissions - after.permissions
            await session.exec(
                delete(RolePermission).where(
                    col(RolePermission.role_id) == role_id,
                    col(RolePermission.permission).in_(sorted(gone)),
                )
            )
            session.add_all(_permissions(role_id, after.permissions - before.permissions))
            await record(
                session, tenant_id, "role.update", resource=("role", role_id), details=_told(after)
            )
        await announce(self._changed, ("role", role_id))
        return _described(row, {**definitions, role_id: after})

    async def delete(
        self, tenant_id: str, by: Actor | None, role_id: str, instead: str | None = None
    ) -> None:
        """Delete a role of the tenant that nobody has, no invitation gives and no role inherits
        from; with ``instead`` all of these have that other role then.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            row = await _row(session, role_id, definitions)
            role = _own(definitions[role_id])
            why = why_not_touch(hand, [role_id], definitions)
            if instead is not None:
                if instead not in definitions:
                    raise Fault("invalid_params", f"There is no role {instead} here.")
                if role_id in lineage(instead, definitions):
                    raise Fault("conflict", "The other role is this one, or inherits from it.")
                why = why or why_not_replace(hand, role_id, instead, definitions)
            if why is not None:
                raise Fault("permission_denied", why)
            await _drop_expired(session, role_id)
            if instead is not None:
                await _replace(session, role_id, instead)
            elif use := await _use(session, role_id, definitions):
                raise Fault(
                    "conflict",
                    f"The role is in use: {use}. Name another role that they shall have instead.",
                )
            await session.exec(delete(RolePermission).where(col(RolePermission.role_id) == role_id))
            await session.delete(row)
            try:
                await session.flush()
            except IntegrityError:
                raise Fault("conflict", "The role is in use.") from None
            details: dict[str, str | None] = {"name": role.name, "instead": instead}
            await record(
                session, tenant_id, "role.delete", resource=("role", role_id), details=details
            )
        await announce(self._changed, ("role", role_id))


async def _row(session: AsyncSession, role_id: str, definitions: Definitions) -> Role:
    row = await session.get(Role, role_id) if role_id in definitions else None
    if row is None:
        raise Fault("not_found")
    return row


def _own(role: RoleDefinition) -> RoleDefinition:
    if role.tenant_id is None:
        raise Fault("permission_denied", "A built-in role stays as it is; make one of your own.")
    return role


def _check(hand: Hand, role: RoleDefinition, definitions: Definitions) -> None:
    """Raise Fault unless the role can be, and is theirs to make so."""
    if not _NAME.fullmatch(role.name):
        raise Fault("invalid_params", "name: lower-case letters, digits and hyphens, 64 at most.")
    same = [each for each in definitions.values() if each.name == role.name and each.id != role.id]
    if same or role.name in BUILT_IN:
        raise Fault("conflict", f"There is a role {role.name!r} here already.")
    if not LOWEST <= role.rank <= HIGHEST:
        raise Fault("invalid_params", f"rank: from {LOWEST} to {HIGHEST}.")
    if len(role.meaning) > LONGEST_DESCRIPTION:
        raise Fault("invalid_params", f"description: {LONGEST_DESCRIPTION} characters at most.")
    if len(role.permissions) > MOST_PERMISSIONS:
        raise Fault("invalid_params", f"permissions: {MOST_PERMISSIONS} at most.")
    if unknown := sorted(each for each in role.permissions if declaration(each) is None):
        raise Fault(
            "invalid_params", f"permissions: there is no {unknown[0][:100]!r}; see permission.list."
        )
    if role.inherits is not None:
        if role.inherits not in definitions:
            raise Fault("invalid_params", f"inherits: there is no role {role.inherits} here.")
        if closes_circle(role.id, role.inherits, definitions):
            raise Fault("conflict", "inherits: the role would inherit from itself.")
        lowest = _lowest(role.inherits, definitions)
        if role.rank < lowest:
            raise Fault(
                "invalid_params", f"rank: what it inherits from ranks {lowest}; it ranks no lower."
            )
    if (why := why_not_define(hand, role, definitions)) is not None:
        raise Fault("permission_denied", why)


def _lowest(inherits: str | None, definitions: Definitions) -> int:
    """The rank that a role has at least which inherits from that one."""
    return max(LOWEST, rank_of([inherits], definitions)) if inherits else LOWEST


def _permissions(role_id: str, permissions: Collection[str]) -> list[RolePermission]:
    return [RolePermission(role_id=role_id, permission=each) for each in sorted(permissions)]


async def _drop_expired(session: AsyncSession, role_id: str) -> None:
    """What names the role and gives nothing any more keeps nobody from deleting it."""
    moment = now()
    for table in (Membership, GroupRole):
        await session.exec(
            delete(table).where(col(table.role_id) == role_id, col(table.expires_at) <= moment)
        )
    over = or_(col(Invitation.expires_at) <= moment, col(Invitation.used_at).is_not(None))
    await session.exec(delete(Invitation).where(col(Invitation.role_id) == role_id, over))


async def _use(session: AsyncSession, role_id: str, definitions: Definitions) -> str:
    found = []
    for table, what in (
        (Membership, "users have it"),
        (GroupRole, "groups have it"),
        (Invitation, "invitations give it"),
    ):
        rows = await session.exec(select(table).where(col(table.role_id) == role_id).limit(1))
        if rows.first() is not None:
            found.append(what)
    if heirs(role_id, definitions):
        found.append("roles inherit from it")
    return ", ".join(found)


async def _replace(session: AsyncSession, role_id: str, instead: str) -> None:
    """Let all that names one role name the other. Who has both keeps the one that lasts longer."""
    for table, whose in ((Membership, "user_id"), (GroupRole, "group_id")):
        both = await session.exec(
            select(table).where(col(table.role_id).in_([role_id, instead])).with_for_update()
        )
        kept: dict[str, Any] = {}
        rows: list[Any] = sorted(both.all(), key=lambda row: row.role_id != instead)
        for row in rows:
            other = kept.setdefault(getattr(row, whose), row)
            if other is not row:
                if None in (other.expires_at, row.expires_at):
                    other.expires_at = None
                else:
                    other.expires_at = max(other.expires_at, row.expires_at)
                await session.delete(row)
        await session.flush()
        for row in kept.values():
            row.role_id = instead
            session.add(row)
    await session.exec(
        update(Invitation).where(col(Invitation.role_id) == role_id).values(role_id=instead)
    )
    await session.exec(update(Role).where(col(Role.inherits) == role_id).values(inherits=instead))
    await session.flush()


def _told(role: RoleDefinition) -> dict[str, str | int | list[str] | None]:
    return {
        "name": role.name,
        "rank": role.rank,
        "inherits": role.inherits,
        "permissions": sorted(role.permissions),
    }


def _described(row: Role, definitions: Definitions) -> Described:
    definition = definitions[row.id]
    built_in = row.tenant_id is None
    return Described(
        id=row.id,
        name=row.name,
        description=BUILT_IN[row.id].meaning if row.id in BUILT_IN else row.description,
        rank=rank_of([row.id], definitions),
        inherits=row.inherits,
        built_in=built_in,
        permissions=sorted(definition.permissions),
        all_permissions=sorted(compile_roles([row.id], definitions)),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
