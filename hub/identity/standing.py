"""What the database says, right now, about the holders of login sessions and about members."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, get_args

from sqlalchemy import bindparam, or_, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.rbac.actor import Actor
from hub.rbac.roles import RoleDefinition, compile_roles
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, prebuilt
from hub.storage.tables import (
    LoginSession,
    Membership,
    Role,
    RolePermission,
    Tenant,
    User,
    now,
)

UNLIMITED_S: Final = 1e9
"""What remains of what does not expire."""


class Member(NamedTuple):
    """A user in a tenant, whichever way they are signed in, if at all."""

    user_id: str
    tenant_id: str


Key = str | Member
"""Who is looked up: the holder of a login session, by its id, or a member."""

Why = Literal[
    "session_revoked", "session_expired", "user_disabled", "tenant_suspended", "membership_ended"
]
"""Why there is no standing. Of several causes the first is told: who holds a session that was
revoked may have stolen it, and learns nothing more of the account.
"""
WHYS: Final[tuple[Why, ...]] = get_args(Why)


@dataclass(frozen=True, slots=True)
class Standing:
    """An actor as of now. ``role_ids``: every role that its permissions come from, inherited ones
    included. ``remaining_s``: seconds until the login session expires.
    """

    actor: Actor
    role_ids: frozenset[str]
    remaining_s: float


class _Row(NamedTuple):
    key: Key
    user_id: str
    tenant_id: str
    session_id: str
    remaining_s: float
    role_id: str


_HOLDERS: Final[Any] = prebuilt(
    select(  # type: ignore[call-overload]
        LoginSession.id,
        LoginSession.user_id,
        LoginSession.tenant_id,
        LoginSession.expires_at,
        Membership.role_id,
    )
    .join(User, col(User.id) == LoginSession.user_id)
    .join(Tenant, col(Tenant.id) == LoginSession.tenant_id)
    .join(
        Membership,
        (col(Membership.user_id) == LoginSession.user_id)
        & (col(Membership.tenant_id) == LoginSession.tenant_id),
    )
    .where(
        col(LoginSession.id).in_(bindparam("sessions", expanding=True)),
        col(LoginSession.revoked_at).is_(None),
        col(LoginSession.expires_at) > bindparam("moment"),
        col(User.disabled_at).is_(None),
        col(Tenant.suspended_at).is_(None),
    )
)


async def look_up(database: Database, keys: Collection[Key]) -> dict[Key, Standing]:
    """The standing of each login session that is alive, whose user is enabled, whose tenant is not
    suspended, and whose user is a member there; and of each member of whom the same is true. Others
    are left out (see ``why``).

    Raises Fault("backend_unavailable").
    """
    moment = now()
    sessions = [key for key in keys if isinstance(key, str)]
    members = [key for key in keys if not isinstance(key, str)]
    rows: list[_Row] = []
    async with database.read(EVERY_TENANT) as session:
        if sessions:
            rows += await _holders(session, sessions, moment)
        if members:
            rows += await _members(session, members)
        definitions = await _definitions(session, {row.tenant_id for row in rows})
    held: dict[Key, list[_Row]] = {}
    for row in rows:
        held.setdefault(row.key, []).append(row)
    given = _Given(definitions)
    found: dict[Key, Standing] = {}
    for key, (row, *more) in held.items():
        names, permissions, ancestry = given.by(tuple(sorted(r.role_id for r in (row, *more))))
        actor = Actor(row.user_id, row.tenant_id, row.session_id, names, permissions)
        found[key] = Standing(actor, ancestry, row.remaining_s)
    return found


async def why(database: Database, session_ids: Collection[str]) -> dict[str, Why]:
    """Why each of these login sessions has no standing; those that never were are left out.

    Raises Fault("backend_unavailable").
    """
    moment = now()
    statement: Any = (
        select(  # type: ignore[call-overload]
            LoginSession.id,
            LoginSession.revoked_at,
            LoginSession.expires_at,
            User.disabled_at,
            Tenant.suspended_at,
        )
        .join(User, col(User.id) == LoginSession.user_id)
        .join(Tenant, col(Tenant.id) == LoginSession.tenant_id)
        .where(col(LoginSession.id).in_(session_ids))
    )
    async with database.read(EVERY_TENANT) as session:
        rows = (await session.exec(statement)).all()
    causes: dict[str, Why] = {}
    for id, revoked_at, expires_at, disabled_at, suspended_at in rows:
        true = (revoked_at, expires_at <= moment, disabled_at, suspended_at, True)
        causes[id] = next(why for why, applies in zip(WHYS, true, strict=True) if applies)
    return causes


async def _holders(session: AsyncSession, ids: list[str], moment: datetime) -> list[_Row]:
    rows = await session.exec(_HOLDERS, params={"sessions": ids, "moment": moment})
    return [
        _Row(id, user_id, tenant_id, id, (expires_at - moment).total_seconds(), role_id)
        for id, user_id, tenant_id, expires_at, role_id in rows.all()
    ]


async def _members(session: AsyncSession, members: list[Member]) -> list[_Row]:
    place = tuple_(col(Membership.user_id), col(Membership.tenant_id))
    rows = await session.exec(
        select(Membership.user_id, Membership.tenant_id, Membership.role_id)
        .join(User, col(User.id) == Membership.user_id)
        .join(Tenant, col(Tenant.id) == Membership.tenant_id)
        .where(
            place.in_(members),
            col(User.disabled_at).is_(None),
            col(Tenant.suspended_at).is_(None),
        )
    )
    return [
        _Row(Member(user_id, tenant_id), user_id, tenant_id, "", UNLIMITED_S, role_id)
        for user_id, tenant_id, role_id in rows.all()
    ]


class _Given:
    """What roles give, worked out once for all who hold the same."""

    def __init__(self, definitions: dict[str, RoleDefinition]) -> None:
        self._definitions = definitions
        self._known: dict[
            tuple[str, ...], tuple[tuple[str, ...], frozenset[str], frozenset[str]]
        ] = {}

    def by(self, roles: tuple[str, ...]) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]]:
        """The names of the roles, the permissions, and the roles that these come from."""
        if (known := self._known.get(roles)) is None:
            definitions = self._definitions
            known = self._known[roles] = (
                _one_list(tuple(sorted(definitions[r].name for r in roles if r in definitions))),
                _one(compile_roles(roles, definitions)),
                _one(_ancestry(roles, definitions)),
            )
        return known


@lru_cache(maxsize=4_096)
def _one(same: frozenset[str]) -> frozenset[str]:
    """The one that all share: ten thousand actors who may do the same are not ten thousand sets."""
    return same


@lru_cache(maxsize=4_096)
def _one_list(same: tuple[str, ...]) -> tuple[str, ...]:
    return same


async def _definitions(
    session: AsyncSession, tenant_ids: Iterable[str]
) -> dict[str, RoleDefinition]:
    """The built-in roles and those of the tenants. One tenant's role gives nothing in another."""
    rows = await session.exec(
        select(Role, RolePermission.permission)
        .join(RolePermission, col(RolePermission.role_id) == Role.id, isouter=True)
        .where(or_(col(Role.tenant_id).is_(None), col(Role.tenant_id).in_(list(tenant_ids))))
    )
    roles: dict[str, Role] = {}
    permissions: dict[str, set[str]] = {}
    for role, permission in rows.all():
        roles[role.id] = role
        own = permissions.setdefault(role.id, set())
        if permission is not None:
            own.add(permission)
    return {
        role.id: RoleDefinition(
            role.id, role.name, role.rank, role.inherits, frozenset(permissions[role.id])
        )
        for role in roles.values()
    }


def _ancestry(roles: Iterable[str], definitions: dict[str, RoleDefinition]) -> frozenset[str]:
    found: set[str] = set()
    for role in roles:
        current: str | None = role
        while current is not None and current not in found:
            found.add(current)
            known = definitions.get(current)
            current = known.inherits if known else None
    return frozenset(found)
