"""What roles have of the roles that they inherit from. Pure; circles end."""

from collections.abc import Iterable, Mapping
from typing import Final

from hub.rbac.roles import RoleDefinition

Definitions = Mapping[str, RoleDefinition]
"""Roles by their identifiers."""

NOTHING: Final = 0
"""The rank of who has no role."""


def lineage(role_id: str, definitions: Definitions) -> tuple[str, ...]:
    """A role and those it inherits from, the nearest first. It ends before a role that is not
    defined, or that is in it already.
    """
    found: dict[str, None] = {}
    current: str | None = role_id
    while current is not None and current in definitions and current not in found:
        found[current] = None
        current = definitions[current].inherits
    return tuple(found)


def ancestry(roles: Iterable[str], definitions: Definitions) -> frozenset[str]:
    """These roles and all that they inherit from, those that are not defined included."""
    found: set[str] = set()
    for role in roles:
        current: str | None = role
        while current is not None and current not in found:
            found.add(current)
            known = definitions.get(current)
            current = known.inherits if known else None
    return frozenset(found)


def rank_of(roles: Iterable[str], definitions: Definitions) -> int:
    """The highest rank among the roles and those they inherit from: a role ranks no lower than what
    it contains, whatever rank it was given.
    """
    ranks = (definitions[role].rank for role in ancestry(roles, definitions) if role in definitions)
    return max(ranks, default=NOTHING)


def closes_circle(role_id: str, inherits: str, definitions: Definitions) -> bool:
    """Whether a role that inherits from ``inherits`` would inherit from itself."""
    return role_id in ancestry((inherits,), definitions)


def heirs(role_id: str, definitions: Definitions) -> tuple[str, ...]:
    """The roles that inherit from this one without another between, in the order of their ids."""
    return tuple(sorted(role.id for role in definitions.values() if role.inherits == role_id))
