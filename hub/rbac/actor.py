"""Who is asking."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """A user in a tenant, with what they may do at this moment.

    ``roles`` are names; ``permissions`` is what these roles compile to, inheritance included.
    ``groups`` are the ids of the groups that they are in there: what is granted to these is theirs.
    ``must_enrol``: the tenant demands a second factor that was not shown in the session yet; until
    it is, there are no permissions.
    """

    user_id: str
    tenant_id: str
    session_id: str
    roles: tuple[str, ...]
    permissions: frozenset[str]
    must_enrol: bool = False
    groups: frozenset[str] = frozenset()
