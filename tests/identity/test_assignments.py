"""Who gives which role to whom, for how long; and the owner that a tenant keeps, races included."""

import asyncio
import sys
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select, update

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.access.assignments import Target
from hub.identity.access.authority import Authority
from hub.identity.access.owners import lock
from hub.identity.access.standing import UNLIMITED_S, Member, look_up
from hub.identity.access.watches import Watches
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import DisabledMember, LoginSession, Membership, User, now
from tests.identity.houses import House, waiting
from tests.identity.test_roles import refusal
from tests.identity.test_watches import Told


async def test_a_role_is_given_for_good_and_taken(house: House) -> None:
    owner, bob = await house.user("owner"), await house.user("viewer")
    given = await house.assignments.give(house.tenant_id, owner, "operator", Target(bob.user_id))
    assert (given.role, given.user_id, given.expires_at) == ("operator", bob.user_id, None)
    assert await house.roles_of(bob) == ("operator", "viewer")
    await house.assignments.take(house.tenant_id, owner, "operator", Target(bob.user_id))
    assert await house.roles_of(bob) == ("viewer",)
    assert house.told == [("user", bob.user_id)] * 2
    assert await house.trail() == [("role.assign", bob.user_id), ("role.revoke", bob.user_id)]
    again = house.assignments.take(house.tenant_id, owner, "operator", Target(bob.user_id))
    assert (await refusal(again)).reason == "not_found"


async def test_a_group_has_a_role_and_so_have_all_who_are_in_it(house: House) -> None:
    owner = await house.user("owner")
    group = await house.groups.create(house.tenant_id, owner, "team")
    ada, bob = await house.user("viewer"), await house.user("viewer")
    await house.groups.add(house.tenant_id, owner, group.id, ada.user_id)
    await house.assignments.give(house.tenant_id, owner, "operator", Target(None, group.id))
    await house.groups.add(house.tenant_id, owner, group.id, bob.user_id)
    for each in (ada, bob):
        assert await house.roles_of(each) == ("operator", "viewer")
    await house.groups.remove(house.tenant_id, owner, group.id, ada.user_id)
    assert await house.roles_of(ada) == ("viewer",)
    await house.assignments.take(house.tenant_id, owner, "operator", Target(None, group.id))
    assert await house.roles_of(bob) == ("viewer",)
    assert house.told == [
        ("user", ada.user_id),
        ("group", group.id),
        ("user", bob.user_id),
        ("user", ada.user_id),
        ("group", group.id),
    ]


async def test_a_group_of_another_tenant_and_one_without_a_membership_give_nothing(
    house: House, neighbour: House
) -> None:
    owner, other = await house.user("owner"), await neighbour.user("owner")
    bob = await house.user("viewer")
    group = await house.groups.create(house.tenant_id, owner, "team")
    await house.assignments.give(house.tenant_id, owner, "operator", Target(None, group.id))
    await house.groups.add(house.tenant_id, owner, group.id, bob.user_id)
    async with house.database.write(EVERY_TENANT) as session:
        session.add(
            Membership(
                id=new_id("ms"),
                tenant_id=neighbour.tenant_id,
                user_id=bob.user_id,
                role_id="viewer",
            )
        )
    assert (await neighbour.now(bob.user_id)).roles == ("viewer",)
    async with house.database.write(EVERY_TENANT) as session:
        mine = (col(Membership.user_id) == bob.user_id) & (
            col(Membership.tenant_id) == house.tenant_id
        )
        await session.exec(update(Membership).where(mine).values(expires_at=now()))
    assert await house.roles_of(bob) == ()
    assert (await house.now(bob.user_id)).permissions == frozenset()
    assert other.permissions


