"""Users, as administrators and the operator see them: rank, the last owner, and races."""

import asyncio
from typing import Any

import pytest
from sqlmodel import col, select

from hub.faults import Fault
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.departures import Departures
from hub.identity.accounts.users import Users
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.roles import compile_roles
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    AuditEntry,
    Conversation,
    Erasure,
    Grant,
    LoginSession,
    Membership,
    RefreshToken,
    Tenant,
    User,
)
from tests.identity.houses import share

PASSWORD = "correct horse battery"


class Told:
    """What was said to have changed."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.erasing = 0

    async def changed(self, kind: str, id: str) -> None:
        self.changes.append((kind, id))

    def erase(self) -> None:
        self.erasing += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def users(database: Database, told: Told) -> Users:
    return Users(database, told.changed)


@pytest.fixture
def departures(database: Database, told: Told) -> Departures:
    return Departures(database, told.changed, told.erase)


async def member(accounts: Accounts, role: str, tenant: str = "main", name: str = "") -> Actor:
    email = f"{name or role}@hub.example"
    user, place = await accounts.create_user(email, PASSWORD, tenant, role, name or role)
    return Actor(user.id, place.id, "s_1", (role,), compile_roles([role]))


async def reason(work: Any) -> str:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.reason


async def joins(database: Database, user_id: str, tenant_id: str, role: str = "member") -> None:
    async with database.write(EVERY_TENANT) as session:
        session.add(Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=user_id, role_id=role))


async def rows(database: Database, kind: Any, *where: Any) -> list[Any]:
    async with database.read(EVERY_TENANT) as session:
        return list((await session.exec(select(kind).where(*where))).all())


# --- seeing ---------------------------------------------------------------------------------------


async def test_an_administrator_sees_the_users_of_their_tenant_alone(
    accounts: Accounts, users: Users, database: Database
) -> None:
    ada = await member(accounts, "owner", name="ada")
    bob = await member(accounts, "viewer", name="bob")
    eve = await member(accounts, "owner", "other", "eve")
    await joins(database, bob.user_id, eve.tenant_id, "admin")
    await accounts.login("bob@hub.example", PASSWORD, eve.tenant_id)
    found = await users.page(ada.tenant_id, after=None, limit=10)
    assert [(user.email, user.roles) for user in found] == [
        ("ada@hub.example", ("owner",)),
        ("bob@hub.example", ("viewer",)),
    ]
    assert all(user.last_seen_at is None for user in found), "what they do elsewhere is not told"
    await accounts.login("bob@hub.example", PASSWORD, ada.tenant_id)
    assert (await users.get(ada.tenant_id, bob.user_id)).last_seen_at is not None
    assert await reason(users.get(ada.tenant_id, eve.user_id)) == "not_found"
    by_address = await users.page(ada.tenant_id, after=None, limit=10, email="BOB@hub.example")
    assert [user.id for user in by_address] == [bob.user_id]
    assert await users.page(ada.tenant_id, after=None, limit=10, email="eve@hub.example") == []


async def test_a_list_of_users_is_whole_page_after_page(accounts: Accounts, users: Users) -> None:
    made = [await member(accounts, "member", name=f"user{number}") for number in range(5)]
    tenant_id = made[0].tenant_id
    seen: list[str] = []
    while page := await users.page(tenant_id, after=seen[-1] if seen else None, limit=2):
        assert len(page) <= 2
        seen += [user.id for user in page]
    assert seen == sorted(actor.user_id for actor in made)


# --- disabling ------------------------------------------------------------------------------------


async def test_who_is_disabled_comes_in_nowhere_in_the_tenant_until_enabled(
    accounts: Accounts, users: Users, told: Told, database: Database
) -> None:
    ada, bob = await member(accounts, "admin", name="ada"), await member(accounts, "member")
    pair = await accounts.login("member@hub.example", PASSWORD)
    code = await accounts.login_link(bob.user_id, bob.tenant_id)
    disabled = await users.disable(ada.tenant_id, ada, bob.user_id)
    assert disabled.disabled_at is not None
    assert told.changes == [("user", bob.user_id)]
    for door in (
        accounts.login("member@hub.example", PASSWORD),
        accounts.refresh(pair.refresh_token),
        accounts.redeem(code),
    ):
        assert await reason(door) == "unauthenticated"
    again = await users.disable(ada.tenant_id, ada, bob.user_id)
    assert again.disabled_at == disabled.disabled_at
    assert (await users.enable(ada.tenant_id, ada, bob.user_id)).disabled_at is None
    await accounts.refresh(pair.refresh_token)
    actions = [entry.action for entry in await rows(database, AuditEntry)]
    assert [action for action in actions if action.startswith("user.") and "able" in action] == [
        "user.disable",
        "user.enable",
    ]


async def test_who_is_disabled_in_a_tenant_goes_on_in_another_where_nobody_learns_of_it(
    accounts: Accounts, users: Users, database: Database
) -> None:
    ada = await member(accounts, "owner", name="ada")
    eve = await member(accounts, "owner", "other", "eve")
    bob = await member(accounts, "member")
    await joins(database, bob.user_id, eve.tenant_id)
    await users.disable(ada.tenant_id, ada, bob.user_id)
    pair = await accounts.login("member@hub.example", PASSWORD)  # where they may
    assert await reason(accounts.login("member@hub.example", PASSWORD, ada.tenant_id)) == (
        "unauthenticated"
    )
    assert pair is not None
    assert (await users.get(eve.tenant_id, bob.user_id)).disabled_at is None


@pytest.mark.parametrize("deed", ["disable", "enable", "remove"])
async def test_nobody_does_it_to_themselves_to_a_senior_or_to_who_is_not_there(
    accounts: Accounts, users: Users, departures: Departures, deed: str, database: Database
) -> None:
    owner = await member(accounts, "owner")
    admin = await member(accounts, "admin")
    eve = await member(accounts, "owner", "other", "eve")
    do = departures.remove if deed == "remove" else getattr(users, deed)
    assert await reason(do(admin.tenant_id, admin, admin.user_id)) == "conflict"
    assert await reason(do(admin.tenant_id, admin, owner.user_id)) == "permission_denied"
    assert await reason(do(admin.tenant_id, admin, eve.user_id)) == "not_found"
    assert await reason(do(admin.tenant_id, admin, new_id("u"))) == "not_found"
    assert len(await rows(database, Membership)) == 3


@pytest.mark.parametrize("deed", ["disable", "remove", "leave"])
async def test_of_two_owners_who_end_each_other_at_once_one_is_left(
    accounts: Accounts, users: Users, departures: Departures, deed: str
) -> None:
    one, two = [await member(accounts, "owner", name=name) for name in ("one", "two")]
    await member(accounts, "member")

    def end(actor: Actor, target: Actor) -> Any:
        if deed == "leave":
            return departures.leave(target.user_id)
        do = users.disable if deed == "disable" else departures.remove
        return do(actor.tenant_id, actor, target.user_id)

    outcomes = await asyncio.gather(end(one, two), end(two, one), return_exceptions=True)
    faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    # Who was removed first is no member any more, and may do nothing.
    assert [fault.reason for fault in faults] in (["conflict"], ["permission_denied"]), outcomes
    left = await users.page(one.tenant_id, after=None, limit=9)
    owners = [u for u in left if "owner" in u.roles and u.disabled_at is None]
    assert len(owners) == 1


# --- deleting -------------------------------------------------------------------------------------


async def test_a_deleted_account_leaves_an_id_and_nothing_of_the_person(
    accounts: Accounts, departures: Departures, told: Told, database: Database
) -> None:
    user, tenant = await accounts.register("ada@hub.example", PASSWORD, "Ada Lovelace")
    pair = await accounts.login("ada@hub.example", PASSWORD, device="phone", address="192.0.2.1")
    async with database.write(tenant.id) as session:
        session.add(Conversation(id=new_id("c"), tenant_id=tenant.id, owner_id=user.id))
    await departures.leave(user.id)
    assert told.changes == [("user", user.id)]
    assert told.erasing == 1
    assert [note.user_id for note in await rows(database, Erasure)] == [user.id]
    assert await rows(database, LoginSession) == await rows(database, RefreshToken) == []
    assert await rows(database, Membership) == []
    (left,) = await rows(database, User)
    (place,) = await rows(database, Tenant)
    assert left.id == user.id
    for held in (repr(left), repr(place)):
        assert "ada@" not in held
        assert "Lovelace" not in held
    assert place.suspended_at is not None
    assert await reason(accounts.refresh(pair.refresh_token)) == "unauthenticated"
    assert await reason(accounts.login("ada@hub.example", PASSWORD)) == "unauthenticated"
    assert await reason(departures.leave(user.id)) == "not_found"
    entries = await rows(database, AuditEntry, col(AuditEntry.action) == "account.delete")
    assert [entry.resource_id for entry in entries] == [user.id]
    # The address is free again, for somebody else.
    again, _ = await accounts.register("ada@hub.example", PASSWORD)
    assert again.id != user.id


async def test_the_last_owner_leaves_when_another_is_there(
    accounts: Accounts, departures: Departures
) -> None:
    owner, bob = await member(accounts, "owner"), await member(accounts, "member")
    assert await reason(departures.leave(owner.user_id)) == "conflict"
    await member(accounts, "owner", name="second")
    await departures.leave(owner.user_id)
    await departures.leave(bob.user_id)


async def test_who_is_deleted_from_a_tenant_stays_in_another_with_what_is_theirs_there(
    accounts: Accounts, departures: Departures, users: Users, database: Database
) -> None:
    ada = await member(accounts, "owner", name="ada")
    eve = await member(accounts, "owner", "other", "eve")
    bob = await member(accounts, "member")
    await joins(database, bob.user_id, eve.tenant_id)
    here = await accounts.login("member@hub.example", PASSWORD, ada.tenant_id)
    there = await accounts.login("member@hub.example", PASSWORD, eve.tenant_id)
    await departures.remove(ada.tenant_id, ada, bob.user_id)
    assert await reason(users.get(ada.tenant_id, bob.user_id)) == "not_found"
    assert (await users.get(eve.tenant_id, bob.user_id)).email == "member@hub.example"
    assert await reason(accounts.refresh(here.refresh_token)) == "unauthenticated"
    await accounts.refresh(there.refresh_token)
    (note,) = await rows(database, Erasure)
    assert (note.user_id, note.tenant_id) == (bob.user_id, ada.tenant_id)
    await departures.remove(eve.tenant_id, eve, bob.user_id)  # the last one: the account goes too
    assert (await rows(database, User, col(User.id) == bob.user_id))[0].deleted_at is not None


async def test_the_operator_disables_everywhere_and_deletes_a_last_owner_too(
    accounts: Accounts, users: Users, departures: Departures, database: Database
) -> None:
    owner, bob = await member(accounts, "owner"), await member(accounts, "member")
    await users.set_disabled(owner.user_id, True)
    assert await reason(accounts.login("owner@hub.example", PASSWORD)) == "unauthenticated"
    # An owner who cannot act is none.
    assert await reason(departures.leave(owner.user_id)) == "conflict"
    await users.set_disabled(owner.user_id, False)
    await accounts.login("owner@hub.example", PASSWORD)
    await departures.erase(owner.user_id)
    assert await reason(users.find("owner@hub.example")) == "not_found"
    (place,) = await rows(database, Tenant)
    assert place.suspended_at is None, "others are there"
    await departures.erase(bob.user_id)
    (place,) = await rows(database, Tenant)
    assert (place.name, place.suspended_at is None) == ("main", False)


@pytest.mark.parametrize("how", ["leave", "remove", "remove from one of two", "erase"])
async def test_what_rested_on_somebody_who_was_deleted_rests_on_nobody_else(
    accounts: Accounts, departures: Departures, database: Database, how: str
) -> None:
    """Their invitations are void, and what was shared with them is so no longer."""
    owner, ada = await member(accounts, "owner"), await member(accounts, "admin", name="ada")
    if how.endswith("two"):
        eve = await member(accounts, "owner", "other", "eve")
        await joins(database, ada.user_id, eve.tenant_id)
    code = await accounts.invite(owner.tenant_id, "admin", ada.user_id)
    operators = await accounts.invite(owner.tenant_id, "member")
    place = Conversation(id=new_id("c"), tenant_id=owner.tenant_id, owner_id=owner.user_id)
    async with database.write(owner.tenant_id) as session:
        session.add(place)
        await session.flush()
        session.add_all(share(place, user_id) for user_id in (ada.user_id, owner.user_id))
    if how == "leave":
        await departures.leave(ada.user_id)
    elif how == "erase":
        await departures.erase(ada.user_id)
    else:
        await departures.remove(owner.tenant_id, owner, ada.user_id)
    registers = accounts.register("new@hub.example", PASSWORD, invitation=code)
    assert await reason(registers) == "permission_denied"
    await accounts.register("new@hub.example", PASSWORD, invitation=operators)
    assert [row.subject_id for row in await rows(database, Grant)] == [owner.user_id]
