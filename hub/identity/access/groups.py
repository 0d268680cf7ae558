"""Groups: users of a tenant that roles are given to, and things are shared with, together."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.holdings import hand_of, held_by, held_by_group, is_known
from hub.identity.access.names import name_in
from hub.identity.access.shares import forget_group_shares
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.inheritance import Definitions
from hub.rbac.ranks import Hand, why_not_give, why_not_to, why_not_touch
from hub.storage.database import Database
from hub.storage.tables import Group, GroupMember, GroupRole, User, now

PERMISSION: Final = "group:write"
MOST_OF_A_USER: Final = 100
"""Groups that a user may be in: all of them are read when the user is looked up."""
LONGEST_NAME: Final = 64
LONGEST_DESCRIPTION: Final = 400
MOST_TOLD: Final = 100
"""Conversations that the audit trail names of those that were shared with a group when it went."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Somebody in a group, since when."""

    user_id: str
    email: str
    name: str | None
    created_at: datetime


class Groups:
    """The groups of tenants. ``changed``, ``by`` and the faults are as in
    ``hub.identity.access.roles``: nobody puts themselves into a group, or anybody into one whose
    roles are not theirs to give.
    """

    def __init__(self, database: Database, *, changed: Changed | None = None) -> None:
        self._database = database
        self._changed = changed

    async def page(self, tenant_id: str, after: str | None, limit: int) -> list[Group]:
        """So many groups, by their ids, after one of them."""
        statement = select(Group).order_by(col(Group.id)).limit(limit)
        if after is not None:
            statement = statement.where(col(Group.id) > after)
        async with self._database.read(tenant_id) as session:
            return list((await session.exec(statement)).all())

    async def get(self, tenant_id: str, group_id: str) -> Group:
        """One of them. Raises Fault("not_found")."""
        async with self._database.read(tenant_id) as session:
            return await _row(session, group_id)

    async def members(
        self, tenant_id: str, group_id: str, after: str | None, limit: int
    ) -> list[Listed]:
        """So many of who is in a group, by their ids, after one of them."""
        statement = (
            select(User.id, User.email, name_in(tenant_id), GroupMember.created_at)
            .join(GroupMember, col(GroupMember.user_id) == User.id)
            .where(GroupMember.group_id == group_id)
            .order_by(col(User.id))
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(col(User.id) > after)
        async with self._database.read(tenant_id) as session:
            await _row(session, group_id)
            return [Listed(*row) for row in (await session.exec(statement)).all()]

    async def create(
        self, tenant_id: str, by: Actor | None, name: str, description: str | None = None
    ) -> Group:
        """A new group, with nobody in it."""
        async with self._database.write(tenant_id) as session:
            await hand_of(session, tenant_id, by, PERMISSION)
            await _check(session, name, description)
            row = Group(id=new_id("g"), tenant_id=tenant_id, name=name, description=description)
            session.add(row)
            await session.flush()
            await record(
                session,
                tenant_id,
                "group.create",
                resource=("group", row.id),
                details={"name": name},
            )
        return row

    async def update(
        self, tenant_id: str, by: Actor | None, group_id: str, changes: Mapping[str, str | None]
    ) -> Group:
        """Change its name or description, whichever ``changes`` names."""
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            row = await _row(session, group_id)
            _may_touch(hand, await held_by_group(session, group_id), definitions)
            asked = changes.get("name")
            name = row.name if asked is None else asked
            description = changes.get("description", row.description)
            await _check(session, name, description, own=group_id)
            row.name, row.description = name, description
            row.updated_at = now()
            session.add(row)
            await record(
                session,
                tenant_id,
                "group.update",
                resource=("group", group_id),
                details={"name": row.name},
            )
        return row

    async def delete(self, tenant_id: str, by: Actor | None, group_id: str) -> None:
        """Delete a group, and what was shared with it: what its members had by it they have no
        more.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            row = await session.get(Group, group_id, with_for_update=True)  # nothing is shared now
            if row is None:
                raise Fault("not_found")
            _may_touch(hand, await held_by_group(session, group_id), definitions)
            shared = await forget_group_shares(session, group_id)
            for table in (GroupRole, GroupMember):
                await session.exec(delete(table).where(col(table.group_id) == group_id))
            await session.delete(row)
            await record(
                session,
                tenant_id,
                "group.delete",
                resource=("group", group_id),
                details={
                    "name": row.name,
                    "shares": len(shared),
                    "conversations": shared[:MOST_TOLD] or None,
                },
            )
        await announce(self._changed, ("group", group_id))

    async def add(self, tenant_id: str, by: Actor | None, group_id: str, user_id: str) -> None:
        """Put a member of the tenant into a group. Idempotent."""
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            await _row(session, group_id)
            if not await is_known(session, tenant_id, user_id):
                raise Fault("not_found", "There is no such user here.")
            why = why_not_to(hand, user_id)
            why = why or why_not_give(hand, await held_by_group(session, group_id), definitions)
            if why is not None:
                raise Fault("permission_denied", why)
            if await session.get(GroupMember, (group_id, user_id)) is not None:
                return
            of_user = select(func.count()).where(col(GroupMember.user_id) == user_id)
            if (await session.exec(of_user)).one() >= MOST_OF_A_USER:
                raise Fault("conflict", f"A user is in {MOST_OF_A_USER} groups at most.")
            session.add(GroupMember(tenant_id=tenant_id, group_id=group_id, user_id=user_id))
            await session.flush()
            await record(
                session,
                tenant_id,
                "group.add",
                resource=("group", group_id),
                details={"user_id": user_id},
            )
        await announce(self._changed, ("user", user_id))

    async def remove(self, tenant_id: str, by: Actor | None, group_id: str, user_id: str) -> None:
        """Take somebody out of a group. Raises Fault("not_found") for who is not in it."""
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            await _row(session, group_id)
            row = await session.get(GroupMember, (group_id, user_id))
            if row is None:
                raise Fault("not_found", "There is no such user in this group.")
            theirs = await held_by(session, tenant_id, user_id)
            _may_touch(hand, theirs.role_ids, definitions)
            await session.delete(row)
            await record(
                session,
                tenant_id,
                "group.remove",
                resource=("group", group_id),
                details={"user_id": user_id},
            )
        await announce(self._changed, ("user", user_id))


async def _row(session: AsyncSession, group_id: str) -> Group:
    row = await session.get(Group, group_id)
    if row is None:
        raise Fault("not_found")
    return row


async def _check(
    session: AsyncSession, name: str, description: str | None, own: str | None = None
) -> None:
    """Raise Fault unless a group, ``own`` if it is there already, can be so."""
    if not 1 <= len(name) <= LONGEST_NAME:
        raise Fault("invalid_params", f"name: {LONGEST_NAME} characters at most, and one at least.")
    if len(description or "") > LONGEST_DESCRIPTION:
        raise Fault("invalid_params", f"description: {LONGEST_DESCRIPTION} characters at most.")
    same = (await session.exec(select(Group.id).where(Group.name == name))).first()
    if same not in (None, own):
        raise Fault("conflict", f"There is a group {name!r} here already.")


def _may_touch(hand: Hand, role_ids: frozenset[str], definitions: Definitions) -> None:
    if (why := why_not_touch(hand, role_ids, definitions)) is not None:
        raise Fault("permission_denied", why)