async def test_a_role_that_expires_gives_nothing_from_that_instant_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, bob = await house.user("owner"), await house.user("viewer")
    group = await house.groups.create(house.tenant_id, owner, "team")
    await house.groups.add(house.tenant_id, owner, group.id, bob.user_id)
    soon = now() + timedelta(minutes=1)
    later = now() + timedelta(hours=1)
    await house.assignments.give(
        house.tenant_id, owner, "operator", Target(None, group.id), expires_at=soon
    )
    await house.assignments.give(
        house.tenant_id, owner, "admin", Target(bob.user_id), expires_at=later
    )
    key = Member(bob.user_id, house.tenant_id)
    standing = (await look_up(house.database, [key]))[key]
    assert standing.actor.roles == ("admin", "operator", "viewer")
    assert 30 < standing.remaining_s <= 60
    for module in (look_up.__module__, Target.__module__):  # a minute passes
        monkeypatch.setattr(sys.modules[module], "now", lambda: soon)
    standing = (await look_up(house.database, [key]))[key]
    assert standing.actor.roles == ("admin", "viewer")
    assert standing.remaining_s == pytest.approx(3_540, abs=1)
    await house.assignments.give(house.tenant_id, owner, "admin", Target(bob.user_id))
    standing = (await look_up(house.database, [key]))[key]
    assert standing.remaining_s == UNLIMITED_S
    gone = house.assignments.take(house.tenant_id, owner, "operator", Target(None, group.id))
    assert (await refusal(gone)).reason == "not_found"
    past = house.assignments.give(
        house.tenant_id, owner, "operator", Target(bob.user_id), expires_at=soon
    )
    assert (await refusal(past)).reason == "invalid_params"


async def test_who_comes_back_begins_anew(house: House) -> None:
    owner, bob = await house.user("owner"), await house.user("viewer")
    admin = await house.user("admin")
    heads = await house.groups.create(house.tenant_id, owner, "heads")
    await house.assignments.give(house.tenant_id, owner, "owner", Target(None, heads.id))
    await house.groups.add(house.tenant_id, owner, heads.id, bob.user_id)
    later = now() + timedelta(hours=1)
    login = LoginSession(
        id=new_id("s"), tenant_id=house.tenant_id, user_id=bob.user_id, expires_at=later
    )
    async with house.database.write(EVERY_TENANT) as session:
        session.add(login)
    to = Target(bob.user_id)
    await house.assignments.give(house.tenant_id, owner, "operator", to, expires_at=later)
    assert (await look_up(house.database, [login.id]))[login.id].actor.user_id == bob.user_id
    async with house.database.write(EVERY_TENANT) as session:
        theirs = col(Membership.user_id) == bob.user_id
        await session.exec(update(Membership).where(theirs).values(expires_at=now()))
    assert await look_up(house.database, [login.id]) == {}
    # By an administrator, who could not put them into a group of owners.
    await house.assignments.give(house.tenant_id, admin, "viewer", to)
    assert await house.roles_of(bob) == ("viewer",)
    assert await look_up(house.database, [login.id]) == {}


async def test_who_follows_a_standing_is_told_when_a_role_expires(house: House) -> None:
    """Though nobody says a word, and long before the next look of the sweep would come."""
    owner, bob = await house.user("owner"), await house.user("viewer")
    soon = now() + timedelta(seconds=0.7)
    await house.assignments.give(
        house.tenant_id, owner, "operator", Target(bob.user_id), expires_at=soon
    )
    backplane = MemoryBackplane()
    await backplane.start()
    authority = Authority(house.database, backplane)
    await authority.start()
    watches = Watches(authority)
    told = Told()
    key = Member(bob.user_id, house.tenant_id)
    watches.add(key, told, await authority.member(*key))
    found = await told.next()
    late_s = (now() - soon).total_seconds()
    assert isinstance(found, Actor)
    assert found.roles == ("viewer",)
    assert 0 <= late_s < 0.5
    assert (await authority.member(*key)).roles == ("viewer",)
    await watches.close()
    await backplane.close()


