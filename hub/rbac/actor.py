"""Who is asking."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """A user in a tenant, with what they may do at this moment.

    ``roles`` are names; ``permissions`` is what these roles compile to, inheritance included.
    """

    user_id: str
    tenant_id: str
    session_id: str
    roles: tuple[str, ...]
    permissions: frozenset[str]
