"""Why somebody has a permission: every way by which it comes to them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from hub.rbac.inheritance import Definitions, lineage
from hub.rbac.permissions import ANY, holds
from hub.rbac.roles import compile_roles


@dataclass(frozen=True, slots=True)
class Holding:
    """That somebody has a role: of themselves, or by a group that they are in; and until when."""

    role_id: str
    group_id: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One way: by what is held, through ``lineage`` (that role first, each inheriting from the
    next) to the role that has ``permission`` of itself.
    """

    holding: Holding
    lineage: tuple[str, ...]
    permission: str


def ways(permission: str, held: Iterable[Holding], definitions: Definitions) -> list[Way]:
    """Every way to a permission, or to the one for what others own; the shortest first."""
    found = [
        Way(holding, chain[: at + 1], own)
        for holding in held
        for chain in (lineage(holding.role_id, definitions),)
        for at, role in enumerate(chain)
        for own in sorted(definitions[role].permissions)
        if _gives(own, permission)
    ]
    return sorted(found, key=lambda way: len(way.lineage))


def givers(permission: str, definitions: Definitions) -> list[str]:
    """The roles that would give it, by their identifiers, the lowest in rank first."""
    roles = sorted(definitions.values(), key=lambda role: (role.rank, role.id))
    return [role.id for role in roles if _among(compile_roles((role.id,), definitions), permission)]


def _gives(own: str, permission: str) -> bool:
    return _among(frozenset((own,)), permission)


def _among(held: frozenset[str], permission: str) -> bool:
    return holds(held, permission) or holds(held, permission + ANY)
