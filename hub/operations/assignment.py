"""Who has which role, and why somebody may do a thing."""

from datetime import datetime
from typing import Final

from pydantic import AwareDatetime, Field

from hub.faults import Fault
from hub.identity.assignments import Reasons, Target
from hub.identity.authority import NoStanding
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.role import PermissionName, RoleId
from hub.operations.shapes import Id, Listing, PageById
from hub.rbac.decision import Verdict, decide
from hub.rbac.explaining import givers
from hub.rbac.permissions import ANY, PERMISSIONS

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


class Way(Result):
    """A way by which a permission comes to somebody."""

    roles: list[str] = Field(
        description="Names: the role that they have, then what it inherits from, to the one that "
        "has the permission of itself."
    )
    permission: str = Field(description="As that role has it: as asked, or with `:any`, or `*`.")
    group_id: Id | None = Field(None, description="The group by which they have the role.")
    group: str | None = None
    expires_at: datetime | None = None


class Explanation(Result):
    """Whether somebody may do a thing, and why."""

    user_id: Id
    permission: str
    resource: str | None = None
    allowed: bool
    reason: str
    fault: str | None = Field(None, description="What they are answered when they are refused.")
    roles: list[str] = Field(description="The names of the roles that they have now.")
    ways: list[Way] = Field(description="Every way by which they have the permission.")
    lacking: str | None = Field(None, description="The permission that would allow it.")
    given_by: list[str] | None = Field(
        None, description="The names of the roles that would give what is lacking."
    )


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
        pattern=r"^[a-z]+:[A-Za-z0-9_:]+$",
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
    services, tenant_id = call.services, call.actor.tenant_id
    reasons = await services.assignments.explain(tenant_id, params.user_id, params.permission)
    verdict, lacking = await _verdict(call, params, reasons)
    names = {id: role.name for id, role in reasons.definitions.items()}
    return Explanation(
        user_id=params.user_id,
        permission=params.permission,
        resource=params.resource,
        allowed=verdict.allowed,
        reason=verdict.reason,
        fault=verdict.fault or None,
        roles=sorted(names[id] for id in reasons.role_ids),
        ways=[
            Way(
                roles=[names[id] for id in way.lineage],
                permission=way.permission,
                group_id=way.holding.group_id,
                group=reasons.groups.get(way.holding.group_id or ""),
                expires_at=way.holding.expires_at,
            )
            for way in reasons.ways
        ],
        lacking=lacking,
        given_by=None
        if lacking is None
        else [names[id] for id in givers(lacking, reasons.definitions)],
    )


async def _verdict(call: Call, params: Explain, reasons: Reasons) -> tuple[Verdict, str | None]:
    """The decision that would be made for the user, and the permission that would change it."""
    services, tenant_id = call.services, call.actor.tenant_id
    if reasons.trouble is not None:
        return Verdict(False, reasons.trouble, "unauthenticated"), None
    try:
        user = await services.authority.member(params.user_id, tenant_id)
    except NoStanding as gone:
        return Verdict(False, gone.why, "unauthenticated"), None
    if params.resource is None:
        verdict = decide(user, params.permission, None)
        return verdict, None if verdict.allowed else params.permission
    kind, _, identifier = params.resource.partition(":")
    resource = await services.resources.find(kind, identifier, user)
    wanted = params.permission.removesuffix(ANY)
    verdict = decide(user, wanted, resource)
    if verdict.allowed:
        return verdict, None
    if resource.owner_id not in (None, user.user_id) and wanted + ANY in PERMISSIONS:
        wanted += ANY
    return verdict, wanted if wanted not in user.permissions else None
