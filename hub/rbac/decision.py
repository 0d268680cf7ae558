"""The decision: may this actor do this to that? Pure, and the only place where it is made."""

from dataclasses import dataclass
from typing import Final

from hub.rbac.actor import Actor
from hub.rbac.permissions import ANY


@dataclass(frozen=True, slots=True)
class Resource:
    """What is acted on. ``kind`` is its noun (``conversation``). ``owner_id`` is None for what
    belongs to the tenant at large.
    """

    kind: str
    id: str
    tenant_id: str
    owner_id: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it is allowed, and why (for the audit, not for the caller). ``fault`` is the reason
    of the fault that the caller gets, empty when allowed.
    """

    allowed: bool
    reason: str
    fault: str = ""


_HELD: Final = Verdict(True, "the actor holds the permission")
_OWN: Final = Verdict(True, "the actor holds the permission and owns the resource")
_SHARED: Final = Verdict(True, "the actor holds the permission and the tenant owns the resource")
_ANY: Final = Verdict(True, "the actor holds the permission for what others own")
_FOREIGN: Final = Verdict(False, "the resource belongs to another tenant", "not_found")
_LACKS: Final = Verdict(False, "the actor lacks the permission", "permission_denied")
_HIDDEN: Final = Verdict(False, "someone else's, which the actor may not see", "not_found")
_VISIBLE: Final = Verdict(
    False, "someone else's, which the actor may see but not do this to", "permission_denied"
)


def decide(actor: Actor, permission: str, resource: Resource | None) -> Verdict:
    """Whether ``actor`` may do ``permission`` (without ``:any``) to ``resource``.

    ``resource`` is None for what acts on nothing that exists yet (create, list one's own).
    Another tenant's thing, or another user's that the actor may not read, answers as one that does
    not exist.
    """
    held = permission in actor.permissions
    if resource is None:
        return _HELD if held else _LACKS
    if resource.tenant_id != actor.tenant_id:
        return _FOREIGN
    if permission + ANY in actor.permissions:
        return _ANY
    if resource.owner_id is None:
        return _SHARED if held else _LACKS
    if resource.owner_id == actor.user_id:
        return _OWN if held else _LACKS
    return _VISIBLE if f"{resource.kind}:read{ANY}" in actor.permissions else _HIDDEN