@pytest.mark.parametrize("giver", ["admin", "operator"])
async def test_nobody_gives_what_is_above_them_or_touches_who_is(house: House, giver: str) -> None:
    lower = await house.user(giver)
    owner, bob = await house.user("owner"), await house.user("viewer")
    for role_id, target in (
        ("owner", Target(bob.user_id)),
        ("viewer", Target(owner.user_id)),
    ):
        giving = house.assignments.give(house.tenant_id, lower, role_id, target)
        assert (await refusal(giving)).reason == "permission_denied"
    taking = house.assignments.take(house.tenant_id, lower, "owner", Target(owner.user_id))
    assert (await refusal(taking)).reason == "permission_denied"
    assert await house.trail() == []


async def test_a_role_of_low_rank_that_may_more_is_not_theirs_to_give(house: House) -> None:
    owner, admin, bob = [await house.user(role) for role in ("owner", "admin", "viewer")]
    role = await house.roles.create(
        house.tenant_id, owner, "speaker", permissions=["message:send:any"]
    )
    fault = await refusal(
        house.assignments.give(house.tenant_id, admin, role.id, Target(bob.user_id))
    )
    assert fault.reason == "permission_denied"
    assert "message:send:any" in fault.message


async def test_nobody_gives_to_themselves_by_whatever_way(house: House) -> None:
    owner, admin = await house.user("owner"), await house.user("admin")
    group = await house.groups.create(house.tenant_id, owner, "team")
    for work in (
        house.assignments.give(house.tenant_id, admin, "viewer", Target(admin.user_id)),
        house.groups.add(house.tenant_id, admin, group.id, admin.user_id),
    ):
        assert (await refusal(work)).reason == "permission_denied"
    await house.groups.add(house.tenant_id, owner, group.id, admin.user_id)
    work = house.assignments.give(house.tenant_id, admin, "viewer", Target(None, group.id))
    assert (await refusal(work)).reason == "permission_denied"
    await house.assignments.give(house.tenant_id, owner, "viewer", Target(None, group.id))


async def test_nobody_is_put_into_a_group_whose_roles_are_not_ones_own_to_give(
    house: House,
) -> None:
    owner, admin, bob = [await house.user(role) for role in ("owner", "admin", "viewer")]
    group = await house.groups.create(house.tenant_id, owner, "heads")
    await house.assignments.give(house.tenant_id, owner, "owner", Target(None, group.id))
    for work in (
        house.groups.add(house.tenant_id, admin, group.id, bob.user_id),
        house.groups.delete(house.tenant_id, admin, group.id),
        house.groups.update(house.tenant_id, admin, group.id, {"name": "tails"}),
        house.assignments.take(house.tenant_id, admin, "owner", Target(None, group.id)),
    ):
        assert (await refusal(work)).reason == "permission_denied"
    await house.groups.add(house.tenant_id, owner, group.id, bob.user_id)
    work = house.groups.remove(house.tenant_id, admin, group.id, bob.user_id)
    assert (await refusal(work)).reason == "permission_denied", "by the group they rank above"
    await house.groups.delete(house.tenant_id, owner, group.id)
    assert await house.roles_of(bob) == ("viewer",)


async def test_users_and_groups_of_another_tenant_are_as_those_that_are_not_there(
    house: House, neighbour: House
) -> None:
    owner, other = await house.user("owner"), await neighbour.user("owner")
    their_group = await neighbour.groups.create(neighbour.tenant_id, other, "theirs")
    group = await house.groups.create(house.tenant_id, owner, "ours")
    for target, missing in (
        (Target(other.user_id), Target(new_id("u"))),
        (Target(None, their_group.id), Target(None, new_id("g"))),
    ):
        for work in (house.assignments.give, house.assignments.take):
            faults = [await refusal(work(house.tenant_id, owner, "viewer", each))
                      for each in (target, missing)]  # fmt: skip
            assert [fault.reason for fault in faults] == ["not_found", "not_found"]
            assert faults[0].message == faults[1].message
    for id in (other.user_id, new_id("u")):
        adding = house.groups.add(house.tenant_id, owner, group.id, id)
        assert (await refusal(adding)).message == "There is no such user here."
        explaining = house.assignments.explain(house.tenant_id, id, "run:read")
        assert (await refusal(explaining)).message == "There is no such user here."
    assert await neighbour.roles_of(other) == ("owner",)


