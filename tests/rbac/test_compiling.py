"""What is compiled of each role, added up, is what the roles give together."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hub.rbac.compiling import compiled, packed, unpacked
from hub.rbac.inheritance import NOTHING, Definitions, ancestry, rank_of
from hub.rbac.roles import compile_roles
from tests.rbac.households import IDS, definitions, everything, ids, unhurried

held = st.frozensets(ids)
whose = st.fixed_dictionaries({id: st.sampled_from(["t_1", "t_2", None]) for id in IDS})


@unhurried
@given(definitions, held)
def test_compiled_roles_add_up_to_what_the_roles_give(
    there: Definitions, roles: frozenset[str]
) -> None:
    parts = [compiled(id, there) for id in roles if id in there]
    assert frozenset().union(*(each.permissions for each in parts)) == compile_roles(roles, there)
    assert roles.union(*(each.line for each in parts)) == ancestry(roles, there)
    assert max((each.rank for each in parts), default=NOTHING) == rank_of(roles, there)


@unhurried
@given(definitions)
def test_what_is_kept_of_a_role_is_all_of_it(there: Definitions) -> None:
    for id in there:
        assert unpacked(packed(compiled(id, there))) == compiled(id, there)


@unhurried
@given(everything, whose)
def test_a_role_has_nothing_of_another_tenants(
    there: Definitions, tenants: dict[str, str | None]
) -> None:
    owned = {id: replace(role, tenant_id=tenants[id]) for id, role in there.items()}
    for id, role in owned.items():
        alone = {
            each: one for each, one in owned.items() if one.tenant_id in (None, role.tenant_id)
        }
        assert compiled(id, owned) == compiled(id, alone)
        assert compiled(id, owned).permissions == compile_roles([id], alone)
