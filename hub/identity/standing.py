"""What the database says, right now, about the holders of login sessions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.rbac.actor import Actor
from hub.rbac.roles import RoleDefinition, compile_roles
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    LoginSession,
    Membership,
    Role,
    RolePermission,
    Tenant,
    User,
    now,
)


@dataclass(frozen=True, slots=True)
class Standing:
    """An actor as of now. ``role_ids``: every role that its permissions come from, inherited ones
    included. ``remaining_s``: seconds until the login session expires.
    """

    actor: Actor
    role_ids: frozenset[str]
    remaining_s: float


async def look_up(database: Database, session_ids: Sequence[str]) -> dict[str, Standing]:
    """The standing of each login session that is alive, whose user is enabled, whose tenant is not
    suspended, and whose user is a member there; by session id. Others are left out.

    Raises Fault("backend_unavailable").
    """
    moment = now()
    statement = (
        select(LoginSession, Membership.role_id)
        .join(User, col(User.id) == LoginSession.user_id)
        .join(Tenant, col(Tenant.id) == LoginSession.tenant_id)
        .join(
            Membership,
            (col(Membership.user_id) == LoginSession.user_id)
            & (col(Membership.tenant_id) == LoginSession.tenant_id),
        )
        .where(
            col(LoginSession.id).in_(session_ids),
            col(LoginSession.revoked_at).is_(None),
            col(LoginSession.expires_at) > moment,
            col(User.disabled_at).is_(None),
            col(Tenant.suspended_at).is_(None),
        )
    )
    async with database.read(EVERY_TENANT) as session:
        rows = (await session.exec(statement)).all()
        definitions = await _definitions(session, {login.tenant_id for login, _ in rows})
    held: dict[str, list[str]] = {}
    for login, role in rows:
        held.setdefault(login.id, []).append(role)
    return {
        login.id: Standing(
            actor=Actor(
                user_id=login.user_id,
                tenant_id=login.tenant_id,
                session_id=login.id,
                roles=tuple(
                    sorted(definitions[id].name for id in held[login.id] if id in definitions)
                ),
                permissions=compile_roles(held[login.id], definitions),
            ),
            role_ids=_ancestry(held[login.id], definitions),
            remaining_s=(login.expires_at - moment).total_seconds(),
        )
        for login, _ in rows
    }


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
