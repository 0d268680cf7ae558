"""Tenants, their members and their invitations, through every transport."""

from typing import Any

import pytest
from sqlmodel import col, select

from hub.ids import new_id
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Tenant, User
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, eventually
from tests.parts.hub import PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATOR = "operator@hub.example"


async def operator(world: World) -> Person:
    """An owner of the tenant that the hub began with."""
    accounts = world.hub.hub.services.accounts
    async with world.hub.hub.services.database.read(EVERY_TENANT) as session:
        oldest = select(Tenant.id).order_by(col(Tenant.created_at), col(Tenant.id)).limit(1)
        tenant_id = (await session.exec(oldest)).first()
        known = (await session.exec(select(User.id).where(User.email == OPERATOR))).first()
    if known is None:
        await accounts.create_user(OPERATOR, PASSWORD, tenant_id or "default", "owner")
    return await world.login(OPERATOR)


async def refused(asking: Any) -> str:
    with pytest.raises(Refused) as caught:
        await asking
    return caught.value.reason


async def house_of(person: Person) -> str:
    return str((await person.ask("session.info"))["tenant_id"])


async def test_an_owner_reads_and_settles_their_own_tenant(world: World) -> None:
    ada = await world.owner()
    house = await house_of(ada)
    settings = {"display_name": "Ada's", "invitation_domains": ["hub.example"]}
    changed = await ada.ask("tenant.update", {"tenant_id": house, "settings": settings})
    assert changed["settings"] == {**settings, "answer_cache": False}
    less = {"display_name": None}
    await ada.ask("tenant.update", {"tenant_id": house, "settings": less})
    found = await ada.ask("tenant.get", {"tenant_id": house})
    assert found["settings"] == {"invitation_domains": ["hub.example"], "answer_cache": False}
    assert found["state"] == "active"
    wrong = {"tenant_id": house, "settings": {"colour": "red"}}
    assert await refused(ada.ask("tenant.update", wrong)) == "invalid_params"


async def test_a_member_reads_the_tenant_and_settles_nothing(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "admin")
    house = await house_of(ada)
    assert (await bob.ask("tenant.get", {"tenant_id": house}))["id"] == house
    change = {"tenant_id": house, "settings": {"display_name": "Bob's"}}
    assert await refused(bob.ask("tenant.update", change)) == "permission_denied"
    away = {"tenant_id": house, "confirm": ada.email}
    assert await refused(bob.ask("tenant.delete", away)) == "permission_denied"


async def test_the_operator_makes_a_tenant_and_its_owner_comes_in(world: World) -> None:
    boss = await operator(world)
    name, email = f"acme {new_id('x')[2:]}", f"{new_id('x').lower()}@hub.example"
    made = await boss.ask("tenant.create", {"name": name, "owner": email.upper()})
    code, tenant = made["invitation"], made["tenant"]
    accounts = world.hub.hub.services.accounts
    await accounts.register(email, PASSWORD, invitation=code)
    theirs = await world.login(email)
    told = await theirs.ask("session.info")
    assert (told["tenant_id"], told["roles"]) == (tenant["id"], ["owner"])
    again = boss.ask("tenant.create", {"name": name})
    assert await refused(again) == "conflict"
    listed: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await boss.ask("tenant.list", {"limit": 2, **cursor})
        listed += [item["id"] for item in page["items"]]
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert tenant["id"] in listed
    assert len(listed) == len(set(listed))


async def test_the_operator_suspends_and_resumes_what_an_owner_cannot(world: World) -> None:
    boss, ada = await operator(world), await world.owner()
    house = await house_of(ada)
    for method in ("tenant.suspend", "tenant.resume", "tenant.restore"):
        assert await refused(ada.ask(method, {"tenant_id": house})) == "not_found"
    assert await refused(ada.ask("tenant.list")) == "not_found"
    assert await refused(ada.ask("tenant.create", {"name": "mine"})) == "not_found"
    assert (await boss.ask("tenant.suspend", {"tenant_id": house}))["state"] == "suspended"
    accounts = world.hub.hub.services.accounts
    with pytest.raises(Exception, match="unauthenticated"):
        await accounts.login(ada.email, PASSWORD)
    assert (await boss.ask("tenant.resume", {"tenant_id": house}))["state"] == "active"
    assert (await accounts.login(ada.email, PASSWORD)).session_id
    assert await refused(boss.ask("tenant.suspend", {"tenant_id": new_id("t")})) == "not_found"


