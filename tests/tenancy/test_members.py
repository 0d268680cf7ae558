"""Members come by invitation and go; nobody above one's own rank, and never the last owner."""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import col, select, update

from hub.faults import Fault
from hub.identity.access.assignments import Assignments, Target
from hub.identity.access.groups import Groups
from hub.identity.accounts.departures import Departures
from hub.identity.accounts.users import Users
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.roles import compile_roles
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    DisabledMember,
    Invitation,
    LoginSession,
    Membership,
    Role,
    Tenant,
    User,
    now,
)
from hub.storage.tenant_settings import TenantSettings
from hub.tenancy.members import Member, Members
from hub.tenancy.tenants import Tenants
from tests.tenancy.conftest import Joined, Told, founded, trail
from tests.tenancy.test_tenants import refused


async def belongs(database: Database, who: Actor) -> bool:
    async with database.read(who.tenant_id) as session:
        of = select(Membership.id).where(Membership.user_id == who.user_id)
        return (await session.exec(of)).first() is not None


async def test_members_are_listed_with_their_roles_page_by_page(
    members: Members, owner: Actor, joined: Joined
) -> None:
    users = {owner.user_id}
    for _ in range(4):
        users.add((await joined(owner.tenant_id)).user_id)
    await joined(owner.tenant_id, "viewer", owner.user_id)
    found: list[Member] = []
    while page := await members.listed(owner.tenant_id, found[-1].user_id if found else None, 2):
        found += page
    assert [member.user_id for member in found] == sorted(users)
    (first,) = [member for member in found if member.user_id == owner.user_id]
    assert first.roles == ("owner", "viewer")
    assert not first.disabled


async def test_a_member_is_removed_and_it_is_told(
    database: Database, members: Members, owner: Actor, joined: Joined, told: Told
) -> None:
    member = await joined(owner.tenant_id)
    await members.remove(owner.tenant_id, member.user_id, by=owner)
    assert not await belongs(database, member)
    assert told.changes == [("user", member.user_id)]
    (entry,) = await trail(database, owner.tenant_id)
    assert (entry.action, entry.resource_id) == ("member.remove", member.user_id)


async def test_a_stranger_of_another_tenant_and_one_who_is_not_are_the_same(
    members: Members, owner: Actor, operator: Actor
) -> None:
    for user_id in (operator.user_id, new_id("u")):
        assert await refused(members.remove(owner.tenant_id, user_id, by=owner)) == "not_found"


async def test_nobody_removes_who_ranks_above_them(
    members: Members, owner: Actor, joined: Joined
) -> None:
    admin = await joined(owner.tenant_id, "admin")
    removing = members.remove(owner.tenant_id, owner.user_id, by=admin)
    assert await refused(removing) == "permission_denied"


async def test_the_last_owner_stays(
    database: Database, members: Members, owner: Actor, joined: Joined
) -> None:
    removing = members.remove(owner.tenant_id, owner.user_id, by=owner)
    assert await refused(removing) == "conflict"
    second = await joined(owner.tenant_id, "owner")
    async with database.write(EVERY_TENANT) as session:
        of = col(User.id) == second.user_id
        await session.exec(update(User).where(of).values(disabled_at=now()))
    # One who can sign in nowhere is no owner to leave it to.
    removing = members.remove(owner.tenant_id, owner.user_id, by=owner)
    assert await refused(removing) == "conflict"


async def test_owners_who_remove_each_other_at_once_leave_one(
    database: Database, members: Members, owner: Actor, joined: Joined
) -> None:
    owners = [owner, *[await joined(owner.tenant_id, "owner") for _ in range(3)]]
    outcomes = await asyncio.gather(
        *(
            members.remove(owner.tenant_id, other.user_id, by=each)
            for each, other in zip(owners, owners[1:] + owners[:1], strict=True)
        ),
        return_exceptions=True,
    )
    assert all(o is None or isinstance(o, Fault) for o in outcomes)
    assert sum([await belongs(database, each) for each in owners]) >= 1


