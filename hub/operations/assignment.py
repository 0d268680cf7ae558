"""Who has which role, and why somebody may do a thing."""

from datetime import datetime
from typing import Final

from pydantic import AwareDatetime, Field

from hub.faults import Fault
from hub.identity.access.assignments import Target
from hub.operations.call import Call
from hub.operations.explanation import RESOURCE_PATTERN, Explainer, Explanation
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.role import PermissionName, RoleId
from hub.operations.shapes import Id, Listing, PageById

_FAULTS: Final = ("not_found", "permission_denied")
_GUARDS: Final = ("role", "role_id")
_PATH: Final = "/v1/roles/{role_id}"


class Assignment(Result):
    """That a user, or all who are in a group, have a role."""

    id: Id
    role_id: str
    role: str = Field(description="The role's name.")
    user_id: Id | None = None
    group_id: Id | None = None
    expires_at: datetime | None = Field(None, description="When it ends by itself; absent: never.")
    created_at: datetime


class _OfOne(Params):
    """Of a user or of a group."""

    user_id: Id | None = None
    group_id: Id | None = None

    @property
    def target(self) -> Target:
        """Which of the two. Raises Fault invalid_params."""
        if (self.user_id is None) == (self.group_id is None):
            raise Fault("invalid_params", "Name a user_id or a group_id, one of the two.")
        return Target(self.user_id, self.group_id)


class Assign(_OfOne):
    role_id: RoleId
    expires_at: AwareDatetime | None = Field(
        None, description="When it shall end by itself (RFC 3339, with the zone); none: never."
    )


class Revoke(_OfOne):
    role_id: RoleId


class Assignments(PageById):
    """Of all, or of those that are asked for."""

    role_id: RoleId | None = None
    user_id: Id | None = Field(None, description="Only those of this user.")
    group_id: Id | None = Field(None, description="Only those of this group.")


class Explain(Params):
    user_id: Id
    permission: PermissionName
    resource: str | None = Field(
        None,
        max_length=80,
        pattern=RESOURCE_PATTERN,
        description="`kind:id` of what it would be done to: `conversation:c_…`, `run:r_…`.",
    )


@operation(
    "role.assign",
    permission="role:assign",
    kind="write",
    http=Http("POST", f"{_PATH}/assign"),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def assign(call: Call, params: Assign) -> Assignment:
    """Give a role to a user of the tenant or to a group, for good or until `expires_at`.

    Who has the role has it until then from now on. Nobody gives a role that ranks above them or may
    do what they may not, gives one to who ranks above them, or to themselves, or to a group that
    they are in.
    """
    given = await call.services.assignments.give(
        call.actor.tenant_id, call.actor, params.role_id, params.target, params.expires_at
    )
    return Assignment.model_validate(given, from_attributes=True)


@operation(
    "role.revoke",
    permission="role:assign",
    kind="write",
    http=Http("POST", f"{_PATH}/revoke"),
    guards=_GUARDS,
    faults=(*_FAULTS, "conflict"),
)
async def revoke(call: Call, params: Revoke) -> Done:
    """Take a role from a user or a group; it ends what it allowed at once, on every node.

    Nobody takes from who ranks above them; one may give up one's own. A tenant keeps one owner at
    least, who is it for good and of themselves; and a user the role that makes them a member.
    """
    await call.services.assignments.take(
        call.actor.tenant_id, call.actor, params.role_id, params.target
    )
    return Done()


@operation(
    "role.assignments",
    permission="role:read",
    kind="read",
    http=Http("GET", "/v1/assignments"),
    faults=("permission_denied",),
)
async def assignments(call: Call, params: Assignments) -> Listing[Assignment]:
    """List who has which role: the groups, then the users.

    What a user has by a group is an assignment of the group.
    """
    if params.user_id is not None and params.group_id is not None:
        return Listing(items=[], next_cursor=None)  # an assignment is of one of the two
    of = None
    if params.user_id is not None or params.group_id is not None:
        of = Target(params.user_id, params.group_id)
    found = await call.services.assignments.page(
        call.actor.tenant_id, params.cursor, params.limit + 1, role_id=params.role_id, of=of
    )
    shapes = [Assignment.model_validate(each, from_attributes=True) for each in found]
    return Listing.page(shapes, params.limit, lambda item: item.id)


@operation(
    "role.explain",
    permission="role:read",
    kind="read",
    http=Http("GET", "/v1/users/{user_id}/explain"),
    faults=_FAULTS,
)
async def explain(call: Call, params: Explain) -> Explanation:
    """Say why a user of the tenant may do a thing, or may not.

    By which roles, through what these inherit from, by which groups and until when they have a
    permission; or what is lacking, and which roles would give it. With a `resource` it is the
    decision on that one, as it would be made for the user now.
    """
    services = call.services
    explainer = Explainer(services.authority, services.resources, services.assignments)
    return await explainer.explain(
        call.actor.tenant_id, params.user_id, params.permission, params.resource
    )
