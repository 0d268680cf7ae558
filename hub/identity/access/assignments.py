"""Who has which role: giving it to users and groups, taking it, and why it allows what it does."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.definitions import definitions_of
from hub.identity.access.disabled import not_disabled
from hub.identity.access.holdings import hand_of, held_by, held_by_group, is_known, lives
from hub.identity.access.owners import keep_an_owner
from hub.identity.access.remains import forget_remains
from hub.ids import is_id, new_id
from hub.rbac.actor import Actor
from hub.rbac.explaining import Way, ways
from hub.rbac.inheritance import Definitions
from hub.rbac.permissions import declaration
from hub.rbac.ranks import why_not_give, why_not_to, why_not_touch
from hub.rbac.roles import OWNER
from hub.storage.database import Database
from hub.storage.tables import Group, GroupRole, Membership, Tenant, User, now

PERMISSION: Final = "role:assign"


@dataclass(frozen=True, slots=True)
class Target:
    """To whom a role is given: a user, or all who are in a group. One of the two is None."""

    user_id: str | None = None
    group_id: str | None = None

    @property
    def kind(self) -> str:
        return "user" if self.group_id is None else "group"

    @property
    def id(self) -> str:
        found = self.user_id if self.group_id is None else self.group_id
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Assignment:
    """That a user, or a group, has a role: for good, or until ``expires_at``."""

    id: str
    role_id: str
    role: str
    user_id: str | None
    group_id: str | None
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why somebody has a permission, or lacks it: every way to it, the roles that they have, those
    that there are, and the names of the groups that they are in. ``trouble``: what keeps them from
    everything here, None for nothing.
    """

    ways: list[Way]
    role_ids: frozenset[str]
    definitions: Definitions
    groups: dict[str, str]
    trouble: str | None


