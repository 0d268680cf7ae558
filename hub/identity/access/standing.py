"""What the database says, right now, about the holders of login sessions and API keys, and about
members.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, cast, get_args

from sqlalchemy import bindparam, func, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.identity.access.compiled_roles import Asked, CompiledRoles
from hub.identity.access.definitions import named_states, states_of
from hub.identity.access.factor_policy import demanded
from hub.identity.access.holdings import InGroup, admitted, in_groups
from hub.identity.access.key_standing import ByKey, Grant, grants, refusals
from hub.identity.tokens.api_key_text import KeyHolder, KeyUser
from hub.rbac.actor import Actor
from hub.rbac.compiling import CompiledRole
from hub.rbac.inheritance import NOTHING
from hub.rbac.scopes import narrowed
from hub.storage.database import Database
from hub.storage.padding import padded
from hub.storage.scope import EVERY_TENANT, prebuilt
from hub.storage.tables import (
    DisabledMember,
    LoginSession,
    Membership,
    RoleState,
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
    included, and every group that it is in. ``remaining_s``: seconds until it is another, because
    the login session, the API key, or a role that was given for a while expires; ``until``: the
    instant at which the API key does.
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
    states: str  # of the roles, see named_states


_STATES, _OF_TENANT = named_states(Membership.tenant_id)
_HOLDERS: Final[Any] = prebuilt(
    select(  # type: ignore[call-overload]
        LoginSession.id,
        LoginSession.user_id,
        LoginSession.tenant_id,
        LoginSession.expires_at,
        Membership.role_id,
        Membership.expires_at,
        _STATES,
    )
    .join(User, col(User.id) == LoginSession.user_id)
    .join(Tenant, col(Tenant.id) == LoginSession.tenant_id)
    .join(
        Membership,
        (col(Membership.user_id) == LoginSession.user_id)
        & (col(Membership.tenant_id) == LoginSession.tenant_id),
    )
    .join(RoleState, _OF_TENANT, isouter=True)
    .where(
        col(LoginSession.id).in_(bindparam("sessions", expanding=True)),
        col(LoginSession.revoked_at).is_(None),
        col(LoginSession.expires_at) > bindparam("moment"),
        admitted(bindparam("moment")),
    )
)


async def look_up(
    database: Database, keys: Collection[Key], roles: CompiledRoles | None = None
) -> dict[Key, Standing]:
    """The standing of each login session that is alive, whose user is enabled, whose tenant is not
    suspended, and whose user is a member there; of each API key, and of each member, of whom the
    same is true. Others are left out (see ``why``). ``roles``: what is remembered of roles.

    Raises Fault("backend_unavailable").
    """
    moment = now()
    sessions = [key for key in keys if isinstance(key, str)]
    shown, members = _shown(keys), {key for key in keys if isinstance(key, Member)}
    rows: list[_Row] = []
    async with database.read(EVERY_TENANT) as session:
        granted = await grants(session, shown, moment) if shown else {}
        members |= {Member(grant.user_id, grant.tenant_id) for grant in granted.values()}
        if sessions:
            rows += await _holders(session, sessions, moment)
        if members:
            rows += await _members(session, list(members), moment)
        if not rows:
            return {}
        grouped = _by_member(await in_groups(session, {row.user_id for row in rows}, moment))
        wanting = await demanded(session, sessions) if sessions else {}
    by_key: dict[Key, list[_Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    states = {row.tenant_id: row.states for row in rows}
    held: set[Asked] = {(row.tenant_id, row.role_id) for row in rows}
    for member, of_member in grouped.items():
        if member.tenant_id in states:
            held.update((member.tenant_id, each.role_id) for each in of_member if each.role_id)
    compiled = await (roles or CompiledRoles(database)).find(
        held, {tenant_id: states_of(named) for tenant_id, named in states.items()}
    )
    given = _Given(compiled)
    found: dict[Key, Standing] = {}
    for key, of_key in by_key.items():
        row, remaining_s = of_key[0], min(each.remaining_s for each in of_key)
        role_ids = {each.role_id for each in of_key}
        groups: tuple[str, ...] = ()
        if in_them := grouped.get(Member(row.user_id, row.tenant_id)):
            role_ids.update(each.role_id for each in in_them if each.role_id)
            groups = tuple(sorted({each.group_id for each in in_them}))
            remaining_s = min(remaining_s, *(_left(each.expires_at, moment) for each in in_them))
        what = given.by(row.tenant_id, tuple(sorted(role_ids)), groups)
        actor = Actor(
            row.user_id,
            row.tenant_id,
            row.session_id,
            what.names,
            what.permissions,
            groups=what.groups,
        )
        rank = wanting.get(row.session_id)
        if rank is not None and what.rank >= rank:
            actor = replace(actor, permissions=frozenset(), must_enrol=True)
        found[key] = Standing(actor, what.rests_on, remaining_s)
    for holder, grant in granted.items():
        if (owner := found.get(Member(grant.user_id, grant.tenant_id))) is not None:
            found[holder] = _limited(owner, grant, holder.key_id, moment)
    return {key: found[key] for key in keys if key in found}


def _shown(keys: Collection[Key]) -> list[ByKey]:
    return [key for key in keys if isinstance(key, KeyHolder | KeyUser)]


def _limited(owner: Standing, grant: Grant, key_id: str, moment: datetime) -> Standing:
    """What its owner's standing is worth through a key."""
    remaining_s = min(owner.remaining_s, _left(grant.until, moment))
    permissions = _one(narrowed(owner.actor.permissions, grant.scopes))
    actor = replace(owner.actor, session_id=key_id, permissions=permissions)
    return Standing(actor, owner.role_ids, remaining_s, grant.until)


