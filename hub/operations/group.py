"""Groups of users."""

from datetime import datetime
from typing import Any, Final

from pydantic import Field

from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.shapes import Id, Listing, PageById, Text

_FAULTS: Final = ("not_found", "permission_denied")
_GUARDS: Final = ("group", "group_id")
_PATH: Final = "/v1/groups/{group_id}"
_MEMBERS: Final = f"{_PATH}/members"


class Group(Result):
    """Users that roles are given to, and things are shared with, together."""

    id: Id
    name: str
    description: str | None = None
    created_at: datetime
    updated_at: datetime


class GroupName(Result):
    """What a group is called."""

    id: Id
    name: str


class GroupMember(Result):
    """A user in a group."""

    user_id: Id
    email: str
    name: str | None = None
    created_at: datetime = Field(description="Since when they are in it.")


class Create(Params):
    name: Text = Field(min_length=1, max_length=64)
    description: Text | None = Field(None, min_length=1, max_length=400)


class Named(Params):
    group_id: Id


class Update(Named):
    """What is left out stays as it is; null takes away a description."""

    name: Text | None = Field(None, min_length=1, max_length=64)
    description: Text | None = Field(None, min_length=1, max_length=400)


class Members(Named, PageById):
    pass


class OfUser(Named):
    user_id: Id


@operation(
    "group.create",
    permission="group:write",
    kind="write",
    http=Http("POST", "/v1/groups", 201),
    faults=("permission_denied", "conflict"),
)
async def create(call: Call, params: Create) -> Group:
    """Make a group of the tenant, with nobody in it."""
    return _group(
        await call.services.groups.create(
            call.actor.tenant_id, call.actor, params.name, params.description
        )
    )


@operation(
    "group.list",
    permission="group:read",
    kind="read",
    http=Http("GET", "/v1/groups"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: PageById) -> Listing[Group]:
    """List the groups of the tenant, the oldest first."""
    found = await call.services.groups.page(call.actor.tenant_id, params.cursor, params.limit + 1)
    return Listing.page([_group(row) for row in found], params.limit, lambda item: item.id)


@operation(
    "group.names",
    permission="conversation:share",
    kind="read",
    http=Http("GET", "/v1/group-names"),
    faults=("permission_denied",),
)
async def names(call: Call, params: PageById) -> Listing[GroupName]:
    """List the groups of the tenant by name, the oldest first, for who shares something with one.

    Who is in them, and what they may do, is told by `group.list` and the like.
    """
    found = await call.services.groups.page(call.actor.tenant_id, params.cursor, params.limit + 1)
    shapes = [GroupName(id=row.id, name=row.name) for row in found]
    return Listing.page(shapes, params.limit, lambda item: item.id)


@operation(
    "group.get",
    permission="group:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> Group:
    """Read a group. `role.assignments` lists the roles that it has."""
    return _group(await call.services.groups.get(call.actor.tenant_id, params.group_id))


@operation(
    "group.update",
    permission="group:write",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def update(call: Call, params: Update) -> Group:
    """Change a group's name or description."""
    changes = params.model_dump(exclude={"group_id"}, exclude_unset=True)
    return _group(
        await call.services.groups.update(
            call.actor.tenant_id, call.actor, params.group_id, changes
        )
    )


@operation(
    "group.delete",
    permission="group:write",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def delete(call: Call, params: Named) -> Done:
    """Delete a group; what its members may do by it they may not any more, at once.

    What was shared with it is shared with it no longer.
    """
    await call.services.groups.delete(call.actor.tenant_id, call.actor, params.group_id)
    return Done()


@operation(
    "group.members",
    permission="group:read",
    kind="read",
    http=Http("GET", _MEMBERS),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def members(call: Call, params: Members) -> Listing[GroupMember]:
    """List who is in a group."""
    found = await call.services.groups.members(
        call.actor.tenant_id, params.group_id, params.cursor, params.limit + 1
    )
    shapes = [GroupMember.model_validate(each, from_attributes=True) for each in found]
    return Listing.page(shapes, params.limit, lambda item: item.user_id)


@operation(
    "group.add",
    permission="group:write",
    kind="write",
    http=Http("POST", _MEMBERS),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def add(call: Call, params: OfUser) -> Done:
    """Put a user of the tenant into a group: they have at once what the group has.

    Nobody puts themselves into a group, or anybody into one whose roles are not theirs to give.
    Who is in it already is fine.
    """
    await call.services.groups.add(
        call.actor.tenant_id, call.actor, params.group_id, params.user_id
    )
    return Done()


@operation(
    "group.remove",
    permission="group:write",
    kind="write",
    http=Http("DELETE", f"{_MEMBERS}/{{user_id}}"),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def remove(call: Call, params: OfUser) -> Done:
    """Take a user out of a group; it ends what they may do by it at once. One may leave oneself."""
    await call.services.groups.remove(
        call.actor.tenant_id, call.actor, params.group_id, params.user_id
    )
    return Done()


def _group(row: Any) -> Group:
    return Group.model_validate(row, from_attributes=True)