async def test_an_invitation_is_made_listed_and_accepted_once(
    database: Database, members: Members, owner: Actor, operator: Actor, told: Told
) -> None:
    made, code = await members.invite(owner.tenant_id, "Member", None, by=owner)
    assert [each.id for each in await members.invited(owner.tenant_id, None, 10)] == [made.id]
    assert await members.invited(operator.tenant_id, None, 10) == []
    joined = await members.join(operator.user_id, code)
    assert (joined.tenant.id, joined.roles) == (owner.tenant_id, ("member",))
    assert told.changes == [("user", operator.user_id)]
    assert await members.invited(owner.tenant_id, None, 10) == []
    assert await refused(members.join(owner.user_id, code)) == "permission_denied"
    mine = await members.of(operator.user_id, None, 10)
    assert {each.tenant.id: each.roles for each in mine} == {
        operator.tenant_id: ("owner",),
        owner.tenant_id: ("member",),
    }
    actions = [entry.action for entry in await trail(database, owner.tenant_id)]
    assert actions == ["invitation.create", "invitation.accept"]


async def test_an_invitation_is_bounded_by_rank_and_by_the_tenants_roles(
    database: Database, members: Members, owner: Actor, operator: Actor, joined: Joined
) -> None:
    admin = await joined(owner.tenant_id, "admin")
    tenant_id = owner.tenant_id
    assert await refused(members.invite(tenant_id, "owner", None, by=admin)) == "permission_denied"
    assert await refused(members.invite(tenant_id, "king", None, by=admin)) == "not_found"
    role = Role(id=new_id("ro"), tenant_id=operator.tenant_id, name="theirs", rank=1)
    async with database.write(EVERY_TENANT) as session:
        session.add(role)
    for foreign in (role.id, role.name):
        assert await refused(members.invite(tenant_id, foreign, None, by=admin)) == "not_found"


async def test_an_invitation_rests_on_the_rank_of_whoever_invites(
    database: Database, members: Members, owner: Actor, operator: Actor, joined: Joined
) -> None:
    admin = await joined(owner.tenant_id, "admin")
    _, code = await members.invite(owner.tenant_id, "admin", None, by=admin)
    async with database.write(EVERY_TENANT) as session:
        of = col(Membership.user_id) == admin.user_id
        await session.exec(update(Membership).where(of).values(role_id="member"))
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"


async def test_an_invitation_rests_on_what_a_group_gives_and_on_who_is_not_disabled(
    database: Database, members: Members, owner: Actor, operator: Actor, joined: Joined
) -> None:
    tenant_id = owner.tenant_id
    groups, assignments = Groups(database), Assignments(database)
    heads = await groups.create(tenant_id, owner, "heads")
    await assignments.give(tenant_id, owner, "admin", Target(None, heads.id))
    member = await joined(tenant_id, "member")
    await groups.add(tenant_id, owner, heads.id, member.user_id)
    risen = replace(member, permissions=compile_roles(["admin"]))
    _, code = await members.invite(tenant_id, "admin", None, by=risen)
    disabled = DisabledMember(tenant_id=tenant_id, user_id=member.user_id)
    async with database.write(tenant_id) as session:
        session.add(disabled)
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"
    async with database.write(tenant_id) as session:
        await session.delete(disabled)
    assert (await members.join(operator.user_id, code)).roles == ("admin",)


async def test_a_role_that_is_over_is_told_of_nobody(
    database: Database, members: Members, owner: Actor, joined: Joined
) -> None:
    member = await joined(owner.tenant_id, "member")
    await Assignments(database).give(owner.tenant_id, owner, "admin", Target(member.user_id))
    async with database.write(EVERY_TENANT) as session:
        of = (col(Membership.user_id) == member.user_id) & (col(Membership.role_id) == "admin")
        await session.exec(update(Membership).where(of).values(expires_at=now()))
    told = {each.user_id: each.roles for each in await members.listed(owner.tenant_id, None, 10)}
    assert told == {owner.user_id: ("owner",), member.user_id: ("member",)}
    assert [each.roles for each in await members.of(member.user_id, None, 10)] == [("member",)]
    profile = await Users(database, nobody_is_told).get(owner.tenant_id, member.user_id)
    assert profile.roles == ("member",)


