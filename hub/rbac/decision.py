"""The decision: may this actor do this to that? Pure, and the only place where it is made."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from hub.rbac.actor import Actor
from hub.rbac.permissions import ANY, STARRED, holds
from hub.rbac.sharing import CARRIES, Granted


class Resource(NamedTuple):
    """What is acted on. ``kind`` is its noun (``conversation``). ``owner_id`` is None for what
    belongs to the tenant at large. ``granted`` is what was granted on it to the actor who is about
    to act, and is in force at this moment; empty for its owner, who needs none.
    """

    kind: str
    id: str
    tenant_id: str
    owner_id: str | None
    granted: tuple[Granted, ...] = ()


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
_TENANTS: Final = Verdict(True, "the actor holds the permission and the tenant owns the resource")
_ANY: Final = Verdict(True, "the actor holds the permission for what others own")
_FOREIGN: Final = Verdict(False, "the resource belongs to another tenant", "not_found")
_LACKS: Final = Verdict(False, "the actor lacks the permission", "permission_denied")
_HIDDEN: Final = Verdict(False, "someone else's, which the actor may not see", "not_found")
_VISIBLE: Final = Verdict(
    False, "someone else's, which the actor may see but not do this to", "permission_denied"
)


def decide(
    actor: Actor,
    permission: str,
    resource: Resource | None,
    declared: tuple[str, ...] = STARRED,
) -> Verdict:
    """Whether ``actor`` may do ``permission`` (without ``:any``) to ``resource``.

    ``resource`` is None for what acts on nothing that exists yet (create, list one's own).
    Another tenant's thing, or another user's that the actor may not read, answers as one that does
    not exist. What was granted on a thing carries a permission to it for who holds that permission
    for what is their own. What is held is held by the rule of ``permissions.holds``.
    """
    held = holds(actor.permissions, permission, declared)
    if resource is None:
        return _HELD if held else _LACKS
    if resource.tenant_id != actor.tenant_id:
        return _FOREIGN
    if held and resource.owner_id in (None, actor.user_id):
        return _TENANTS if resource.owner_id is None else _OWN
    if holds(actor.permissions, permission + ANY, declared):
        return _ANY
    if resource.owner_id in (None, actor.user_id):
        return _LACKS
    return _of_anothers(actor, permission, held, resource)


def _of_anothers(actor: Actor, permission: str, held: bool, resource: Resource) -> Verdict:
    """Of what somebody else in the tenant owns, by what was granted on it."""
    if held:
        for granted in resource.granted:
            if permission in CARRIES[granted.access]:
                return _shared(granted)
    read = f"{resource.kind}:read"
    if holds(actor.permissions, read + ANY):
        return _VISIBLE
    if holds(actor.permissions, read):
        for granted in resource.granted:
            if read in CARRIES[granted.access]:
                return _insufficient(granted, held)
    return _HIDDEN


@lru_cache(maxsize=1_024)
def _shared(granted: Granted) -> Verdict:
    return Verdict(True, f"the actor holds the permission; {_in_words(granted)}")


@lru_cache(maxsize=1_024)
def _insufficient(granted: Granted, held: bool) -> Verdict:
    lacks = "which does not carry the permission" if held else "but the actor lacks the permission"
    return Verdict(False, f"{_in_words(granted)}, {lacks}", "permission_denied")


def _in_words(granted: Granted) -> str:
    until = "" if granted.until is None else f" until {granted.until.isoformat()}"
    return f"shared as {granted.access}{until}"
