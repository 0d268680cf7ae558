"""Every permission, with what it allows. A permission that is not here does not exist.

``noun:verb`` acts on what is one's own (or belongs to the tenant at large); ``noun:verb:any`` on
what others own in the same tenant. No permission reaches into another tenant, but for the life of
tenants itself, which is administered from the one that the hub began with.

A declaration may have parts that are named when the permission is given:
``tool:call:<server*>/<tool*>`` declares ``tool:call:files/read``. Where a part has a star, and only
there, ``*`` may be given for every name, with ``*`` for all the parts after it:
``tool:call:files/*`` is every tool of one server, those that it has later too, and
``tool:call:*/*`` every tool of all. ``tool:call:*/read`` is no permission: what a tool is called is
for its server to say, and whoever was given that would be given what any server calls so.
So of two permissions that are given of a declaration, either the one covers the other or they have
nothing in common.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

PERMISSIONS: Final[Mapping[str, str]] = {
    "conversation:create": "Begin a conversation.",
    "conversation:read": "Read one's own conversations.",
    "conversation:write": "Rename one's own conversations, change their model and instructions.",
    "conversation:delete": "Delete one's own conversations.",
    "conversation:share": "Share one's own conversations, see with whom they are shared, and what "
    "groups there are to share with.",
    "conversation:read:any": "Read the conversations of others in the tenant.",
    "conversation:write:any": "Change the conversations of others in the tenant.",
    "conversation:delete:any": "Delete the conversations of others in the tenant.",
    "conversation:share:any": "Share the conversations of others in the tenant.",
    "message:send": "Send messages into one's own conversations, and so start runs.",
    "message:read": "Read the messages of one's own conversations.",
    "message:send:any": "Send messages into the conversations of others in the tenant.",
    "message:read:any": "Read the messages of others' conversations in the tenant.",
    "run:read": "See one's own runs.",
    "run:cancel": "Cancel one's own runs.",
    "run:read:any": "See the runs of others in the tenant.",
    "run:cancel:any": "Cancel the runs of others in the tenant.",
    "channel:subscribe": "Follow the events of what one may read.",
    "channel:subscribe:any": "Follow the events of others' conversations in the tenant.",
    "model:read": "See which models there are.",
    "tool:call:<server*>/<tool*>": "Have this tool of this server called in one's own runs; with "
    "`*` for the tool all that the server has or gets, with `*` for both all of all servers.",
    "session:read": "See one's own login sessions.",
    "session:revoke": "End one's own login sessions.",
    "session:read:any": "See the login sessions of others in the tenant.",
    "session:revoke:any": "End the login sessions of others in the tenant, and have letters sent "
    "to them to choose a new password.",
    "role:read": "See the roles of the tenant, who has them, and why somebody may do a thing.",
    "role:write": "Make, change and delete roles of the tenant, up to what one is and may oneself.",
    "role:assign": "Give roles to others and to groups, and take them, up to what one is oneself.",
    "group:read": "See the groups of the tenant, and who is in them.",
    "group:write": "Make, change and delete groups of the tenant, and say who is in them.",
    "apikey:create": "Make API keys of one's own, which may do no more than who makes them.",
    "apikey:read": "See one's own API keys, but for their secrets.",
    "apikey:write": "Rename one's own API keys, and change what they may do and for how long.",
    "apikey:revoke": "End one's own API keys.",
    "apikey:create:any": "Make and rotate the API keys of service accounts.",
    "apikey:read:any": "See the API keys of others in the tenant, but for their secrets.",
    "apikey:write:any": "Change the API keys of others in the tenant.",
    "apikey:revoke:any": "End the API keys of others in the tenant.",
    "service:create": "Make service accounts, of no higher rank than one's own.",
    "service:read": "See the service account that one is.",
    "service:write": "Rename, disable and enable the service account that one is.",
    "service:delete": "Delete the service account that one is.",
    "service:read:any": "See the service accounts of the tenant.",
    "service:write:any": "Rename, disable and enable the service accounts of the tenant.",
    "service:delete:any": "Delete the service accounts of the tenant.",
    "audit:read": "Look into the tenant's audit trail, and follow it as it grows.",
    "audit:verify": "Verify the tenant's audit trail.",
    "audit:export": "Export the tenant's audit trail.",
    "quota:read": "See one's own quotas, and where they stand.",
    "quota:read:any": "See the quotas of the tenant and of others in it, and where they stand.",
    "quota:set": "Set quotas of who stands below in the tenant; for its owners, of all of it.",
    "usage:read": "See what one's own runs have used.",
    "usage:read:any": "See what the runs of others in the tenant have used.",
    "member:read": "See who the members of the tenant are.",
    "member:remove": "End the membership of others in the tenant, up to one's own rank.",
    "member:invite": "Invite into the tenant and make users there, up to one's own rank; see and "
    "void invitations; have letters sent to verify an address.",
    "tenant:read": "See one's own tenant and what it has settled.",
    "tenant:update": "Change what one's own tenant has settled.",
    "tenant:delete": "Delete one's own tenant.",
    "tenant:create": "Make tenants, in the tenant that the hub began with.",
    "tenant:list": "See all tenants, in the tenant that the hub began with.",
    "tenant:suspend": "Suspend and resume tenants, in the tenant that the hub began with.",
    "tenant:restore": "Restore deleted tenants, in the tenant that the hub began with.",
    "tenant:read:any": "See any tenant, in the tenant that the hub began with.",
    "tenant:update:any": "Settle for any tenant, in the tenant that the hub began with.",
    "tenant:delete:any": "Delete any tenant, in the tenant that the hub began with.",
    "user:read": "See the users of the tenant.",
    "user:disable": "Disable users of the tenant whose rank is not higher, enable and rename them.",
    "user:delete": "Delete users from the tenant whose rank is not higher.",
    "user:export": "Read all that the hub holds of a user of the tenant.",
    "factor:reset": "Have a letter sent by which another user does without a lost second factor.",
    "factor:require": "Say who must have a second factor in the tenant.",
    "metrics:read": "Read the metrics of the hub, in the tenant that it began with.",
}
"""What each permission allows, by its name."""

ANY: Final = ":any"
"""The suffix of a permission that reaches what others own."""

WILDCARD: Final = "*"

LONGEST: Final = 280
"""Characters of the longest permission that can be given."""

_PART: Final = re.compile(r"<([a-z_]+)(\*?)>")
# As long as the names of tools that MCP has (revision 2025-11-25).
_NAME: Final = r"([A-Za-z0-9._-]{1,128})"
_NAME_OR_STAR: Final = r"([A-Za-z0-9._-]{1,128}|\*)"


def declaration(permission: str, declared: Iterable[str] = PERMISSIONS) -> str | None:
    """The name by which a permission is declared; None for one that does not exist."""
    for name in declared:
        if (name == permission) if "<" not in name else _parts(name, permission) is not None:
            return name
    return None


def wildcards(name: str) -> tuple[str, ...]:
    """The parts of a declaration for which ``*`` may be given: none, or the last ones."""
    return tuple(part for part, star in _PART.findall(name) if star)


STARRED: Final = tuple(name for name in PERMISSIONS if wildcards(name))
"""The declarations of which wildcards may be given."""


def holds(held: AbstractSet[str], permission: str, declared: tuple[str, ...] = STARRED) -> bool:
    """Whether ``permission`` is among those that are held, or a wildcard among them covers it.

    The one rule: whoever asks what somebody may asks this. Of ``declared`` only those matter of
    which wildcards may be given.
    """
    return permission in held or not held.isdisjoint(_covering(permission, declared))


def common(
    ones: AbstractSet[str], others: AbstractSet[str], declared: tuple[str, ...] = STARRED
) -> frozenset[str]:
    """What both hold: who is given it ``holds`` exactly what the one and the other ``holds``."""
    both = {each for each in ones if holds(others, each, declared)}
    return frozenset(both.union(each for each in others if holds(ones, each, declared)))


@lru_cache(maxsize=4_096)
def _covering(permission: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    """The wildcards that cover a permission, the narrowest first."""
    for name in declared:
        if (parts := _parts(name, permission)) is not None:
            lengths = range(len(parts) - 1, len(parts) - len(wildcards(name)) - 1, -1)
            wider = [(*parts[:n], *[WILDCARD] * (len(parts) - n)) for n in lengths]
            return tuple(_written(name, each) for each in wider)
    return ()


def _parts(name: str, permission: str) -> tuple[str, ...] | None:
    """What a permission says for the parts of a declaration; None if it is not of it."""
    found = _form(name).fullmatch(permission)
    if found is None:
        return None
    parts = found.groups()
    first = parts.index(WILDCARD) if WILDCARD in parts else len(parts)
    return parts if all(each == WILDCARD for each in parts[first:]) else None


def _written(name: str, parts: tuple[str, ...]) -> str:
    said = iter(parts)
    return _PART.sub(lambda _: next(said), name)


@lru_cache(maxsize=256)
def _form(name: str) -> re.Pattern[str]:
    """What is declared by a name that has parts; each is a group."""
    written, at = "", 0
    for part in _PART.finditer(name):
        written += re.escape(name[at : part.start()]) + (_NAME_OR_STAR if part[2] else _NAME)
        at = part.end()
    return re.compile(written + re.escape(name[at:]))
