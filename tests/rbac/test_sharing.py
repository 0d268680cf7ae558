"""What is granted on one thing: every case there is, against tables that are written here anew."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.rbac.actor import Actor
from hub.rbac.decision import Resource, decide
from hub.rbac.permissions import ANY, holds
from hub.rbac.roles import compile_roles
from hub.rbac.sharing import ACCESSES, CARRIES, Access, Granted, given_to, strongest
from tests.rbac.households import GIVEN

CARRIED: Final = """
                    reader  writer  approver
conversation:read   yes     yes     yes
message:read        yes     yes     yes
run:read            yes     yes     yes
channel:subscribe   yes     yes     yes
message:send        no      yes     no
run:cancel          no      yes     no
"""
"""Every other permission is carried by none."""

# whose, holds the permission for any, holds it, it is carried, sees the thing: what is answered.
# A dash stands for both; the first row that fits counts.
VERDICTS: Final = """
foreign   -   -   -   -    not_found
mine      yes -   -   -    allowed
mine      no  yes -   -    allowed
mine      no  no  -   -    permission_denied
tenant's  yes -   -   -    allowed
tenant's  no  yes -   -    allowed
tenant's  no  no  -   -    permission_denied
theirs    yes -   -   -    allowed
theirs    no  yes yes -    allowed
theirs    no  -   -   yes  permission_denied
theirs    no  -   -   no   not_found
"""

UNTIL: Final = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
GROUPS: Final = frozenset({"g_1", "g_2"})
OWNERS: Final = {"mine": "u_1", "theirs": "u_2", "tenant's": None, "foreign": "u_1"}
BASIC: Final = [name for name in GIVEN if not name.endswith(ANY) and "*" not in name]


@cache
def _carried(access: Access | None, permission: str) -> bool:
    head, *rows = [line.split() for line in CARRIED.split("\n") if line.strip()]
    table = {name: dict(zip(head, cells, strict=True)) for name, *cells in rows}
    return access is not None and table.get(permission, {}).get(access) == "yes"


@cache
def _answer(*case: Any) -> str:
    facts = [each if isinstance(each, str) else "yes" if each else "no" for each in case]
    for line in VERDICTS.strip().split("\n"):
        *row, answer = line.split()
        if all(cell in ("-", fact) for cell, fact in zip(row, facts, strict=True)):
            return answer
    raise AssertionError(case)


def _cases() -> Iterator[tuple[Actor, str, Resource, str]]:
    kinds = ("conversation", "run", "channel", "session")
    grants = [None, *(Granted(access, until) for access in ACCESSES for until in (None, UNTIL))]
    for permission, kind, whose, granted in product(BASIC, kinds, OWNERS, grants):
        tenant_id = "t_2" if whose == "foreign" else "t_1"
        given = () if granted is None else (granted,)
        place = Resource(kind, "x", tenant_id, OWNERS[whose], given)
        access = None if granted is None else granted.access
        carried = _carried(access, permission)
        read = f"{kind}:read"
        for held in product((False, True), repeat=4):
            names = (permission, permission + ANY, read, read + ANY)
            permissions = {name for name, has in zip(names, held, strict=True) if has}
            actor = Actor("u_1", "t_1", "s_1", (), frozenset(permissions))
            sees = read + ANY in permissions or (read in permissions and _carried(access, read))
            has_any, has = permission + ANY in permissions, permission in permissions
            yield actor, permission, place, _answer(whose, has_any, has, carried, sees)


def test_every_decision_is_that_of_the_tables() -> None:
    number = 0
    for actor, permission, resource, answer in _cases():
        verdict = decide(actor, permission, resource)
        told = "allowed" if verdict.allowed else verdict.fault
        assert told == answer, (actor.permissions, permission, resource)
        number += 1
    assert number == len(BASIC) * 4 * 4 * (1 + 3 * 2) * 16


def _group_cases() -> Iterator[tuple[dict[str, Granted], list[Access]]]:
    """Every way to share it with the actor, two groups of theirs, one that they are not in, and
    somebody else; and what of that reaches the actor.
    """
    for accesses in product((None, *ACCESSES), repeat=5):
        shares = dict(zip(("u_1", "g_1", "g_2", "g_3", "u_3"), accesses, strict=True))
        given = {id: Granted(access) for id, access in shares.items() if access is not None}
        yield given, [given[id].access for id in ("u_1", "g_1", "g_2") if id in given]


def test_every_decision_by_groups_is_that_of_the_tables() -> None:
    names = [*{name for carried in CARRIES.values() for name in carried}, "conversation:delete"]
    read, number = "conversation:read", 0
    for shares, reaching in _group_cases():
        for permission, has, reads in product(names, (False, True), (False, True)):
            held = {name for name, one in ((permission, has), (read, reads)) if one}
            actor = Actor("u_1", "t_1", "s_1", (), frozenset(held), groups=GROUPS)
            place = Resource("conversation", "x", "t_1", "u_2", given_to(actor, shares))
            carried = any(_carried(access, permission) for access in reaching)
            sees = read in held and any(_carried(access, read) for access in reaching)
            answer = _answer("theirs", False, permission in held, carried, sees)
            verdict = decide(actor, permission, place)
            assert (verdict.fault or "allowed") == answer, (held, permission, shares)
            number += 1
    assert number == 4**5 * 7 * 4


def test_the_table_speaks_of_permissions_that_there_are() -> None:
    named = {line.split()[0] for line in CARRIED.split("\n")[2:] if line.strip()}
    assert named <= set(GIVEN)
    assert set().union(*CARRIES.values()) == named


actors = st.builds(
    Actor,
    user_id=st.just("u_1"),
    tenant_id=st.just("t_1"),
    session_id=st.just("s_1"),
    roles=st.just(()),
    permissions=st.frozensets(st.sampled_from(GIVEN)),
)
grants = st.builds(
    Granted,
    access=st.sampled_from(ACCESSES),
    until=st.none() | st.datetimes(timezones=st.just(UTC), min_value=datetime(2020, 1, 1)),
)
theirs = st.builds(
    Resource,
    kind=st.sampled_from(["conversation", "run", "channel"]),
    id=st.just("x"),
    tenant_id=st.just("t_1"),
    owner_id=st.just("u_2"),
    granted=st.lists(grants, max_size=4).map(tuple),
)
permissions = st.sampled_from(BASIC)


@given(actors, permissions, theirs, grants)
def test_another_grant_never_allows_less(
    actor: Actor, permission: str, resource: Resource, more: Granted
) -> None:
    richer = resource._replace(granted=(*resource.granted, more))
    if decide(actor, permission, resource).allowed:
        assert decide(actor, permission, richer).allowed


@given(actors, permissions, theirs)
def test_no_grant_gives_a_permission_that_is_not_held(
    actor: Actor, permission: str, resource: Resource
) -> None:
    held = holds(actor.permissions, permission) or permission + ANY in actor.permissions
    if decide(actor, permission, resource).allowed:
        assert held


@given(actors, permissions, theirs)
def test_several_grants_allow_what_one_of_them_does(
    actor: Actor, permission: str, resource: Resource
) -> None:
    each = [resource._replace(granted=(granted,)) for granted in resource.granted]
    alone = [decide(actor, permission, one).allowed for one in each]
    without = decide(actor, permission, resource._replace(granted=())).allowed
    assert decide(actor, permission, resource).allowed == (without or any(alone))


given_by_id = st.dictionaries(st.sampled_from(["u_1", "u_3", "g_1", "g_2", "g_3"]), grants)
group_sets = st.frozensets(st.sampled_from(["g_1", "g_2", "g_3"]))


@given(actors, group_sets, group_sets, given_by_id, permissions)
def test_who_leaves_groups_may_never_more(
    actor: Actor,
    before: frozenset[str],
    left: frozenset[str],
    given: dict[str, Granted],
    permission: str,
) -> None:
    def may(groups: frozenset[str]) -> bool:
        granted = given_to(replace(actor, groups=groups), given)
        place = Resource("conversation", "x", "t_1", "u_2", granted)
        return decide(actor, permission, place).allowed

    assert may(before) or not may(before - left)


@given(actors, group_sets, given_by_id)
def test_what_reaches_somebody_is_theirs_and_their_groups_the_strongest_first(
    actor: Actor, groups: frozenset[str], given: dict[str, Granted]
) -> None:
    found = given_to(replace(actor, groups=groups), given)
    reaching = [granted for id, granted in given.items() if id in groups | {"u_1"}]
    assert sorted(map(repr, found)) == sorted(map(repr, reaching))
    assert strongest(reaching) == (found[0] if found else None)


@pytest.mark.parametrize("access", ACCESSES)
def test_the_reason_says_as_what_it_is_shared_and_until_when(access: Access) -> None:
    member = Actor("u_1", "t_1", "s_1", ("member",), compile_roles(["member"]))
    place = Resource("conversation", "c_1", "t_1", "u_2", (Granted(access, UNTIL),))
    for permission in ("message:read", "conversation:delete"):
        said = decide(member, permission, place).reason
        assert f"shared as {access} until 2031-05-04T03:02:01+00:00" in said
    for_good = place._replace(granted=(Granted(access),))
    said = decide(member, "message:read", for_good).reason
    assert f"shared as {access}" in said
    assert "until" not in said


def test_the_strongest_is_shown_and_of_the_same_the_longest() -> None:
    reader, later = Granted("reader", UNTIL), Granted("reader", UNTIL + timedelta(days=1))
    approver, writer = Granted("approver", UNTIL), Granted("writer", UNTIL)
    assert strongest([]) is None
    assert strongest([reader, later]) == later
    assert strongest([later, Granted("reader"), reader]) == Granted("reader")
    assert strongest([Granted("reader"), approver]) == approver
    assert strongest([approver, writer, Granted("approver")]) == writer