class Assignments:
    """Roles as users and groups of a tenant have them. ``changed``, ``by`` and the faults are as
    in ``hub.identity.access.roles``: nobody gives what is above them, or anything to themselves,
    and a tenant keeps an owner.
    """

    def __init__(self, database: Database, *, changed: Changed | None = None) -> None:
        self._database = database
        self._changed = changed

    async def give(
        self,
        tenant_id: str,
        by: Actor | None,
        role_id: str,
        to: Target,
        expires_at: datetime | None = None,
    ) -> Assignment:
        """Let them have a role from now on, until ``expires_at`` if that is said. Who has it has
        it until then from now on, longer or shorter than before.
        """
        until = None if expires_at is None else _coming(expires_at)
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            role = definitions.get(role_id)
            if role is None:
                raise Fault("not_found", "There is no such role here.")
            theirs = await _roles_of(session, tenant_id, to)
            why = (
                why_not_to(hand, to.id)
                or why_not_touch(hand, theirs, definitions)
                or why_not_give(hand, [role_id], definitions)
            )
            if why is not None:
                raise Fault("permission_denied", why)
            row = await _assigned(session, tenant_id, role_id, to)
            shortens = row is not None and row.expires_at is None and until is not None
            if row is None:
                row = _new(tenant_id, role_id, to)
            row.expires_at = until
            session.add(row)
            if to.user_id is not None and not theirs:  # they come back, from now on
                await forget_remains(session, tenant_id, to.user_id)
            if role_id == OWNER and shortens and to.kind == "user":
                await keep_an_owner(session, tenant_id)
            end = None if until is None else until.isoformat()
            details = {"role_id": role_id, "role": role.name, "expires_at": end}
            await record(
                session, tenant_id, "role.assign", resource=(to.kind, to.id), details=details
            )
        await announce(self._changed, (to.kind, to.id))
        return _told(row, definitions)

    async def take(self, tenant_id: str, by: Actor | None, role_id: str, of: Target) -> None:
        """Take a role away. One may give up one's own. Raises Fault("not_found") for a role that
        they do not have, "conflict" for a user's last one: without it they would be no member.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, PERMISSION)
            theirs = await _roles_of(session, tenant_id, of)
            row = await _assigned(session, tenant_id, role_id, of)
            if row is None or (row.expires_at is not None and row.expires_at <= now()):
                raise Fault("not_found", f"This {of.kind} does not have this role.")
            if (why := why_not_touch(hand, theirs, definitions)) is not None:
                raise Fault("permission_denied", why)
            await session.delete(row)
            await session.flush()
            if of.kind == "user":
                if role_id == OWNER and row.expires_at is None:
                    await keep_an_owner(session, tenant_id)
                if not (await held_by(session, tenant_id, of.id)).member:
                    raise Fault(
                        "conflict",
                        "It is the last role that they have here, and makes them a member. Give "
                        "them another first, or end their membership.",
                    )
            name = definitions[role_id].name if role_id in definitions else role_id
            details = {"role_id": role_id, "role": name}
            await record(
                session, tenant_id, "role.revoke", resource=(of.kind, of.id), details=details
            )
        await announce(self._changed, (of.kind, of.id))

    async def page(
        self,
        tenant_id: str,
        after: str | None,
        limit: int,
        *,
        role_id: str | None = None,
        of: Target | None = None,
    ) -> list[Assignment]:
        """So many assignments that are in force, those of groups first, after one of them."""
        found: list[Assignment] = []
        async with self._database.read(tenant_id) as session:
            definitions = await definitions_of(session, [tenant_id])
            for table, kind, prefix in ((GroupRole, "group", "gr"), (Membership, "user", "ms")):
                if of is not None and of.kind != kind:
                    continue
                begun = after is not None and is_id(after, prefix)
                if len(found) == limit or (after is not None and not begun and kind == "group"):
                    continue
                statement = _in_force(table, role_id)
                if of is not None:
                    statement = statement.where(getattr(table, f"{kind}_id") == of.id)
                if after is not None and begun:
                    statement = statement.where(table.id > after)
                statement = statement.order_by(table.id).limit(limit - len(found))
                rows = (await session.exec(statement)).all()
                found += [_told(row, definitions) for row in rows]
        return found

    async def explain(self, tenant_id: str, user_id: str, permission: str) -> Reasons:
        """Why a member may do something of the tenant's, or why not. Raises Fault("not_found") for
        who is no member, "invalid_params" for a permission that does not exist.
        """
        if declaration(permission) is None:
            raise Fault("invalid_params", "permission: there is none of this name.")
        async with self._database.read(tenant_id) as session:
            if not await is_known(session, tenant_id, user_id):
                raise Fault("not_found", "There is no such user here.")
            definitions = await definitions_of(session, [tenant_id])
            held = await held_by(session, tenant_id, user_id)
            found = ways(permission, held.holdings, definitions)
            groups = await session.exec(
                select(Group.id, Group.name).where(col(Group.id).in_(sorted(held.group_ids)))
            )
            named = dict(groups.all())
            enabled = select(Membership.id).join(User, col(User.id) == Membership.user_id)
            enabled = enabled.where(
                Membership.tenant_id == tenant_id,
                Membership.user_id == user_id,
                not_disabled(),
            )
            disabled = (await session.exec(enabled.limit(1))).first() is None
            suspended = (
                await session.exec(select(Tenant.suspended_at).where(Tenant.id == tenant_id))
            ).first()
        trouble = None
        if disabled:
            trouble = "the user is disabled"
        elif suspended is not None:
            trouble = "the tenant is suspended"
        elif not held.member:
            trouble = "every role that made the user a member has expired"
        return Reasons(found, held.role_ids & definitions.keys(), definitions, named, trouble)


def _coming(instant: datetime) -> datetime:
    """It, in UTC. Raises Fault("invalid_params") for one that has been."""
    try:
        found = instant.astimezone(UTC)
    except OverflowError:
        raise Fault("invalid_params", "expires_at: it is too far away.") from None
    if found <= now():
        raise Fault("invalid_params", "expires_at: it is in the past.")
    return found


async def _roles_of(session: AsyncSession, tenant_id: str, target: Target) -> frozenset[str]:
    """What a target has now, by which it ranks. Raises Fault("not_found") for none of theirs."""
    if target.group_id is not None:
        if await session.get(Group, target.group_id) is None:
            raise Fault("not_found", "There is no such group here.")
        return await held_by_group(session, target.group_id)
    if not await is_known(session, tenant_id, target.id):
        raise Fault("not_found", "There is no such user here.")
    return (await held_by(session, tenant_id, target.id)).role_ids


async def _assigned(
    session: AsyncSession, tenant_id: str, role_id: str, target: Target
) -> Membership | GroupRole | None:
    if target.group_id is not None:
        of_group = select(GroupRole).where(
            GroupRole.group_id == target.group_id, GroupRole.role_id == role_id
        )
        return (await session.exec(of_group)).first()
    of_user = select(Membership).where(
        Membership.tenant_id == tenant_id,
        Membership.user_id == target.user_id,
        Membership.role_id == role_id,
    )
    return (await session.exec(of_user)).first()


def _new(tenant_id: str, role_id: str, target: Target) -> Membership | GroupRole:
    if target.group_id is not None:
        return GroupRole(
            id=new_id("gr"), tenant_id=tenant_id, group_id=target.group_id, role_id=role_id
        )
    return Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=target.id, role_id=role_id)


def _in_force(table: Any, role_id: str | None) -> Any:
    statement = select(table).where(lives(now(), table))
    return statement if role_id is None else statement.where(table.role_id == role_id)


def _told(row: Membership | GroupRole, definitions: Definitions) -> Assignment:
    role = definitions.get(row.role_id)
    return Assignment(
        id=row.id,
        role_id=row.role_id,
        role=role.name if role is not None else row.role_id,
        user_id=row.user_id if isinstance(row, Membership) else None,
        group_id=row.group_id if isinstance(row, GroupRole) else None,
        expires_at=row.expires_at,
        created_at=row.created_at,
    )