async def test_the_last_owner_stays_whoever_would_have_it_otherwise(house: House) -> None:
    ada = await house.user("owner", "member")
    bob = await house.user("owner", "member", expires_at=now() + timedelta(hours=1))
    disabled = await house.user("owner")
    async with house.database.write(EVERY_TENANT) as session:
        of = col(User.id) == disabled.user_id
        await session.exec(update(User).where(of).values(disabled_at=now()))
    group = await house.groups.create(house.tenant_id, ada, "heads")
    await house.groups.add(house.tenant_id, ada, group.id, bob.user_id)
    await house.assignments.give(house.tenant_id, ada, "owner", Target(None, group.id))
    soon = now() + timedelta(hours=1)
    for by in (ada, bob, None):
        work = house.assignments.take(house.tenant_id, by, "owner", Target(ada.user_id))
        assert (await refusal(work)).reason == "conflict"
    for by in (bob, None):
        shorten = house.assignments.give(house.tenant_id, by, "owner", Target(ada.user_id), soon)
        assert (await refusal(shorten)).reason == "conflict"
    await house.assignments.give(house.tenant_id, ada, "owner", Target(bob.user_id))
    await house.assignments.take(house.tenant_id, ada, "owner", Target(ada.user_id))
    assert await house.roles_of(ada) == ("member",)


async def test_the_last_role_of_a_user_is_not_taken(house: House) -> None:
    owner, bob = await house.user("owner"), await house.user("viewer")
    work = house.assignments.take(house.tenant_id, owner, "viewer", Target(bob.user_id))
    assert (await refusal(work)).reason == "conflict"
    assert await house.roles_of(bob) == ("viewer",)


async def _at_once(house: House, *works: Awaitable[Any]) -> list[str]:
    """What becomes of works that begin while another transaction holds the tenant: on PostgreSQL
    all of them have begun, and wait for it, before the first goes on.
    """
    tasks = []
    held = True
    async with house.database.write(EVERY_TENANT) as session:
        await lock(session, house.tenant_id)
        tasks = [asyncio.ensure_future(work) for work in works]
        deadline = time.monotonic() + 5
        while held and not house.database.embedded and await waiting(house.database) < len(works):
            await asyncio.sleep(0.005)
            held = time.monotonic() < deadline
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert held, "they did not wait for one another"
    assert all(isinstance(each, Fault) for each in outcomes if isinstance(each, BaseException))
    return sorted(each.reason if isinstance(each, Fault) else "done" for each in outcomes)


async def _owners(house: House) -> int:
    async with house.database.read(EVERY_TENANT) as session:
        found = await session.exec(
            select(Membership).where(
                Membership.tenant_id == house.tenant_id, Membership.role_id == "owner"
            )
        )
        return len(found.all())


async def test_two_owners_who_demote_each_other_at_once_leave_one(house: House) -> None:
    ada, bob = await house.user("owner", "member"), await house.user("owner", "member")
    outcomes = await _at_once(
        house,
        house.assignments.take(house.tenant_id, ada, "owner", Target(bob.user_id)),
        house.assignments.take(house.tenant_id, bob, "owner", Target(ada.user_id)),
    )
    assert outcomes == ["done", "permission_denied"]
    assert await _owners(house) == 1


async def test_two_owners_who_step_down_at_once_leave_one(house: House) -> None:
    ada, bob = await house.user("owner", "member"), await house.user("owner", "member")
    outcomes = await _at_once(
        house,
        *(
            house.assignments.take(house.tenant_id, each, "owner", Target(each.user_id))
            for each in (ada, bob)
        ),
    )
    assert outcomes == ["conflict", "done"]
    assert await _owners(house) == 1


