"""Roles, as the database has them."""

from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import bindparam, or_
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.rbac.inheritance import Definitions
from hub.rbac.roles import RoleDefinition
from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import Role, RolePermission

_WITH_PERMISSIONS: Final[Any] = select(  # type: ignore[call-overload]
    Role.id, Role.name, Role.rank, Role.inherits, Role.tenant_id, RolePermission.permission
).join(RolePermission, col(RolePermission.role_id) == Role.id, isouter=True)


def _with_what_they_inherit() -> Any:
    held: Any = select(col(Role.id).label("id"), col(Role.inherits).label("inherits")).where(
        col(Role.id).in_(bindparam("held", expanding=True))
    )
    line = held.cte("line", recursive=True)
    above = aliased(Role)
    # UNION keeps each once, so that a circle ends.
    line = line.union(
        select(col(above.id), col(above.inherits)).join(line, line.c.inherits == above.id)
    )
    return prebuilt(_WITH_PERMISSIONS.join(line, line.c.id == Role.id))


_LINEAGES: Final[Any] = _with_what_they_inherit()


async def definitions_of(
    session: AsyncSession, tenant_ids: Iterable[str]
) -> dict[str, RoleDefinition]:
    """The built-in roles and those of the tenants, by their ids."""
    theirs = or_(col(Role.tenant_id).is_(None), col(Role.tenant_id).in_(list(tenant_ids)))
    return _defined((await session.exec(_WITH_PERMISSIONS.where(theirs))).all())


async def definitions_for(
    session: AsyncSession, role_ids: Collection[str]
) -> dict[str, RoleDefinition]:
    """These roles and all that they inherit from, whosever they are, by their ids: of a tenant with
    many roles no more than is asked for. For a session of every tenant.
    """
    rows = await session.exec(_LINEAGES, params={"held": padded(sorted(role_ids))})
    return _defined(rows.all())


def role_named(wanted: str, definitions: Definitions) -> str:
    """The role of this id, or else of this name. Raises Fault("not_found")."""
    named = [id for id, role in definitions.items() if role.name.lower() == wanted.lower()]
    if wanted not in definitions and not named:
        raise Fault("not_found", "There is no such role here.")
    return wanted if wanted in definitions else named[0]


def _defined(rows: Iterable[Any]) -> dict[str, RoleDefinition]:
    roles: dict[str, tuple[str, int, str | None, str | None]] = {}
    permissions: dict[str, set[str]] = {}
    for id, name, rank, inherits, tenant_id, permission in rows:
        roles[id] = (name, rank, inherits, tenant_id)
        own = permissions.setdefault(id, set())
        if permission is not None:
            own.add(permission)
    return {
        id: RoleDefinition(id, name, rank, inherits, frozenset(permissions[id]), "", tenant_id)
        for id, (name, rank, inherits, tenant_id) in roles.items()
    }
