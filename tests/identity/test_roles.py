"""Roles of a tenant: what can be made, by whom, and what becomes of who has them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from hub.faults import Fault
from hub.identity.access.assignments import Target
from hub.identity.access.roles import MOST
from hub.ids import new_id
from hub.rbac.roles import BUILT_IN, compile_roles
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Invitation, Role, now
from tests.identity.houses import House


async def refusal(work: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value


async def test_the_built_in_roles_are_there_with_all_that_they_may(house: House) -> None:
    found = await house.roles.all(house.tenant_id)
    assert [role.name for role in found] == [
        "viewer", "service", "member", "operator", "admin", "owner",
    ]  # fmt: skip
    for role in found:
        assert role.built_in
        assert role.description == BUILT_IN[role.id].meaning
        assert set(role.all_permissions) == compile_roles([role.id])


async def test_a_role_is_made_and_gives_what_it_says_and_inherits(house: House) -> None:
    admin = await house.user("admin")
    made = await house.roles.create(
        house.tenant_id,
        admin,
        "support",
        description="Helps.",
        inherits="viewer",
        permissions=["run:cancel:any"],
    )
    assert (made.rank, made.built_in, made.inherits) == (10, False, "viewer")
    assert made.permissions == ["run:cancel:any"]
    assert set(made.all_permissions) == compile_roles(["viewer"]) | {"run:cancel:any"}
    assert await house.roles.get(house.tenant_id, made.id) == made
    helper = await house.user(made.id)
    assert helper.roles == ("support",)
    assert helper.permissions == set(made.all_permissions)
    assert await house.trail() == [("role.create", made.id)]


async def test_a_role_inherits_from_one_of_the_tenants_own(house: House) -> None:
    owner = await house.user("owner")
    first = await house.roles.create(
        house.tenant_id, owner, "first", inherits="member", rank=25, permissions=["metrics:read"]
    )
    second = await house.roles.create(house.tenant_id, owner, "second", inherits=first.id)
    assert second.rank == 25
    assert set(second.all_permissions) == compile_roles(["member"]) | {"metrics:read"}
    changed = await house.roles.update(
        house.tenant_id, owner, first.id, {"permissions": ["run:read:any"], "name": "one"}
    )
    assert (changed.name, changed.permissions) == ("one", ["run:read:any"])
    assert house.told == [("role", first.id)]
    second = await house.roles.get(house.tenant_id, second.id)
    assert set(second.all_permissions) == compile_roles(["member"]) | {"run:read:any"}


async def test_a_role_that_cannot_be_is_refused_with_what_is_wrong(house: House) -> None:
    admin = await house.user("admin")
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"name": "Support"}, "invalid_params", "name"),
        ({"name": "owner"}, "conflict", "already"),
        ({"permissions": ["conversation:fly"]}, "invalid_params", "conversation:fly"),
        ({"permissions": ["conversation:*"]}, "invalid_params", "conversation:*"),
        ({"permissions": ["message:send:any"]}, "permission_denied", "message:send:any"),
        ({"inherits": "nobody"}, "invalid_params", "inherits"),
        ({"inherits": "owner"}, "permission_denied", "above"),
        ({"inherits": "operator", "rank": 29}, "invalid_params", "30"),
        ({"rank": 41}, "permission_denied", "40"),
        ({"rank": 51}, "invalid_params", "rank"),
        ({"rank": 0}, "invalid_params", "rank"),
    ]
    for asked, reason, says in cases:
        whole = {"name": "support", **asked}
        fault = await refusal(house.roles.create(house.tenant_id, admin, **whole))
        assert fault.reason == reason, asked
        assert says in fault.message
    assert await house.trail() == []


async def test_a_role_does_not_come_to_inherit_from_itself(house: House) -> None:
    owner = await house.user("owner")
    first = await house.roles.create(house.tenant_id, owner, "first")
    second = await house.roles.create(house.tenant_id, owner, "second", inherits=first.id)
    for inherits in (first.id, second.id):
        change = house.roles.update(house.tenant_id, owner, first.id, {"inherits": inherits})
        assert (await refusal(change)).reason == "conflict"


async def test_a_built_in_role_stays_as_it_is(house: House) -> None:
    for by in (await house.user("owner"), None):
        change = house.roles.update(house.tenant_id, by, "viewer", {"permissions": []})
        assert (await refusal(change)).reason == "permission_denied"
        gone = house.roles.delete(house.tenant_id, by, "viewer")
        assert (await refusal(gone)).reason == "permission_denied"


async def test_one_does_not_add_to_a_role_that_one_has_by_whatever_way(house: House) -> None:
    owner = await house.user("owner")
    low = await house.roles.create(house.tenant_id, owner, "low", permissions=["run:read"])
    high = await house.roles.create(house.tenant_id, owner, "high", inherits=low.id)
    group = await house.groups.create(house.tenant_id, owner, "team")
    await house.assignments.give(house.tenant_id, owner, high.id, Target(None, group.id))
    admin = await house.user("admin", expires_at=now() + timedelta(minutes=1))
    await house.groups.add(house.tenant_id, owner, group.id, admin.user_id)
    wider = {"permissions": ["run:read", "run:cancel:any"]}
    for role_id in (low.id, high.id):
        change = house.roles.update(house.tenant_id, admin, role_id, wider)
        assert (await refusal(change)).reason == "permission_denied"
    await house.roles.update(house.tenant_id, owner, low.id, wider)
    assert "run:cancel:any" in (await house.now(admin.user_id)).permissions


async def test_a_role_above_ones_own_is_not_changed_or_deleted(house: House) -> None:
    owner, admin = await house.user("owner"), await house.user("admin")
    above = await house.roles.create(house.tenant_id, owner, "above", rank=45)
    change = house.roles.update(house.tenant_id, admin, above.id, {"rank": 1})
    assert (await refusal(change)).reason == "permission_denied"
    gone = house.roles.delete(house.tenant_id, admin, above.id)
    assert (await refusal(gone)).reason == "permission_denied"
    await house.roles.delete(house.tenant_id, owner, above.id)


async def test_a_role_of_another_tenant_is_as_one_that_is_not_there(
    house: House, neighbour: House
) -> None:
    owner, other = await house.user("owner"), await neighbour.user("owner")
    theirs = await neighbour.roles.create(neighbour.tenant_id, other, "theirs")
    missing = new_id("ro")
    for work in (
        lambda id: house.roles.get(house.tenant_id, id),
        lambda id: house.roles.update(house.tenant_id, owner, id, {"name": "mine"}),
        lambda id: house.roles.delete(house.tenant_id, owner, id),
        lambda id: house.assignments.give(house.tenant_id, owner, id, Target(owner.user_id)),
    ):
        faults = [await refusal(work(id)) for id in (theirs.id, missing)]
        assert [fault.reason for fault in faults] == ["not_found", "not_found"]
        assert faults[0].message == faults[1].message
    for id in (theirs.id, missing):
        create = house.roles.create(house.tenant_id, owner, "heir", inherits=id)
        assert (await refusal(create)).reason == "invalid_params"
    assert len(await house.roles.all(house.tenant_id)) == len(BUILT_IN)


async def test_a_role_in_use_is_deleted_only_with_another_in_its_place(house: House) -> None:
    owner = await house.user("owner")
    old = await house.roles.create(house.tenant_id, owner, "old", permissions=["run:read:any"])
    heir = await house.roles.create(house.tenant_id, owner, "heir", inherits=old.id)
    group = await house.groups.create(house.tenant_id, owner, "team")
    await house.assignments.give(house.tenant_id, owner, old.id, Target(None, group.id))
    soon = now() + timedelta(hours=1)
    holder, both = await house.user(old.id), await house.user(old.id, "member")
    await house.assignments.give(
        house.tenant_id, owner, "member", Target(both.user_id), expires_at=soon
    )
    async with house.database.write(EVERY_TENANT) as session:
        session.add(
            Invitation(
                code_hash="0" * 64, tenant_id=house.tenant_id, role_id=old.id, expires_at=soon
            )
        )
    fault = await refusal(house.roles.delete(house.tenant_id, owner, old.id))
    assert fault.reason == "conflict"
    for use in ("users", "groups", "invitations", "inherit"):
        assert use in fault.message
    circle = house.roles.delete(house.tenant_id, owner, old.id, heir.id)
    assert (await refusal(circle)).reason == "conflict"
    house.told.clear()
    await house.roles.delete(house.tenant_id, owner, old.id, "member")
    assert house.told == [("role", old.id)]
    assert await house.roles_of(holder) == ("member",)
    assert await house.roles_of(both) == ("member",)
    kept = await house.assignments.page(
        house.tenant_id, None, 10, of=Target(both.user_id), role_id="member"
    )
    assert [each.expires_at for each in kept] == [None], "the longer of the two is kept"
    assert (await house.roles.get(house.tenant_id, heir.id)).inherits == "member"
    of_group = await house.assignments.page(house.tenant_id, None, 10, of=Target(None, group.id))
    assert [each.role for each in of_group] == ["member"]
    async with house.database.read(house.tenant_id) as session:
        assert (await session.exec(select(Invitation.role_id))).all() == ["member"]
    gone = house.roles.get(house.tenant_id, old.id)
    assert (await refusal(gone)).reason == "not_found"


async def test_what_has_expired_keeps_nobody_from_deleting_a_role(house: House) -> None:
    owner = await house.user("owner")
    role = await house.roles.create(house.tenant_id, owner, "short")
    await house.user(role.id, expires_at=now())
    await house.roles.delete(house.tenant_id, owner, role.id)
    assert ("role.delete", role.id) in await house.trail()


async def test_who_may_no_more_when_it_is_done_is_refused_there(house: House) -> None:
    """What the dispatcher has let through is decided again in the transaction."""
    admin = await house.user("admin")
    owner = await house.user("owner")
    await house.assignments.give(house.tenant_id, owner, "viewer", Target(admin.user_id))
    await house.assignments.take(house.tenant_id, owner, "admin", Target(admin.user_id))
    assert "role:write" in admin.permissions, "as they were a moment ago"
    for work in (
        house.roles.create(house.tenant_id, admin, "late"),
        house.groups.create(house.tenant_id, admin, "late"),
        house.assignments.give(house.tenant_id, admin, "viewer", Target(owner.user_id)),
    ):
        assert (await refusal(work)).reason == "permission_denied"


async def test_a_tenant_has_so_many_roles_of_its_own_and_no_more(house: House) -> None:
    async with house.database.write(EVERY_TENANT) as session:
        session.add_all(
            Role(id=new_id("ro"), tenant_id=house.tenant_id, name=f"role-{n}", rank=1)
            for n in range(MOST)
        )
    fault = await refusal(house.roles.create(house.tenant_id, None, "more"))
    assert fault.reason == "conflict"