async def test_the_operators_rank_opens_no_door_to_what_tenants_say(world: World) -> None:
    boss, ada = await operator(world), await world.owner()
    conversation = await ada.conversation()
    asked = boss.ask("conversation.get", {"conversation_id": conversation})
    assert await refused(asked) == "not_found"


async def test_an_owner_deletes_their_tenant_and_the_operator_restores_it(world: World) -> None:
    boss, ada = await operator(world), await world.owner()
    house = await house_of(ada)
    assert (
        await refused(ada.ask("tenant.delete", {"tenant_id": house, "confirm": "x"}))
        == "invalid_params"
    )
    gone = await ada.ask("tenant.delete", {"tenant_id": house, "confirm": ada.email})
    assert gone["state"] == "deleted"
    assert gone["purge_at"] > gone["deleted_at"]

    async def out() -> bool:
        try:
            await ada.ask("session.info")
        except (Refused, ConnectionError):
            return True
        return False

    await eventually(out)
    back = await boss.ask("tenant.restore", {"tenant_id": house})
    assert (back["state"], "purge_at" in back) == ("active", False)
    assert await house_of(await world.login(ada.email)) == house


async def test_the_hubs_own_tenant_can_be_neither_suspended_nor_deleted(world: World) -> None:
    boss = await operator(world)
    house = await house_of(boss)
    name = (await boss.ask("tenant.get", {"tenant_id": house}))["name"]
    assert await refused(boss.ask("tenant.suspend", {"tenant_id": house})) == "conflict"
    away = {"tenant_id": house, "confirm": name}
    assert await refused(boss.ask("tenant.delete", away)) == "conflict"


async def test_members_are_listed_and_removed(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    assert await refused(bob.ask("member.list")) == "permission_denied"
    found = {item["email"]: item for item in (await ada.ask("member.list"))["items"]}
    assert set(found) == {ada.email, bob.email}
    assert found[bob.email]["roles"] == ["member"]
    eve = await world.owner()
    for user_id in (found[bob.email]["user_id"], new_id("u")):
        assert await refused(eve.ask("member.remove", {"user_id": user_id})) == "not_found"
    await ada.ask("member.remove", {"user_id": found[bob.email]["user_id"]})
    assert [item["email"] for item in (await ada.ask("member.list"))["items"]] == [ada.email]
    last = {"user_id": found[ada.email]["user_id"]}
    assert await refused(ada.ask("member.remove", last)) == "conflict"


async def test_a_user_of_one_tenant_joins_another_and_chooses_at_login(world: World) -> None:
    ada, eve = await world.owner(), await world.owner()
    invited = await ada.ask("invitation.create", {"role": "admin", "email": eve.email.upper()})
    assert invited["invitation"]["email"] == eve.email
    waiting = (await ada.ask("invitation.list"))["items"]
    assert [item["id"] for item in waiting] == [invited["invitation"]["id"]]
    assert "code" not in waiting[0]
    joined = await eve.ask("invitation.accept", {"code": invited["code"]})
    assert (joined["name"], joined["roles"], joined["current"]) == (ada.email, ["admin"], False)
    twice = eve.ask("invitation.accept", {"code": invited["code"]})
    assert await refused(twice) == "permission_denied"
    mine = {item["id"]: item["current"] for item in (await eve.ask("account.tenants"))["items"]}
    own, other = await house_of(eve), await house_of(ada)
    assert mine == {own: True, other: False}
    there = await world.login(eve.email, tenant=other)
    assert (await there.ask("session.info"))["roles"] == ["admin"]
    assert await house_of(await world.login(eve.email)) == own


async def test_an_invitation_is_void_once_revoked_and_only_its_tenant_sees_it(
    world: World,
) -> None:
    ada, eve = await world.owner(), await world.owner()
    invited = await ada.ask("invitation.create", {})
    named = {"invitation_id": invited["invitation"]["id"]}
    assert (await eve.ask("invitation.list"))["items"] == []
    for wrong in (named, {"invitation_id": new_id("iv")}):
        assert await refused(eve.ask("invitation.revoke", wrong)) == "not_found"
    await ada.ask("invitation.revoke", named)
    accepting = eve.ask("invitation.accept", {"code": invited["code"]})
    assert await refused(accepting) == "permission_denied"


async def test_nobody_invites_above_their_rank_nor_into_a_role_that_is_not(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "admin")
    above = bob.ask("invitation.create", {"role": "owner"})
    assert await refused(above) == "permission_denied"
    assert await refused(bob.ask("invitation.create", {"role": "king"})) == "not_found"
    carol = await world.colleague(ada, "member")
    assert await refused(carol.ask("invitation.create", {})) == "permission_denied"
