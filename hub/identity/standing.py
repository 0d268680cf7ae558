"""What the database says, right now, about the holders of login sessions and API keys, and about
members.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, cast, get_args

from sqlalchemy import bindparam, or_, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.identity.api_key_text import KeyHolder, KeyUser
from hub.identity.key_standing import ByKey, Grant, grants, refusals
from hub.rbac.actor import Actor
from hub.rbac.roles import RoleDefinition, compile_roles
from hub.rbac.scopes import narrowed
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


Key = str | Member | KeyHolder | KeyUser
"""Who is looked up: the holder of a login session, by its id; a member; whoever shows an API key;
or a member through a key of theirs.
"""

Why = Literal[
    "session_revoked",
    "session_expired",
    "user_disabled",
    "tenant_suspended",
    "membership_ended",
    "key_revoked",
    "key_expired",
]
"""Why there is no standing. Of several causes the first is told: who holds a session that was
revoked may have stolen it, and learns nothing more of the account. Of an API key its own end comes
first.
"""
WHYS: Final[tuple[Why, ...]] = get_args(Why)


@dataclass(frozen=True, slots=True)
class Standing:
    """An actor as of now. ``role_ids``: every role that its permissions come from, inherited ones
    included. ``remaining_s``: seconds until the login session or the API key expires; ``until``:
    the instant at which the API key does.
    """

    actor: Actor
    role_ids: frozenset[str]
    remaining_s: float
    until: datetime | None = None


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
    suspended, and whose user is a member there; of each API key, and of each member, of whom the
    same is true. Others are left out (see ``why``).

    Raises Fault("backend_unavailable").
    """
    moment = now()
    sessions = [key for key in keys if isinstance(key, str)]
    by_key, members = _by_key(keys), {key for key in keys if isinstance(key, Member)}
    rows: list[_Row] = []
    async with database.read(EVERY_TENANT) as session:
        granted = await grants(session, by_key, moment) if by_key else {}
        members |= {Member(grant.user_id, grant.tenant_id) for grant in granted.values()}
        if sessions:
            rows += await _holders(session, sessions, moment)
        if members:
            rows += await _members(session, list(members))
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
    for key, grant in granted.items():
        if (owner := found.get(Member(grant.user_id, grant.tenant_id))) is not None:
            found[key] = _limited(owner, grant, key.key_id, moment)
    return {key: found[key] for key in keys if key in found}


def _by_key(keys: Collection[Key]) -> list[ByKey]:
    return [key for key in keys if isinstance(key, KeyHolder | KeyUser)]


def _limited(owner: Standing, grant: Grant, key_id: str, moment: datetime) -> Standing:
    """What its owner's standing is worth through a key."""
    remaining_s = UNLIMITED_S
    if grant.until is not None:
        remaining_s = (grant.until - moment).total_seconds()
    permissions = _one(narrowed(owner.actor.permissions, grant.scopes))
    actor = replace(owner.actor, session_id=key_id, permissions=permissions)
    return Standing(actor, owner.role_ids, remaining_s, grant.until)


async def why(database: Database, keys: Collection[Key]) -> dict[Key, Why]:
    """Why each of these has no standing: of login sessions and API keys, where it is known.

    Raises Fault("backend_unavailable").
    """
    moment = now()
    session_ids = [key for key in keys if isinstance(key, str)]
    by_key = _by_key(keys)
    causes: dict[Key, Why] = {}
    async with database.read(EVERY_TENANT) as session:
        if session_ids:
            causes.update(await _why_sessions(session, session_ids, moment))
        if by_key:
            found = await refusals(session, by_key, moment)
            causes.update({key: cast("Why", cause) for key, cause in found.items()})
    return causes


async def _why_sessions(
    session: AsyncSession, session_ids: Collection[str], moment: datetime
) -> dict[str, Why]:
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
    causes: dict[str, Why] = {}
    for id, revoked_at, expires_at, disabled_at, suspended_at in await session.exec(statement):
        true = (revoked_at, expires_at <= moment, disabled_at, suspended_at, True)
        causes[id] = next(why for why, applies in zip(WHYS, true, strict=False) if applies)
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
