"""Why somebody has a permission: every way to it, and no way that is none."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from hub.rbac.explaining import Holding, givers, ways
from hub.rbac.inheritance import lineage
from hub.rbac.permissions import ANY, holds
from hub.rbac.roles import BUILT_IN, RoleDefinition, compile_roles
from tests.rbac.households import definitions, ids, permissions, unhurried

held = st.lists(st.builds(Holding, ids, st.none() | st.sampled_from(["g_1", "g_2"])), max_size=4)
There = dict[str, RoleDefinition]


@unhurried
@given(permissions, held, definitions)
def test_there_is_a_way_exactly_to_what_one_holds(
    permission: str, held: list[Holding], there: There
) -> None:
    compiled = compile_roles((each.role_id for each in held), there)
    found = ways(permission, held, there)
    assert bool(found) == (holds(compiled, permission) or permission + ANY in compiled)


@unhurried
@given(permissions, held, definitions)
def test_a_way_leads_from_what_is_held_to_the_role_that_has_it(
    permission: str, held: list[Holding], there: There
) -> None:
    found = ways(permission, held, there)
    assert [len(way.lineage) for way in found] == sorted(len(way.lineage) for way in found)
    for way in found:
        assert way.holding in held
        assert way.lineage == lineage(way.holding.role_id, there)[: len(way.lineage)]
        assert holds({way.permission}, permission) or way.permission == permission + ANY
        assert way.permission in there[way.lineage[-1]].permissions


@unhurried
@given(permissions, definitions)
def test_the_roles_that_would_give_it_are_those_that_do(permission: str, there: There) -> None:
    for role in there:
        compiled = compile_roles([role], there)
        gives = holds(compiled, permission) or permission + ANY in compiled
        assert (role in givers(permission, there)) == gives


def test_a_way_says_by_which_group_and_until_when() -> None:
    until = datetime(2027, 1, 1, tzinfo=UTC)
    by_group = Holding("operator", "g_1", until)
    found = ways("run:cancel", [Holding("viewer"), by_group], BUILT_IN)
    assert [(way.holding, way.lineage, way.permission) for way in found] == [
        (by_group, ("operator",), "run:cancel:any"),
        (by_group, ("operator", "member"), "run:cancel"),
    ]
    assert givers("metrics:read", BUILT_IN) == ["operator", "admin", "owner"]
    assert ways("metrics:read", [replace(by_group, role_id="member")], BUILT_IN) == []
