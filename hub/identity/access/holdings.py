"""What users have in a tenant at this moment: their roles, of themselves and by their groups."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.identity.access.definitions import definitions_of
from hub.identity.access.disabled import not_disabled
from hub.identity.access.owners import lock
from hub.rbac.actor import Actor
from hub.rbac.explaining import Holding
from hub.rbac.inheritance import Definitions, ancestry, rank_of
from hub.rbac.ranks import OPERATOR, Hand, why_not_touch
from hub.rbac.roles import OWNER, compile_roles
from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import GroupMember, GroupRole, Membership, Tenant, User, now


class InGroup(NamedTuple):
    """That a user is in a group, and a role that the group has, if it has one."""

    user_id: str
    tenant_id: str
    group_id: str
    role_id: str | None
    expires_at: datetime | None


def lives(moment: Any, table: Any = Membership) -> Any:
    """The condition that a ``Membership``, or a ``GroupRole``, has not expired at ``moment``: a
    datetime, or a parameter of a statement.
    """
    expires = col(table.expires_at)
    return or_(expires.is_(None), expires > moment)


def admitted(moment: Any) -> Any:
    """The condition that the user of a ``Membership`` may enter its tenant at ``moment``: it lives,
    the user is enabled, and the tenant is not suspended. All three tables are in the statement.
    """
    return and_(lives(moment), not_disabled(), col(Tenant.suspended_at).is_(None))


_IN_GROUPS: Any = prebuilt(
    select(  # type: ignore[call-overload]
        GroupMember.user_id,
        GroupMember.tenant_id,
        GroupMember.group_id,
        GroupRole.role_id,
        GroupRole.expires_at,
    )
    .join(
        GroupRole,
        and_(
            col(GroupRole.group_id) == GroupMember.group_id,
            lives(bindparam("moment"), GroupRole),
        ),
        isouter=True,
    )
    .where(col(GroupMember.user_id).in_(bindparam("users", expanding=True)))
)


async def in_groups(
    session: AsyncSession, user_ids: Collection[str], moment: datetime
) -> list[InGroup]:
    """The groups that users are in, with the roles that these have at ``moment``."""
    params = {"users": padded(sorted(user_ids)), "moment": moment}
    return [InGroup(*row) for row in (await session.exec(_IN_GROUPS, params=params)).all()]


class Held(NamedTuple):
    """What one user has in one tenant. ``member``: whether they are a member at all, without which
    ``holdings`` is empty.
    """

    member: bool
    holdings: list[Holding]
    group_ids: frozenset[str]

    @property
    def role_ids(self) -> frozenset[str]:
        return frozenset(holding.role_id for holding in self.holdings)


async def held_by(session: AsyncSession, tenant_id: str, user_id: str) -> Held:
    """What a user has at this moment, in the transaction of ``session``."""
    moment = now()
    direct = await session.exec(
        select(Membership.role_id, Membership.expires_at).where(
            Membership.tenant_id == tenant_id, Membership.user_id == user_id, lives(moment)
        )
    )
    holdings = [Holding(role_id, None, expires_at) for role_id, expires_at in direct.all()]
    if not holdings:
        return Held(False, [], frozenset())
    grouped = [
        each for each in await in_groups(session, [user_id], moment) if each.tenant_id == tenant_id
    ]
    holdings += [
        Holding(each.role_id, each.group_id, each.expires_at)
        for each in grouped
        if each.role_id is not None
    ]
    return Held(True, holdings, frozenset(each.group_id for each in grouped))


async def held_by_group(session: AsyncSession, group_id: str) -> frozenset[str]:
    """The roles that a group has at this moment."""
    roles = select(GroupRole.role_id).where(GroupRole.group_id == group_id, lives(now(), GroupRole))
    return frozenset((await session.exec(roles)).all())


async def hand_of(
    session: AsyncSession, tenant_id: str, by: Actor | None, permission: str
) -> tuple[Hand, Definitions]:
    """Begin a change of who may do what in a tenant: from here on no other is under way. Who makes
    it (None: the operator), as of this moment, and the tenant's roles.

    Raises Fault("permission_denied") for who may not do ``permission`` any more, "not_found" for no
    such tenant.
    """
    await lock(session, tenant_id)
    definitions = await definitions_of(session, [tenant_id])
    if by is None:
        return OPERATOR, definitions
    hand = await hand_there(session, tenant_id, by.user_id, definitions, by.permissions)
    if hand is None or not hand.holds(permission):
        raise Fault("permission_denied")
    return hand, definitions


async def may_change(
    session: AsyncSession, tenant_id: str, by: Actor | None, user_id: str, permission: str
) -> bool:
    """Begin what ``by`` (None: the operator) does about a member of a tenant by ``permission``;
    from here on no other change of who may do what is under way there. Whether the member is an
    owner.

    Raises Fault: "not_found" for no member, "conflict" for ``by`` themself, and
    "permission_denied" for who ranks above them, or when they may not do it any more.
    """
    hand, definitions = await hand_of(session, tenant_id, by, permission)
    if not await is_known(session, tenant_id, user_id):
        raise Fault("not_found", "There is no such user here.")
    if user_id == hand.user_id:
        raise Fault("conflict", "Nobody does this to themselves here.")
    held = await held_by(session, tenant_id, user_id)
    if (why := why_not_touch(hand, held.role_ids, definitions)) is not None:
        raise Fault("permission_denied", why)
    return OWNER in held.role_ids


async def hand_there(
    session: AsyncSession,
    tenant_id: str,
    user_id: str,
    definitions: Definitions,
    within: frozenset[str] | None = None,
) -> Hand | None:
    """What a user of the tenant may give and take at this moment, by roles of their own and of
    their groups; None for who is disabled, or no member. ``within``: see ``Hand``.
    """
    enabled = (
        select(User.id)
        .join(Membership, col(Membership.user_id) == User.id)
        .where(
            User.id == user_id,
            Membership.tenant_id == tenant_id,
            not_disabled(),
        )
        .limit(1)
    )
    held = await held_by(session, tenant_id, user_id)
    if not held.member or (await session.exec(enabled)).first() is None:
        return None
    return Hand(
        user_id,
        rank_of(held.role_ids, definitions),
        compile_roles(held.role_ids, definitions),
        ancestry(held.role_ids, definitions) | held.group_ids,
        within,
    )


async def is_known(session: AsyncSession, tenant_id: str, user_id: str) -> bool:
    """Whether a user belongs to a tenant, or did until what they had there expired."""
    found = select(Membership.id).where(
        Membership.tenant_id == tenant_id, Membership.user_id == user_id
    )
    return (await session.exec(found.limit(1))).first() is not None
