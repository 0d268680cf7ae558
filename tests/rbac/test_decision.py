"""The decision, for every actor and resource there could be."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hub.faults import FAULTS
from hub.rbac.actor import Actor
from hub.rbac.decision import Resource, decide
from hub.rbac.permissions import ANY, PERMISSIONS, declaration, holds
from hub.rbac.roles import BUILT_IN, compile_roles
from tests.rbac.households import EVERYTHING, GIVEN
from tests.rbac.test_permissions import TOOLS, given_ones

BASIC = [name for name in GIVEN if not name.endswith(ANY)]
KINDS = sorted({name.split(":")[0] for name in PERMISSIONS})

ids = st.sampled_from(["1", "2", "3"])
actors = st.builds(
    Actor,
    user_id=ids,
    tenant_id=ids,
    session_id=ids,
    roles=st.just(()),
    permissions=st.frozensets(st.sampled_from(GIVEN)),
)
resources = st.builds(
    Resource,
    kind=st.sampled_from(KINDS),
    id=ids,
    tenant_id=ids,
    owner_id=st.none() | ids,
    granted=st.just(()),
)
permissions = st.sampled_from(BASIC)


@given(actors, permissions, resources)
def test_another_tenants_thing_does_not_exist(
    actor: Actor, permission: str, resource: Resource
) -> None:
    verdict = decide(actor, permission, resource._replace(tenant_id="another"))
    assert (verdict.allowed, verdict.fault) == (False, "not_found")


@given(actors, permissions, st.none() | resources, st.frozensets(st.sampled_from(BASIC)))
def test_more_permissions_never_allow_less(
    actor: Actor, permission: str, resource: Resource | None, more: frozenset[str]
) -> None:
    stronger = replace(actor, permissions=actor.permissions | more)
    if decide(actor, permission, resource).allowed:
        assert decide(stronger, permission, resource).allowed


@given(actors, permissions, st.none() | resources)
def test_a_verdict_gives_its_reason_and_a_fault_of_the_table(
    actor: Actor, permission: str, resource: Resource | None
) -> None:
    verdict = decide(actor, permission, resource)
    assert verdict.reason
    assert verdict.fault in ({""} if verdict.allowed else {"not_found", "permission_denied"})
    assert verdict.allowed or verdict.fault in FAULTS


@given(actors, permissions, st.none() | resources)
def test_who_holds_nothing_may_nothing(
    actor: Actor, permission: str, resource: Resource | None
) -> None:
    assert not decide(replace(actor, permissions=frozenset()), permission, resource).allowed


@given(actors, permissions, resources)
def test_what_others_own_and_one_may_not_read_does_not_exist(
    actor: Actor, permission: str, resource: Resource
) -> None:
    seen = {name for name in actor.permissions if not name.endswith(f":read{ANY}")}
    blind = replace(actor, permissions=frozenset(seen))
    theirs = resource._replace(tenant_id=actor.tenant_id, owner_id="someone else")
    verdict = decide(blind, permission, theirs)
    assert verdict.allowed == (permission + ANY in seen)
    assert verdict.allowed or verdict.fault == "not_found"


@given(st.frozensets(given_ones), given_ones)
def test_a_wildcard_allows_what_it_covers_and_nothing_else(
    held: frozenset[str], asked: str
) -> None:
    who = Actor("u_1", "t_1", "s_1", (), held)
    tool = Resource("tool", "read", "t_1", None)
    for resource in (None, tool, tool._replace(owner_id="u_1")):
        verdict = decide(who, asked, resource, TOOLS)
        assert verdict.allowed == holds(held, asked, TOOLS)
    assert not decide(who, asked, tool._replace(owner_id="u_2"), TOOLS).allowed
    assert not decide(who, asked, tool._replace(tenant_id="t_2"), TOOLS).allowed


def actor(*permissions: str) -> Actor:
    return Actor("u_1", "t_1", "s_1", (), frozenset(permissions))


OWN = Resource("conversation", "c_1", "t_1", "u_1")
OTHERS = Resource("conversation", "c_2", "t_1", "u_2")
SHARED = Resource("model", "m", "t_1", None)


def test_ones_own_needs_the_permission() -> None:
    assert decide(actor("conversation:delete"), "conversation:delete", OWN).allowed
    verdict = decide(actor("conversation:read"), "conversation:delete", OWN)
    assert (verdict.allowed, verdict.fault) == (False, "permission_denied")


def test_someone_elses_needs_the_permission_for_any() -> None:
    assert decide(actor("conversation:delete:any"), "conversation:delete", OTHERS).allowed
    verdict = decide(actor("conversation:delete"), "conversation:delete", OTHERS)
    assert (verdict.allowed, verdict.fault) == (False, "not_found")


def test_someone_elses_that_one_may_read_is_denied_openly() -> None:
    who = actor("conversation:delete", "conversation:read:any")
    assert decide(who, "conversation:delete", OTHERS).fault == "permission_denied"


def test_what_the_tenant_owns_needs_the_permission() -> None:
    assert decide(actor("model:read"), "model:read", SHARED).allowed
    assert decide(actor(), "model:read", SHARED).fault == "permission_denied"


def test_what_acts_on_nothing_yet_needs_the_permission() -> None:
    assert decide(actor("conversation:create"), "conversation:create", None).allowed
    assert decide(actor(), "conversation:create", None).fault == "permission_denied"


def test_built_in_roles_hold_permissions_that_exist() -> None:
    for role in BUILT_IN.values():
        assert all(declaration(each) for each in role.permissions)
        assert role.meaning
    assert all(PERMISSIONS.values())


def test_every_permission_for_any_has_its_own_kind() -> None:
    for name in PERMISSIONS:
        if name.endswith(ANY):
            assert name.removesuffix(ANY) in PERMISSIONS


def test_roles_contain_each_other_in_their_order() -> None:
    order = ["viewer", "member", "operator", "admin", "owner"]
    compiled = [compile_roles([role]) for role in order]
    assert all(lower < higher for lower, higher in pairwise(compiled))
    assert [BUILT_IN[role].rank for role in order] == sorted(
        {BUILT_IN[role].rank for role in order}
    )
    assert compiled[-1] == EVERYTHING
    assert compile_roles(["service"]) < compile_roles(["owner"])
    assert "conversation:delete" not in compile_roles(["service"])


def test_an_operator_reads_no_ones_conversations() -> None:
    held = compile_roles(["operator"])
    assert "run:cancel:any" in held
    assert not {"conversation:read:any", "message:read:any", "channel:subscribe:any"} & held


def test_roles_that_inherit_in_a_circle_end() -> None:
    circle = {
        "a": replace(BUILT_IN["viewer"], id="a", inherits="b"),
        "b": replace(BUILT_IN["member"], id="b", inherits="a"),
    }
    assert compile_roles(["a"], circle) == circle["a"].permissions | circle["b"].permissions


def test_a_role_that_is_not_defined_gives_nothing() -> None:
    assert compile_roles(["nobody knows"]) == frozenset()
