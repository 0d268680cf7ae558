"""Shares end with the membership of the one they were for, or with the group."""

import json

import pytest
from sqlmodel import select

from hub.identity.access.shares import forget_shares
from hub.identity.access.standing import Member, look_up
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Conversation, Grant, Tenant, User
from tests.identity.houses import House, share
from tests.identity.test_roles import refusal


async def _shared(database: Database, users: list[str]) -> list[str]:
    """Two tenants, each with a conversation that is shared with all of these users."""
    tenants = [new_id("t") for _ in range(2)]
    async with database.write(EVERY_TENANT) as session:
        session.add_all(User(id=user, email=f"{user}@hub.example".lower()) for user in users)
        session.add_all(Tenant(id=tenant, name=tenant) for tenant in tenants)
        await session.flush()
        places = [
            Conversation(id=new_id("c"), tenant_id=tenant, owner_id=users[0]) for tenant in tenants
        ]
        session.add_all(places)
        await session.flush()
        session.add_all(share(place, user) for place in places for user in users)
    return tenants


@pytest.mark.parametrize("everywhere", [True, False])
async def test_what_was_shared_with_somebody_is_forgotten_and_with_nobody_else(
    database: Database, everywhere: bool
) -> None:
    leaver, stayer = users = [new_id("u") for _ in range(2)]
    here, there = await _shared(database, users)
    async with database.write(EVERY_TENANT) as session:
        await forget_shares(session, leaver, None if everywhere else here)
    async with database.read(EVERY_TENANT) as session:
        left = {
            (row.tenant_id, row.subject_id) for row in (await session.exec(select(Grant))).all()
        }
    kept = {(here, stayer), (there, stayer)}
    assert left == (kept if everywhere else kept | {(there, leaver)})


async def _shared_with_groups(house: House, owner_id: str, *group_ids: str) -> str:
    """A conversation of the house that is shared with all of these groups: its id."""
    async with house.database.write(EVERY_TENANT) as session:
        place = Conversation(id=new_id("c"), tenant_id=house.tenant_id, owner_id=owner_id)
        session.add(place)
        await session.flush()
        session.add_all(share(place, group_id, "group") for group_id in group_ids)
        return place.id


async def test_with_a_group_its_shares_go_and_the_trail_names_them(house: House) -> None:
    owner = await house.user("owner")
    going, staying = [
        await house.groups.create(house.tenant_id, owner, name) for name in ("going", "staying")
    ]
    places = [await _shared_with_groups(house, owner.user_id, going.id, staying.id)]
    places.append(await _shared_with_groups(house, owner.user_id, going.id))
    await house.groups.delete(house.tenant_id, owner, going.id)
    async with house.database.read(EVERY_TENANT) as session:
        left = (await session.exec(select(Grant))).all()
        told = select(AuditEntry).where(AuditEntry.action == "group.delete")
        (entry,) = (await session.exec(told)).all()
    assert [(row.subject_id, row.resource_id) for row in left] == [(staying.id, places[0])]
    details = json.loads(entry.details)
    assert (details["shares"], details["conversations"]) == (2, sorted(places))
    assert house.told == [("group", going.id)]


async def test_the_shares_of_a_group_that_may_not_be_deleted_stay(house: House) -> None:
    owner, member = await house.user("owner"), await house.user("member")
    group = await house.groups.create(house.tenant_id, owner, "team")
    await _shared_with_groups(house, owner.user_id, group.id)
    denied = await refusal(house.groups.delete(house.tenant_id, member, group.id))
    assert denied.reason == "permission_denied"
    async with house.database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Grant))).all()) == 1


async def test_an_actor_says_the_groups_that_they_are_in_here_and_all_say_it_as_one(
    house: House, database: Database
) -> None:
    owner = await house.user("owner")
    elsewhere = await House(database).build()
    group = await house.groups.create(house.tenant_id, owner, "team")
    ada, bob = await house.user("member"), await house.user("member")
    assert (await house.now(ada.user_id)).groups == frozenset()
    for each in (ada, bob):
        await house.groups.add(house.tenant_id, owner, group.id, each.user_id)
    keys = [Member(each.user_id, house.tenant_id) for each in (ada, bob)]
    first, second = [standing.actor for standing in (await look_up(database, keys)).values()]
    assert first.groups == {group.id}
    assert first.groups is second.groups  # ten thousand do not hold ten thousand sets
    assert (await elsewhere.now(ada.user_id)).groups == frozenset()
    await house.groups.remove(house.tenant_id, owner, group.id, ada.user_id)
    assert (await house.now(ada.user_id)).groups == frozenset()
