"""What roles have of others, in whatever shape they are."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given

from hub.rbac.inheritance import (
    Definitions,
    ancestry,
    closes_circle,
    heirs,
    lineage,
    rank_of,
)
from hub.rbac.roles import BUILT_IN
from tests.rbac.households import definitions, ids, unhurried


@unhurried
@given(definitions, ids)
def test_a_lineage_follows_what_is_inherited_and_ends(there: Definitions, role: str) -> None:
    line = lineage(role, there)
    assert len(set(line)) == len(line)
    assert line[:1] == ((role,) if role in there else ())
    for one, following in pairwise(line):
        assert there[one].inherits == following
    assert (
        set(line)
        <= ancestry([role], there)
        <= {*line, role, "gone"} | {there[one].inherits for one in line if there[one].inherits}
    )


@unhurried
@given(definitions, ids)
def test_a_role_ranks_no_lower_than_what_it_inherits_from(there: Definitions, role: str) -> None:
    rank = rank_of([role], there)
    for one in lineage(role, there):
        assert rank >= there[one].rank
        assert rank >= rank_of([one], there)


@unhurried
@given(definitions, ids, ids)
def test_a_circle_is_seen_before_it_is_closed(there: Definitions, role: str, other: str) -> None:
    if role not in there:
        return
    changed = {**there, role: replace(there[role], inherits=other)}
    line = lineage(other, changed)
    assert closes_circle(role, other, there) == (role in line or role == other)


@unhurried
@given(definitions, ids)
def test_heirs_inherit_at_once(there: Definitions, role: str) -> None:
    for one in there:
        assert (one in heirs(role, there)) == (there[one].inherits == role)


def test_who_has_nothing_has_no_rank() -> None:
    assert rank_of([], BUILT_IN) == rank_of(["no such role"], BUILT_IN) == 0
    assert rank_of(["viewer", "admin"], BUILT_IN) == BUILT_IN["admin"].rank