async def test_of_owners_who_demote_one_another_one_stays(house: House) -> None:
    owners = [await house.user("owner", "member") for _ in range(4)]
    outcomes = await _at_once(
        house,
        *(
            house.assignments.take(house.tenant_id, by, "owner", Target(of.user_id))
            for by in owners
            for of in owners
        ),
    )
    assert outcomes.count("done") == 3
    assert await _owners(house) == 1


async def test_who_is_demoted_meanwhile_gives_nothing(house: House) -> None:
    ada, bob, eve = [await house.user("owner"), *[await house.user("admin") for _ in range(2)]]
    await house.assignments.give(house.tenant_id, ada, "viewer", Target(bob.user_id))
    outcomes = await _at_once(
        house,
        house.assignments.take(house.tenant_id, ada, "admin", Target(bob.user_id)),
        house.assignments.give(house.tenant_id, bob, "member", Target(eve.user_id)),
    )
    # Whichever came first: nobody has given anything who was no administrator then.
    roles = await house.roles_of(eve)
    assert outcomes == (["done", "done"] if "member" in roles else ["done", "permission_denied"])


async def test_reasons_tell_every_way_and_what_keeps_somebody_out(house: House) -> None:
    owner, bob = await house.user("owner"), await house.user("member")
    group = await house.groups.create(house.tenant_id, owner, "team")
    await house.groups.add(house.tenant_id, owner, group.id, bob.user_id)
    soon = now() + timedelta(hours=1)
    await house.assignments.give(house.tenant_id, owner, "operator", Target(None, group.id), soon)
    found = await house.assignments.explain(house.tenant_id, bob.user_id, "run:cancel")
    assert found.trouble is None
    assert found.role_ids == {"member", "operator"}
    assert found.groups == {group.id: "team"}
    assert [(way.lineage, way.holding.group_id, way.holding.expires_at) for way in found.ways] == [
        (("member",), None, None),
        (("operator",), group.id, soon),
        (("operator", "member"), group.id, soon),
    ]
    async with house.database.write(EVERY_TENANT) as session:
        of = col(User.id) == bob.user_id
        await session.exec(update(User).where(of).values(disabled_at=now()))
    found = await house.assignments.explain(house.tenant_id, bob.user_id, "run:cancel")
    assert found.trouble == "the user is disabled"
    eve = await house.user("member")
    async with house.database.write(EVERY_TENANT) as session:
        session.add(DisabledMember(tenant_id=house.tenant_id, user_id=eve.user_id))
    found = await house.assignments.explain(house.tenant_id, eve.user_id, "run:cancel")
    assert found.trouble == "the user is disabled"
    late = await house.user("member", expires_at=now())
    found = await house.assignments.explain(house.tenant_id, late.user_id, "run:cancel")
    assert found.trouble is not None
    assert found.ways == []


async def test_assignments_are_paged_groups_first(house: House) -> None:
    owner = await house.user("owner")
    groups = [await house.groups.create(house.tenant_id, owner, f"g{n}") for n in range(3)]
    for group in groups:
        await house.assignments.give(house.tenant_id, owner, "viewer", Target(None, group.id))
    users = [await house.user("viewer") for _ in range(2)]
    await house.user("viewer", expires_at=now())
    seen: list[str] = []
    after = None
    while page := await house.assignments.page(house.tenant_id, after, 2, role_id="viewer"):
        seen += [str(each.group_id or each.user_id) for each in page]
        after = page[-1].id
    assert seen[:3] == [group.id for group in groups]
    assert sorted(seen[3:]) == sorted(user.user_id for user in users)
    of_one = await house.assignments.page(house.tenant_id, None, 9, of=Target(users[0].user_id))
    assert [each.role_id for each in of_one] == ["viewer"]
