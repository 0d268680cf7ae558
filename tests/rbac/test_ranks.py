"""Nobody's rank or permission grows in their own hand, whatever is there and whatever they try."""

from collections.abc import Set as AbstractSet
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.rbac.inheritance import closes_circle, lineage, rank_of
from hub.rbac.permissions import holds
from hub.rbac.ranks import (
    OPERATOR,
    Hand,
    why_not_define,
    why_not_give,
    why_not_replace,
    why_not_to,
    why_not_touch,
)
from hub.rbac.roles import BUILT_IN, HIGHEST, RoleDefinition, compile_roles
from tests.rbac.households import any_role, definitions, everything, hand_with, ids, unhurried

There = dict[str, RoleDefinition]
own = st.frozensets(ids)


def covered(wanted: AbstractSet[str], *held: AbstractSet[str]) -> bool:
    """Whether each of what is wanted is held, in one of these hands."""
    return all(any(holds(each, one) for each in held) for one in wanted)


@unhurried
@given(definitions, own, st.frozensets(ids))
def test_what_one_gives_is_within_what_one_is_and_may(
    there: There, mine: frozenset[str], wanted: frozenset[str]
) -> None:
    hand = hand_with(mine, there)
    allowed = why_not_give(hand, wanted, there) is None
    within = rank_of(wanted, there) <= hand.rank
    assert allowed == (within and covered(compile_roles(wanted, there), hand.permissions))


@unhurried
@given(definitions, own)
def test_one_may_give_what_one_has_oneself(there: There, mine: frozenset[str]) -> None:
    assert why_not_give(hand_with(mine, there), mine, there) is None


@unhurried
@given(definitions, own, any_role)
def test_a_role_that_one_may_define_gives_nobody_more_than_one_has_and_oneself_nothing(
    there: There, mine: frozenset[str], role: RoleDefinition
) -> None:
    if role.inherits is not None and closes_circle(role.id, role.inherits, there):
        return  # that is a conflict, whoever asks
    hand = hand_with(mine, there)
    if why_not_define(hand, role, there) is not None:
        return
    after = {**there, role.id: role}
    # A role that is made now was nobody's; one that is there may be one's own.
    if role.id in there:
        assert covered(compile_roles(mine, after), hand.permissions)
        assert rank_of(mine, after) <= hand.rank
    for each in after:
        had = compile_roles([each], there)
        assert covered(compile_roles([each], after), had, hand.permissions)
        if rank_of([each], after) > rank_of([each], there):
            assert rank_of([role.id], after) <= hand.rank


@unhurried
@given(everything, own, ids, ids)
def test_a_role_that_is_replaced_gives_nobody_more_than_one_has_and_oneself_nothing(
    there: There, mine: frozenset[str], role: str, instead: str
) -> None:
    if role in lineage(instead, there):
        return  # that is a conflict, whoever asks
    hand = hand_with(mine, there)
    if why_not_replace(hand, role, instead, there) is not None:
        return
    after = {
        each.id: replace(each, inherits=instead) if each.inherits == role else each
        for each in there.values()
        if each.id != role
    }
    assert covered(compile_roles(mine, after), hand.permissions)
    assert rank_of(mine, after) <= hand.rank
    for each in after:
        had = compile_roles([each], there)
        assert covered(compile_roles([each], after), had, hand.permissions)


@unhurried
@given(definitions, own, st.frozensets(ids))
def test_one_touches_nobody_above_oneself(
    there: There, mine: frozenset[str], theirs: frozenset[str]
) -> None:
    hand = hand_with(mine, there)
    assert (why_not_touch(hand, theirs, there) is None) == (rank_of(theirs, there) <= hand.rank)


@unhurried
@given(definitions, own, ids)
def test_credentials_that_are_limited_give_no_more_than_they_may(
    there: There, mine: frozenset[str], wanted: str
) -> None:
    limited = replace(hand_with(mine, there), within=frozenset({"message:send"}))
    if why_not_give(limited, [wanted], there) is None:
        assert compile_roles([wanted], there) <= {"message:send"}


def test_nobody_gives_to_themselves_or_to_a_group_that_they_are_in() -> None:
    hand = hand_with(frozenset({"owner"}), dict(BUILT_IN))
    assert why_not_to(hand, "u_me") is not None
    assert why_not_to(hand, "g") is not None
    assert why_not_to(hand, "u_other") is None
    assert why_not_to(OPERATOR, "u_me") is None


def test_what_one_has_oneself_is_for_another_to_add_to() -> None:
    there = {
        **BUILT_IN,
        "helper": RoleDefinition("helper", "helper", 10, "viewer", frozenset({"message:send"})),
    }
    hand = hand_with(frozenset({"admin", "helper"}), there)
    wider = replace(there["helper"], permissions=frozenset({"message:send", "run:cancel:any"}))
    assert "another" in str(why_not_define(hand, wider, there))
    higher = replace(there["helper"], rank=20)
    assert "another" in str(why_not_define(hand, higher, there))
    there["helper"] = replace(there["helper"], permissions=frozenset({"tool:call:*/*"}))
    one_server = replace(there["helper"], permissions=frozenset({"tool:call:files/*"}))
    assert why_not_define(hand, one_server, there) is None, "it was covered before"
    narrower = replace(there["helper"], permissions=frozenset())
    assert why_not_define(hand, narrower, there) is None
    other = hand_with(frozenset({"admin"}), there)
    assert why_not_define(other, wider, there) is None


@pytest.mark.parametrize("giver", ["viewer", "member", "operator", "admin", "owner"])
@pytest.mark.parametrize("given_one", list(BUILT_IN))
def test_built_in_roles_are_given_by_who_ranks_as_high(giver: str, given_one: str) -> None:
    hand = hand_with(frozenset({giver}), dict(BUILT_IN))
    refused = why_not_give(hand, [given_one], BUILT_IN)
    assert (refused is None) == (
        BUILT_IN[given_one].rank <= BUILT_IN[giver].rank
        and compile_roles([given_one]) <= compile_roles([giver])
    )


def test_the_operator_gives_everything_that_there_is_and_nothing_above() -> None:
    assert why_not_give(OPERATOR, BUILT_IN, BUILT_IN) is None
    above = RoleDefinition("x", "x", HIGHEST + 1, None, frozenset())
    assert why_not_define(OPERATOR, above, BUILT_IN) is not None


def test_a_refusal_says_what_is_missing_and_stays_short() -> None:
    hand = Hand("u", HIGHEST, frozenset(), frozenset())
    assert str(why_not_give(hand, ["owner"], BUILT_IN)).endswith(" more.")
    few = RoleDefinition("x", "x", 1, None, frozenset({"run:read"}))
    assert "run:read" in str(why_not_give(hand, ["x"], {"x": few}))
