"""A role compiled: all that it gives, with what it inherits, worked out once. Pure.

Of several roles somebody may do what any of them permits, and ranks as high as the highest: what is
compiled of each is added up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from hub.rbac.inheritance import ancestry, rank_of
from hub.rbac.roles import RoleDefinition, compile_roles


@dataclass(frozen=True, slots=True)
class CompiledRole:
    """``rank``: the highest in its line. ``permissions``: everything that its holders may do.
    ``line``: the ids of the role and of all that it inherits from.
    """

    name: str
    rank: int
    permissions: frozenset[str]
    line: frozenset[str]


def compiled(role_id: str, definitions: Mapping[str, RoleDefinition]) -> CompiledRole:
    """A role of ``definitions``. What it would inherit from another tenant's it does not have: a
    line is of built-in roles, and of those of the tenant that the role is of.
    """
    role = definitions[role_id]
    within = {
        id: each for id, each in definitions.items() if each.tenant_id in (None, role.tenant_id)
    }
    return CompiledRole(
        role.name,
        rank_of([role_id], within),
        compile_roles([role_id], within),
        ancestry([role_id], within),
    )


def packed(role: CompiledRole) -> bytes:
    """It, to be kept; see ``unpacked``."""
    return orjson.dumps([role.name, role.rank, sorted(role.permissions), sorted(role.line)])


def unpacked(kept: bytes) -> CompiledRole:
    """What ``packed`` made, and nothing else."""
    name, rank, permissions, line = orjson.loads(kept)
    return CompiledRole(name, rank, frozenset(permissions), frozenset(line))
