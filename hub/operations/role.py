"""Permissions and roles: what there are, and the tenant's own."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from hub.operations.call import Call
from hub.operations.operation import Done, Http, Nothing, Params, Result, operation
from hub.operations.shapes import Listing, Page, Text
from hub.rbac.permissions import LONGEST, PERMISSIONS, wildcards
from hub.rbac.roles import HIGHEST, LOWEST

RoleId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=64)]
"""``ro_…``, or the name of a built-in role."""
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]
PermissionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/*-]+$", max_length=LONGEST)]
"""One that there is, or of the form of a declared one that has parts."""

_FAULTS: Final = ("not_found", "permission_denied")
_GUARDS: Final = ("role", "role_id")
_PATH: Final = "/v1/roles/{role_id}"


class Permission(Result):
    """Something that one may do."""

    name: str = Field(description="What is in angle brackets is named when it is given.")
    meaning: str
    wildcards: list[str] = Field(
        description="The parts in angle brackets for which `*` may be given, if there are any, "
        "with `*` for all parts after it."
    )


class Role(Result):
    """A role."""

    id: str = Field(description="A built-in role's is its name.")
    name: str
    description: str | None = None
    rank: int = Field(description="Nobody gives a role, or takes one, that ranks above theirs.")
    inherits: str | None = Field(None, description="The role whose permissions it has as well.")
    built_in: bool = Field(description="True for those that every tenant has and nobody changes.")
    permissions: list[str] = Field(description="Those it has of itself.")
    all_permissions: list[str] = Field(description="These and the inherited ones.")
    created_at: datetime
    updated_at: datetime


class Roles(Page):
    cursor: str | None = Field(
        None,
        pattern=r"^[0-9]{1,9}\.[A-Za-z0-9_]{1,64}$",
        description="`next_cursor` of the page before; none: the first page.",
    )


class Named(Params):
    role_id: RoleId


class Create(Params):
    name: Name
    description: Text | None = Field(None, min_length=1, max_length=400)
    inherits: RoleId | None = Field(None, description="A role whose permissions it has as well.")
    rank: int | None = Field(
        None,
        ge=LOWEST,
        le=HIGHEST,
        description="No higher than your own, no lower than that of what it inherits from, which "
        "is the default.",
    )
    permissions: list[PermissionName] = Field(
        [], max_length=200, description="Of those that you have; see `permission.list`."
    )


class Update(Named):
    """What is left out stays as it is; null takes away a description and what it inherits from."""

    name: Name | None = None
    description: Text | None = Field(None, min_length=1, max_length=400)
    inherits: RoleId | None = Field(None, description="A role whose permissions it has as well.")
    rank: int | None = Field(None, ge=LOWEST, le=HIGHEST)
    permissions: list[PermissionName] | None = Field(
        None, max_length=200, description="All that it shall have of itself."
    )


class Delete(Named):
    reassign_to: RoleId | None = Field(
        None, description="The role that all who have this one shall have instead."
    )


@operation(
    "permission.list",
    permission="role:read",
    kind="read",
    http=Http("GET", "/v1/permissions"),
    faults=("permission_denied",),
)
async def permissions(call: Call, params: Nothing) -> Listing[Permission]:
    """List every permission there is, with what it allows."""
    return Listing(
        items=[
            Permission(name=name, meaning=meaning, wildcards=list(wildcards(name)))
            for name, meaning in PERMISSIONS.items()
        ],
        next_cursor=None,
    )


@operation(
    "role.list",
    permission="role:read",
    kind="read",
    http=Http("GET", "/v1/roles"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: Roles) -> Listing[Role]:
    """List the roles of the tenant, the built-in ones too, the lowest in rank first."""
    found = await call.services.roles.all(call.actor.tenant_id)
    if params.cursor is not None:
        rank, _, id = params.cursor.partition(".")
        found = [role for role in found if (role.rank, role.id) > (int(rank), id)]
    shapes = [Role.model_validate(role, from_attributes=True) for role in found]
    return Listing.page(
        shapes[: params.limit + 1], params.limit, lambda role: f"{role.rank}.{role.id}"
    )


@operation(
    "role.get",
    permission="role:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> Role:
    """Read a role."""
    return _role(await call.services.roles.get(call.actor.tenant_id, params.role_id))


@operation(
    "role.create",
    permission="role:write",
    kind="write",
    http=Http("POST", "/v1/roles", 201),
    faults=("permission_denied", "conflict"),
)
async def create(call: Call, params: Create) -> Role:
    """Make a role of the tenant.

    It has the permissions that you have yourself, or some of them, and ranks no higher than you.
    A tenant has 100 roles of its own at most.
    """
    made = await call.services.roles.create(
        call.actor.tenant_id, call.actor, params.name, **params.model_dump(exclude={"name"})
    )
    return _role(made)


@operation(
    "role.update",
    permission="role:write",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def update(call: Call, params: Update) -> Role:
    """Change a role of the tenant; who has it has it so at once, on every node.

    Nobody adds to a role that they have themselves. Built-in roles stay as they are.
    """
    changes = params.model_dump(exclude={"role_id"}, exclude_unset=True)
    for name in ("name", "rank", "permissions"):
        if changes.get(name, "") is None:
            del changes[name]
    changed = await call.services.roles.update(
        call.actor.tenant_id, call.actor, params.role_id, changes
    )
    return _role(changed)


@operation(
    "role.delete",
    permission="role:write",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def delete(call: Call, params: Delete) -> Done:
    """Delete a role of the tenant.

    While somebody has it, an invitation gives it or a role inherits from it, that is a `conflict`,
    unless `reassign_to` names the role that all of these shall have instead.
    """
    await call.services.roles.delete(
        call.actor.tenant_id, call.actor, params.role_id, params.reassign_to
    )
    return Done()


def _role(described: Any) -> Role:
    return Role.model_validate(described, from_attributes=True)
