"""Roles, as the database has them."""

from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, or_
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.rbac.inheritance import Definitions
from hub.rbac.roles import RoleDefinition
from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import BUILT_INS, Role, RolePermission, RoleState


class States(NamedTuple):
    """The names of the state that the roles of a tenant are in (``RoleState``): of its own ones, if
    it has any, and of the built-in ones. Empty where there is no name.
    """

    own: str
    built_in: str


def named_states(tenant_id: Any) -> tuple[Any, Any]:
    """The ``States`` of each row of a statement, as one column, for it is there as often as there
    are rows; and the condition on which ``RoleState`` is joined (an outer join). ``tenant_id``: the
    column that says whose a row is.
    """
    built_ins = aliased(RoleState)
    shared = select(built_ins.state).where(built_ins.id == BUILT_INS).scalar_subquery()
    both = func.coalesce(RoleState.state, "") + "." + func.coalesce(shared, "")
    return both, col(RoleState.id) == tenant_id


def states_of(named: str) -> States:
    """What such a column says."""
    own, _, built_in = named.partition(".")
    return States(own, built_in)


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
    states, of_tenant = named_states(Role.tenant_id)
    return prebuilt(
        _WITH_PERMISSIONS.join(line, line.c.id == Role.id)
        .join(RoleState, of_tenant, isouter=True)
        .add_columns(states)
    )


_LINEAGES: Final[Any] = _with_what_they_inherit()


async def definitions_of(
    session: AsyncSession, tenant_ids: Iterable[str]
) -> dict[str, RoleDefinition]:
    """The built-in roles and those of the tenants, by their ids."""
    theirs = or_(col(Role.tenant_id).is_(None), col(Role.tenant_id).in_(list(tenant_ids)))
    return _defined((await session.exec(_WITH_PERMISSIONS.where(theirs))).all())


async def lineages(
    session: AsyncSession, role_ids: Collection[str]
) -> tuple[dict[str, RoleDefinition], dict[str | None, States]]:
    """These roles and all that they inherit from, whosever they are, by their ids: of a tenant with
    many roles no more than is asked for. And, of the same moment, the names of the states of all
    whose roles these are. For a session of every tenant.
    """
    # One statement: it sees one state of the database, and a second one might see the next.
    found = await session.exec(_LINEAGES, params={"held": padded(sorted(role_ids))})
    rows = found.all()
    states = {tenant_id: named for _, _, _, _, tenant_id, _, named in rows}
    return _defined(rows), {tenant_id: states_of(named) for tenant_id, named in states.items()}


def role_named(wanted: str, definitions: Definitions) -> str:
    """The role of this id, or else of this name. Raises Fault("not_found")."""
    named = [id for id, role in definitions.items() if role.name.lower() == wanted.lower()]
    if wanted not in definitions and not named:
        raise Fault("not_found", "There is no such role here.")
    return wanted if wanted in definitions else named[0]


def _defined(rows: Iterable[Any]) -> dict[str, RoleDefinition]:
    roles: dict[str, tuple[str, int, str | None, str | None]] = {}
    permissions: dict[str, set[str]] = {}
    for id, name, rank, inherits, tenant_id, permission, *_ in rows:
        roles[id] = (name, rank, inherits, tenant_id)
        own = permissions.setdefault(id, set())
        if permission is not None:
            own.add(permission)
    return {
        id: RoleDefinition(id, name, rank, inherits, frozenset(permissions[id]), "", tenant_id)
        for id, (name, rank, inherits, tenant_id) in roles.items()
    }
