"""Who may give which role to whom, and define which: the rules that keep rank and permission from
growing in anybody's own hand. Pure; each answers why not, or None.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from hub.rbac.inheritance import Definitions, rank_of
from hub.rbac.permissions import holds
from hub.rbac.roles import HIGHEST, RoleDefinition, compile_roles

_NAMED: Final = 5
"""Permissions that a refusal names; of more it says how many."""


@dataclass(frozen=True, slots=True)
class Hand:
    """Who gives and takes, as of this moment.

    ``rests_on``: the roles that their permissions come from, inherited ones included, and the
    groups that they are in. ``within``: what their credentials are limited to, None for no limit.
    """

    user_id: str | None
    rank: int
    permissions: frozenset[str]
    rests_on: frozenset[str]
    within: frozenset[str] | None = None

    def holds(self, permission: str) -> bool:
        """Whether they may do this themselves."""
        if self.user_id is None:
            return True
        return holds(self.permissions, permission) and (
            self.within is None or holds(self.within, permission)
        )


OPERATOR: Final = Hand(None, HIGHEST, frozenset(), frozenset())
"""Whoever is at the machine, with access to the database: of the highest rank, and may all."""


def why_not_to(hand: Hand, target_id: str) -> str | None:
    """Why a user or a group is not one that they give anything to, or put anybody into: their own
    hand.
    """
    own = hand.user_id is not None and (target_id == hand.user_id or target_id in hand.rests_on)
    return "Nobody gives a role to themselves, nor to a group that they are in." if own else None


def why_not_give(hand: Hand, role_ids: Iterable[str], definitions: Definitions) -> str | None:
    """Why these roles are not theirs to give to others."""
    roles = tuple(role_ids)
    if rank_of(roles, definitions) > hand.rank:
        return "This role ranks above you."
    lacking = sorted(each for each in compile_roles(roles, definitions) if not hand.holds(each))
    return f"This role may do what you may not: {_listed(lacking)}." if lacking else None


def why_not_touch(hand: Hand, role_ids: Iterable[str], definitions: Definitions) -> str | None:
    """Why who has these roles is not theirs to take anything from, or these roles to change."""
    above = rank_of(role_ids, definitions) > hand.rank
    return "Who or what you would change ranks above you." if above else None


def why_not_define(hand: Hand, role: RoleDefinition, definitions: Definitions) -> str | None:
    """Why a role is not theirs to make as it is in ``role``, or to make so of what it is now.

    ``definitions`` are the roles as they are.
    """
    before = definitions.get(role.id)
    if before is not None and (why := why_not_touch(hand, (role.id,), definitions)) is not None:
        return why
    after: Mapping[str, RoleDefinition] = {**definitions, role.id: role}
    if rank_of((role.id,), after) > hand.rank:
        return f"You make no role that ranks above your own {hand.rank}."
    had = compile_roles((role.id,), definitions)
    gained = [each for each in compile_roles((role.id,), after) if not holds(had, each)]
    if lacking := sorted(each for each in gained if not hand.holds(each)):
        return f"You may not do this yourself: {_listed(lacking)}."
    # One who has a role for a while would have what they add to it for as long as they like.
    higher = rank_of((role.id,), after) > rank_of((role.id,), definitions)
    if before is not None and role.id in hand.rests_on and (gained or higher):
        return "You have this role yourself; what is added to it is for another to add."
    return None


def why_not_replace(hand: Hand, role_id: str, instead: str, definitions: Definitions) -> str | None:
    """Why they may not give ``instead`` to all who have the role ``role_id``, and delete that."""
    if (why := why_not_touch(hand, (role_id,), definitions)) is not None:
        return why
    if role_id in hand.rests_on:
        return "You have this role yourself; nobody gives a role to themselves."
    return why_not_give(hand, (instead,), definitions)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