async def nobody_is_told(kind: str, id: str) -> None:
    pass


async def test_the_invitations_of_a_removed_member_are_void(
    members: Members, owner: Actor, operator: Actor, joined: Joined
) -> None:
    admin = await joined(owner.tenant_id, "admin")
    _, code = await members.invite(owner.tenant_id, "member", None, by=admin)
    await members.remove(owner.tenant_id, admin.user_id, by=owner)
    assert await members.invited(owner.tenant_id, None, 10) == []
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"


async def test_an_invitation_for_one_address_lets_no_other_in(
    database: Database, members: Members, owner: Actor, operator: Actor
) -> None:
    _, code = await members.invite(owner.tenant_id, "member", "ada@hub.example", by=owner)
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"
    async with database.read(owner.tenant_id) as session:
        (kept,) = (await session.exec(select(Invitation))).all()
    assert kept.used_at is None


async def test_a_tenant_takes_addresses_of_its_domains_alone(
    members: Members, tenants: Tenants, owner: Actor, operator: Actor
) -> None:
    settings = TenantSettings(invitation_domains=["acme.example"])
    await tenants.update(owner.tenant_id, settings, by=owner)
    inviting = members.invite(owner.tenant_id, "member", "ada@hub.example", by=owner)
    assert await refused(inviting) == "conflict"
    _, code = await members.invite(owner.tenant_id, "member", None, by=owner)
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"


async def test_who_is_a_member_already_does_not_use_an_invitation_up(
    members: Members, owner: Actor, operator: Actor
) -> None:
    _, code = await members.invite(owner.tenant_id, "admin", None, by=owner)
    assert await refused(members.join(owner.user_id, code)) == "conflict"
    assert (await members.join(operator.user_id, code)).roles == ("admin",)


async def test_an_invitation_is_revoked_by_its_own_tenant_alone(
    members: Members, owner: Actor, operator: Actor
) -> None:
    made, code = await members.invite(owner.tenant_id, "member", None, by=owner)
    for wrong in (made.id, new_id("iv")):
        revoking = members.revoke_invitation(operator.tenant_id, wrong)
        assert await refused(revoking) == "not_found"
    await members.revoke_invitation(owner.tenant_id, made.id)
    assert await refused(members.revoke_invitation(owner.tenant_id, made.id)) == "not_found"
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"


@pytest.mark.parametrize("closed", ["suspended", "deleted"])
async def test_a_closed_tenant_lets_nobody_in(
    members: Members, tenants: Tenants, owner: Actor, operator: Actor, closed: str
) -> None:
    _, code = await members.invite(owner.tenant_id, "member", None, by=owner)
    if closed == "suspended":
        await tenants.suspend(owner.tenant_id, by=operator)
    else:
        await tenants.delete(owner.tenant_id, "acme", by=owner)
    assert await refused(members.join(operator.user_id, code)) == "permission_denied"
    assert [each.tenant.id for each in await members.of(owner.user_id, None, 10)] == []


async def test_one_code_lets_one_of_many_in(
    database: Database, members: Members, owner: Actor, joined: Joined
) -> None:
    other = await founded(database, "other")
    guests = [await joined(other) for _ in range(8)]
    _, code = await members.invite(owner.tenant_id, "member", None, by=owner)
    outcomes = await asyncio.gather(
        *(members.join(guest.user_id, code) for guest in guests), return_exceptions=True
    )
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1


