"""Roles as there could be, in any shape, circles and gaps included; what can be given to them."""

import re
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hub.rbac.inheritance import ancestry, rank_of
from hub.rbac.permissions import PERMISSIONS as DECLARED
from hub.rbac.ranks import Hand
from hub.rbac.roles import HIGHEST, LOWEST, RoleDefinition, compile_roles

EVERYTHING: Final = frozenset(re.sub(r"<[a-z_]+\*?>", "*", name) for name in DECLARED)
"""The widest that can be given of each declaration: who holds this may do all there is."""
SOME_PARTS: Final = ("files/read", "files/write", "files/*", "mail/send", "*/*")
GIVEN: Final = sorted(
    {name for name in DECLARED if "<" not in name} | {f"tool:call:{each}" for each in SOME_PARTS}
)
"""What can be given: all that is declared without parts, and some of what is declared with them."""

IDS = ("a", "b", "c", "d", "e")
PERMISSIONS = (
    "conversation:read",
    "conversation:read:any",
    "message:send",
    "run:cancel",
    "role:write",
    "tool:call:files/read",
    "tool:call:files/*",
    "tool:call:*/*",
)

unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties that are true at any speed."""

ids = st.sampled_from(IDS)
ranks = st.integers(LOWEST, HIGHEST)
permissions = st.sampled_from(PERMISSIONS)


def roles_of(id: str) -> st.SearchStrategy[RoleDefinition]:
    return st.builds(
        RoleDefinition,
        id=st.just(id),
        name=st.just(id),
        rank=ranks,
        inherits=st.none() | ids | st.just("gone"),
        permissions=st.frozensets(permissions),
    )


definitions = st.fixed_dictionaries({}, optional={id: roles_of(id) for id in IDS})
"""Some roles."""
everything = st.fixed_dictionaries({id: roles_of(id) for id in IDS})
"""All of them."""
any_role = st.one_of([roles_of(id) for id in IDS])


def hand_with(roles: frozenset[str], there: dict[str, RoleDefinition]) -> Hand:
    """Somebody who has these roles, and is in the group ``g``."""
    return Hand(
        "u_me",
        rank_of(roles, there),
        compile_roles(roles, there),
        ancestry(roles, there) | {"g"},
    )
