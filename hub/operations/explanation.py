"""Why somebody may do a thing, or what they lack: for who administers, wherever they ask."""

from datetime import datetime
from typing import Final

from pydantic import Field

from hub.faults import Fault
from hub.identity.access.assignments import Assignments, Reasons
from hub.identity.access.authority import Authority, NoStanding
from hub.operations.operation import Result
from hub.operations.resources import Resources
from hub.operations.shapes import Id
from hub.rbac.decision import Verdict, decide
from hub.rbac.explaining import givers
from hub.rbac.permissions import ANY, PERMISSIONS, holds

RESOURCE_PATTERN: Final = r"^[a-z]+:[A-Za-z0-9_:]+$"
"""``kind:id``."""


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


class Explainer:
    """Explains what the hub decides, by asking it the same questions."""

    def __init__(
        self, authority: Authority, resources: Resources, assignments: Assignments
    ) -> None:
        self._authority = authority
        self._resources = resources
        self._assignments = assignments

    async def explain(
        self, tenant_id: str, user_id: str, permission: str, resource: str | None = None
    ) -> Explanation:
        """``resource``: ``kind:id`` of what it would be done to.

        Raises Fault: "not_found" for who is no member, and for a resource that they would be told
        is not there because it is nowhere in the tenant; "invalid_params" for a permission that
        does not exist.
        """
        reasons = await self._assignments.explain(tenant_id, user_id, permission)
        verdict, lacking = await self._verdict(tenant_id, user_id, permission, resource, reasons)
        names = {id: role.name for id, role in reasons.definitions.items()}
        return Explanation(
            user_id=user_id,
            permission=permission,
            resource=resource,
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

    async def _verdict(
        self,
        tenant_id: str,
        user_id: str,
        permission: str,
        wanted: str | None,
        reasons: Reasons,
    ) -> tuple[Verdict, str | None]:
        """The decision that would be made for the user, and the permission that would change it."""
        if reasons.trouble is not None:
            return Verdict(False, reasons.trouble, "unauthenticated"), None
        try:
            user = await self._authority.member(user_id, tenant_id)
        except NoStanding as gone:
            return Verdict(False, gone.why, "unauthenticated"), None
        if wanted is None:
            verdict = decide(user, permission, None)
            return verdict, None if verdict.allowed else permission
        kind, _, identifier = wanted.partition(":")
        try:
            resource = await self._resources.find(kind, identifier, user)
        except Fault as fault:
            if fault.reason != "permission_denied":
                raise
            # Of what everybody knows that it is there, it says so itself.
            return Verdict(False, "the actor may not come to the resource", fault.reason), None
        basic = permission.removesuffix(ANY)
        verdict = decide(user, basic, resource)
        if verdict.allowed:
            return verdict, None
        if resource.owner_id not in (None, user.user_id) and basic + ANY in PERMISSIONS:
            basic += ANY
        return verdict, None if holds(user.permissions, basic) else basic