async def test_the_sessions_of_a_membership_that_ended_do_not_come_back_with_the_next(
    database: Database, members: Members, owner: Actor, joined: Joined
) -> None:
    member = await joined(owner.tenant_id)
    session_id = new_id("s")
    async with database.write(EVERY_TENANT) as session:
        session.add(
            LoginSession(
                id=session_id,
                tenant_id=owner.tenant_id,
                user_id=member.user_id,
                expires_at=now() + timedelta(days=1),
            )
        )
    await members.remove(owner.tenant_id, member.user_id, by=owner)
    _, code = await members.invite(owner.tenant_id, "member", None, by=owner)
    await members.join(member.user_id, code)
    async with database.read(EVERY_TENANT) as session:
        login = await session.get(LoginSession, session_id)
        assert await session.get(Tenant, owner.tenant_id) is not None
    assert login is not None
    assert login.revoked_at is not None


@pytest.mark.parametrize("how", ["removed", "deleted", "expired"])
async def test_what_a_member_was_called_ends_with_the_membership(
    *,
    database: Database,
    members: Members,
    owner: Actor,
    operator: Actor,
    joined: Joined,
    how: str,
) -> None:
    users, tenant_id = Users(database, nobody_is_told), owner.tenant_id
    bob = await joined(tenant_id)
    await joined(operator.tenant_id, user_id=bob.user_id)  # so that the account stays
    await users.set_name(bob.user_id, "Bob", "account.update")
    await users.rename(tenant_id, owner, bob.user_id, "Bobby")
    await users.rename(operator.tenant_id, operator, bob.user_id, "Robert")

    async def called(tenant_id: str) -> str | None:
        listed = await members.listed(tenant_id, None, 10)
        (name,) = [each.name for each in listed if each.user_id == bob.user_id]
        assert name == (await users.get(tenant_id, bob.user_id)).name
        return name

    assert (await called(tenant_id), await called(operator.tenant_id)) == ("Bobby", "Robert")
    if how == "expired":
        async with database.write(tenant_id) as session:
            of = col(Membership.user_id) == bob.user_id
            await session.exec(update(Membership).where(of).values(expires_at=now()))
        await Assignments(database).give(tenant_id, owner, "viewer", Target(bob.user_id))
    else:
        if how == "removed":
            await members.remove(tenant_id, bob.user_id, by=owner)
        else:
            await Departures(database, nobody_is_told, lambda: None).remove(
                tenant_id, owner, bob.user_id
            )
        await joined(tenant_id, user_id=bob.user_id)
    assert (await called(tenant_id), await called(operator.tenant_id)) == ("Bob", "Robert")


async def test_of_names_that_are_given_at_once_one_is_kept(
    database: Database, owner: Actor, joined: Joined
) -> None:
    users, bob = Users(database, nobody_is_told), await joined(owner.tenant_id)
    names = ["Bobby", None, "Robert", "Rob"]
    given = await asyncio.gather(
        *(users.rename(owner.tenant_id, owner, bob.user_id, name) for name in names)
    )
    assert [each.name for each in given] == names
    assert (await users.get(owner.tenant_id, bob.user_id)).name in names
    renames = [each for each in await trail(database, owner.tenant_id) if "user" in each.action]
    assert [each.action for each in renames] == ["user.update"] * len(names)


async def test_whatever_names_are_given_each_tenant_shows_its_own_or_else_the_accounts(
    database: Database, members: Members, owner: Actor, operator: Actor, joined: Joined
) -> None:
    users, dice = Users(database, nobody_is_told), random.Random(13)
    bob, ann = await joined(owner.tenant_id), await joined(owner.tenant_id)
    await joined(operator.tenant_id, user_id=bob.user_id)
    account: str | None = None
    given: dict[str, str | None] = {owner.tenant_id: None, operator.tenant_id: None}
    for _ in range(20):
        name = dice.choice([None, "Bob", "Bobby", "Robert"])
        by = dice.choice([None, owner, operator])
        if by is None:
            account = name
            await users.set_name(bob.user_id, name, "account.update")
        else:
            given[by.tenant_id] = name
            await users.rename(by.tenant_id, by, bob.user_id, name)
        for tenant_id, here in given.items():
            named = {each.user_id: each.name for each in await members.listed(tenant_id, None, 9)}
            assert named[bob.user_id] == (here or account)
        assert named.get(ann.user_id) is None
        assert (await users.account(bob.user_id)).name == account