def _by_member(rows: list[InGroup]) -> dict[Member, list[InGroup]]:
    found: dict[Member, list[InGroup]] = {}
    for row in rows:
        found.setdefault(Member(row.user_id, row.tenant_id), []).append(row)
    return found


def _left(expires_at: datetime | None, moment: datetime) -> float:
    return UNLIMITED_S if expires_at is None else (expires_at - moment).total_seconds()


async def why(database: Database, keys: Collection[Key]) -> dict[Key, Why]:
    """Why each of these has no standing: of login sessions and API keys, where it is known.

    Raises Fault("backend_unavailable").
    """
    moment = now()
    session_ids = [key for key in keys if isinstance(key, str)]
    shown = _shown(keys)
    causes: dict[Key, Why] = {}
    async with database.read(EVERY_TENANT) as session:
        if session_ids:
            causes.update(await _why_sessions(session, session_ids, moment))
        if shown:
            found = await refusals(session, shown, moment)
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
            func.coalesce(User.disabled_at, DisabledMember.disabled_at),
            Tenant.suspended_at,
        )
        .join(User, col(User.id) == LoginSession.user_id)
        .join(Tenant, col(Tenant.id) == LoginSession.tenant_id)
        .join(
            DisabledMember,
            (col(DisabledMember.user_id) == LoginSession.user_id)
            & (col(DisabledMember.tenant_id) == LoginSession.tenant_id),
            isouter=True,
        )
        .where(col(LoginSession.id).in_(padded(session_ids)))
    )
    causes: dict[str, Why] = {}
    for id, revoked_at, expires_at, disabled_at, suspended_at in await session.exec(statement):
        true = (revoked_at, expires_at <= moment, disabled_at, suspended_at, True)
        causes[id] = next(why for why, applies in zip(WHYS, true, strict=False) if applies)
    return causes


async def _holders(session: AsyncSession, ids: list[str], moment: datetime) -> list[_Row]:
    rows = await session.exec(_HOLDERS, params={"sessions": padded(ids), "moment": moment})
    return [
        _Row(
            id,
            user_id,
            tenant_id,
            id,
            min((ends - moment).total_seconds(), _left(expires_at, moment)),
            role_id,
            states,
        )
        for id, user_id, tenant_id, ends, role_id, expires_at, states in rows.all()
    ]


async def _members(session: AsyncSession, members: list[Member], moment: datetime) -> list[_Row]:
    place = tuple_(col(Membership.user_id), col(Membership.tenant_id))
    statement: Any = (
        select(  # type: ignore[call-overload]
            Membership.user_id,
            Membership.tenant_id,
            Membership.role_id,
            Membership.expires_at,
            _STATES,
        )
        .join(User, col(User.id) == Membership.user_id)
        .join(Tenant, col(Tenant.id) == Membership.tenant_id)
        .join(RoleState, _OF_TENANT, isouter=True)
        .where(place.in_(padded(members)), admitted(moment))
    )
    return [
        _Row(
            Member(user_id, tenant_id),
            user_id,
            tenant_id,
            "",
            _left(expires_at, moment),
            role_id,
            states,
        )
        for user_id, tenant_id, role_id, expires_at, states in await session.exec(statement)
    ]


class _What(NamedTuple):
    """What somebody has in a tenant. ``names`` of their roles; ``rank``: the highest among these;
    ``rests_on``: all that a change of may make it another.
    """

    names: tuple[str, ...]
    rank: int
    permissions: frozenset[str]
    rests_on: frozenset[str]
    groups: frozenset[str]


class _Given:
    """What roles give, added up once for all who hold the same."""

    def __init__(self, roles: Mapping[Asked, CompiledRole]) -> None:
        self._roles = roles
        self._known: dict[tuple[str, tuple[str, ...], tuple[str, ...]], _What] = {}

    def by(self, tenant_id: str, role_ids: tuple[str, ...], groups: tuple[str, ...]) -> _What:
        """Of who has these roles and is in these groups. What was not found gives nothing."""
        held = (tenant_id, role_ids, groups)
        if (known := self._known.get(held)) is None:
            here = [self._roles.get((tenant_id, id)) for id in role_ids]
            roles = [role for role in here if role is not None]
            permissions = (role.permissions for role in roles)
            lines = (role.line for role in roles)
            known = self._known[held] = _What(
                _one_list(tuple(sorted(role.name for role in roles))),
                max((role.rank for role in roles), default=NOTHING),
                _one(frozenset().union(*permissions)),
                _one(frozenset(role_ids).union(groups, *lines)),
                _one(frozenset(groups)),
            )
        return known


@lru_cache(maxsize=4_096)
def _one(same: frozenset[str]) -> frozenset[str]:
    """The one that all share: ten thousand actors who may do the same are not ten thousand sets."""
    return same


@lru_cache(maxsize=4_096)
def _one_list(same: tuple[str, ...]) -> tuple[str, ...]:
    return same
