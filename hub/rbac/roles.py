"""The built-in roles, by inheritance: ``viewer < member < operator < admin < owner``, and
``service`` for programs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """A role: what it may do of itself, and the role whose permissions it has as well.

    ``inherits`` is the identifier of another role. ``rank`` orders roles: nobody gives a role above
    their own. ``tenant_id`` is None for a built-in role, which all tenants share.
    """

    id: str
    name: str
    rank: int
    inherits: str | None
    permissions: frozenset[str]
    meaning: str = ""
    tenant_id: str | None = None


BUILT_IN: Final[Mapping[str, RoleDefinition]] = {
    role.id: role
    for role in (
        RoleDefinition(
            "viewer",
            "viewer",
            10,
            None,
            frozenset(
                {
                    "conversation:read",
                    "message:read",
                    "run:read",
                    "channel:subscribe",
                    "model:read",
                    "session:read",
                    "session:revoke",
                    "apikey:read",
                    "apikey:revoke",
                    "quota:read",
                    "usage:read",
                    "tenant:read",
                }
            ),
            "Reads what is their own.",
        ),
        RoleDefinition(
            "service",
            "service",
            15,
            "viewer",
            frozenset({"conversation:create", "conversation:write", "message:send", "run:cancel"}),
            "A program: converses, and deletes nothing.",
        ),
        RoleDefinition(
            "member",
            "member",
            20,
            "viewer",
            frozenset(
                {
                    "conversation:create",
                    "conversation:write",
                    "conversation:delete",
                    "conversation:share",
                    "message:send",
                    "run:cancel",
                    "apikey:create",
                    "apikey:write",
                }
            ),
            "Converses with agents.",
        ),
        RoleDefinition(
            "operator",
            "operator",
            30,
            "member",
            frozenset(
                {
                    "run:read:any",
                    "run:cancel:any",
                    "quota:read:any",
                    "usage:read:any",
                    "metrics:read",
                }
            ),
            "Keeps the hub running: sees and stops all runs, reads no one's conversations.",
        ),
        RoleDefinition(
            "admin",
            "admin",
            40,
            "operator",
            frozenset(
                {
                    "conversation:read:any",
                    "conversation:write:any",
                    "conversation:delete:any",
                    "conversation:share:any",
                    "message:read:any",
                    "channel:subscribe:any",
                    "session:read:any",
                    "session:revoke:any",
                    "role:read",
                    "role:write",
                    "role:assign",
                    "group:read",
                    "group:write",
                    "apikey:create:any",
                    "apikey:read:any",
                    "apikey:write:any",
                    "apikey:revoke:any",
                    "service:create",
                    "service:read",
                    "service:write",
                    "service:delete",
                    "service:read:any",
                    "service:write:any",
                    "service:delete:any",
                    "audit:read",
                    "audit:verify",
                    "audit:export",
                    "quota:set",
                    "member:read",
                    "member:remove",
                    "member:invite",
                    "user:read",
                    "user:disable",
                    "user:delete",
                    "user:export",
                    "factor:reset",
                    "factor:require",
                    # Tools act outside of the hub: nobody below has any until it is given to them,
                    # and nobody could give what they may not themselves.
                    "tool:call:*/*",
                }
            ),
            "Administers the tenant, and says who may call which tools.",
        ),
        RoleDefinition(
            "owner",
            "owner",
            50,
            "admin",
            frozenset(
                {
                    "message:send:any",
                    "tenant:update",
                    "tenant:delete",
                    "tenant:create",
                    "tenant:list",
                    "tenant:suspend",
                    "tenant:restore",
                    "tenant:read:any",
                    "tenant:update:any",
                    "tenant:delete:any",
                }
            ),
            "Owns the tenant; in the one that the hub began with, operates all of them.",
        ),
    )
}
"""The roles that every tenant has. Their identifiers are their names."""

OWNER: Final = "owner"
"""Of this role a tenant keeps at least one holder."""
HIGHEST: Final = BUILT_IN[OWNER].rank
LOWEST: Final = 1


def compile_roles(
    roles: Iterable[str], definitions: Mapping[str, RoleDefinition] = BUILT_IN
) -> frozenset[str]:
    """Everything that holders of these roles (by identifier) may do, inheritance included.

    A role that is not defined gives nothing.
    """
    permissions: set[str] = set()
    seen: set[str] = set()
    waiting = list(roles)
    while waiting:
        role = definitions.get(waiting.pop())
        if role is None or role.id in seen:
            continue
        seen.add(role.id)
        permissions |= role.permissions
        if role.inherits is not None:
            waiting.append(role.inherits)
    return frozenset(permissions)
