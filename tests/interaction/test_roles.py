"""Roles and groups, administered through every transport."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, or_, select

from hub.ids import new_id
from hub.rbac.permissions import PERMISSIONS
from hub.rbac.roles import BUILT_IN
from hub.storage.tables import AuditEntry, now
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, eventually
from tests.rbac.households import EVERYTHING

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _id(person: Person) -> str:
    return str((await person.ask("session.info"))["user_id"])


async def _may(person: Person) -> set[str]:
    return set((await person.ask("session.info"))["permissions"])


async def _refused(person: Person, method: str, **params: Any) -> Refused:
    with pytest.raises(Refused) as refusal:
        await person.ask(method, params)
    return refusal.value


async def test_permissions_and_built_in_roles_are_told_with_what_they_mean(world: World) -> None:
    ada = await world.owner()
    told = (await ada.ask("permission.list"))["items"]
    assert {each["name"]: each["meaning"] for each in told} == dict(PERMISSIONS)
    assert {each["name"]: each["wildcards"] for each in told if each["wildcards"]} == {
        "tool:call:<server*>/<tool*>": ["server", "tool"]
    }
    roles = (await ada.ask("role.list"))["items"]
    assert [role["name"] for role in roles] == sorted(BUILT_IN, key=lambda id: BUILT_IN[id].rank)
    owner = await ada.ask("role.get", {"role_id": "owner"})
    assert owner == roles[-1]
    assert owner["built_in"]
    assert set(owner["all_permissions"]) == await _may(ada)


async def test_a_role_that_is_made_given_changed_and_taken_acts_at_once(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "viewer")
    user_id = await _id(bob)
    role = await ada.ask(
        "role.create",
        {"name": "talker", "inherits": "viewer", "permissions": ["conversation:create"]},
    )
    named = {"role_id": role["id"]}
    given = await ada.ask("role.assign", {**named, "user_id": user_id})
    assert (given["role"], given["user_id"]) == ("talker", user_id)
    await bob.conversation()
    changed = await ada.ask("role.update", {**named, "permissions": ["message:send"]})
    assert changed["permissions"] == ["message:send"]
    assert await ada.ask("role.get", named) == changed
    assert (await _refused(bob, "conversation.create")).reason == "permission_denied"
    assert "message:send" in await _may(bob)
    assert await ada.ask("role.revoke", {**named, "user_id": user_id}) == {}
    assert "message:send" not in await _may(bob)
    assert await ada.ask("role.delete", named) == {}
    assert (await _refused(ada, "role.get", **named)).reason == "not_found"


async def test_null_leaves_a_role_as_it_is_or_takes_away_what_may_be_missing(
    world: World,
) -> None:
    ada = await world.owner()
    role = await ada.ask(
        "role.create",
        {"name": "one", "description": "First.", "inherits": "member", "permissions": []},
    )
    empty = dict.fromkeys(("name", "description", "inherits", "rank", "permissions"))
    changed = await ada.ask("role.update", {"role_id": role["id"], **empty})
    assert "description" not in changed
    assert "inherits" not in changed
    assert (changed["name"], changed["rank"]) == ("one", 20)


async def test_a_group_gives_its_role_to_who_is_in_it(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "viewer")
    user_id = await _id(bob)
    group = await ada.ask("group.create", {"name": "Operations", "description": "On call."})
    named = {"group_id": group["id"]}
    await ada.ask("role.assign", {"role_id": "operator", **named})
    await ada.ask("group.add", {**named, "user_id": user_id})
    await ada.ask("group.add", {**named, "user_id": user_id})
    assert "run:cancel:any" in await _may(bob)
    members = (await ada.ask("group.members", named))["items"]
    assert [(each["user_id"], each["email"]) for each in members] == [(user_id, bob.email)]
    changed = await ada.ask("group.update", {**named, "name": "Ops"})
    assert (changed["name"], changed["description"]) == ("Ops", "On call.")
    assert await ada.ask("group.get", named) == changed
    assert (await ada.ask("group.list"))["items"] == [changed]
    assigned = (await ada.ask("role.assignments", named))["items"]
    assert [(each["role_id"], each["group_id"]) for each in assigned] == [("operator", group["id"])]
    assert await ada.ask("group.remove", {**named, "user_id": user_id}) == {}
    assert "run:cancel:any" not in await _may(bob)
    await ada.ask("group.add", {**named, "user_id": user_id})
    assert await ada.ask("group.delete", named) == {}
    assert "run:cancel:any" not in await _may(bob)
    assert (await ada.ask("group.list"))["items"] == []


async def test_a_role_that_is_given_for_a_while_ends_by_itself(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "viewer")
    until = (now() + timedelta(seconds=1.2)).isoformat()
    named = {"role_id": "operator", "user_id": await _id(bob)}
    given = await ada.ask("role.assign", {**named, "expires_at": until})
    assert given["expires_at"]
    assert "run:cancel:any" in await _may(bob)

    async def over() -> bool:
        return "run:cancel:any" not in await _may(bob)

    await eventually(over, 3.0)
    assert (await ada.ask("role.assignments", {"role_id": "operator"}))["items"] == []
    for past in (until, "2027-01-31T12:00:00", "soon"):
        refusal = await _refused(ada, "role.assign", **named, expires_at=past)
        assert refusal.reason == "invalid_params"
        assert "expires_at" in refusal.message


async def test_what_an_administrator_may_not_or_cannot_is_refused(world: World) -> None:
    ada = await world.owner()
    admin = await world.colleague(ada, "admin")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("role.create", {"name": "boss", "inherits": "owner"}, "permission_denied"),
        ("role.create", {"name": "boss", "rank": 41}, "permission_denied"),
        ("role.create", {"name": "x", "permissions": ["message:send:any"]}, "permission_denied"),
        ("role.create", {"name": "x", "permissions": ["conversation:*"]}, "invalid_params"),
        ("role.create", {"name": "viewer"}, "conflict"),
        ("role.create", {"name": "Not A Name"}, "invalid_params"),
        ("role.update", {"role_id": "viewer", "permissions": []}, "permission_denied"),
        ("role.delete", {"role_id": "viewer"}, "permission_denied"),
        ("role.assign", {"role_id": "viewer"}, "invalid_params"),
        (
            "role.assign",
            {"role_id": "viewer", "user_id": new_id("u"), "group_id": new_id("g")},
            "invalid_params",
        ),
        ("role.assign", {"role_id": "viewer", "user_id": new_id("u")}, "not_found"),
        ("role.revoke", {"role_id": "viewer", "group_id": new_id("g")}, "not_found"),
        ("role.list", {"cursor": "yesterday"}, "invalid_params"),
    ]
    for method, params, reason in cases:
        assert (await _refused(admin, method, **params)).reason == reason, (method, params)


async def test_nobody_rises_by_their_own_hand_and_the_last_owner_stays(world: World) -> None:
    ada = await world.owner()
    admin = await world.colleague(ada, "admin")
    ids = {"ada": await _id(ada), "admin": await _id(admin)}
    group = await ada.ask("group.create", {"name": "heads"})
    await ada.ask("role.assign", {"role_id": "owner", "group_id": group["id"]})
    for method, params in (
        ("role.assign", {"role_id": "owner", "user_id": ids["admin"]}),
        ("role.assign", {"role_id": "viewer", "user_id": ids["admin"]}),
        ("role.assign", {"role_id": "viewer", "user_id": ids["ada"]}),
        ("role.revoke", {"role_id": "owner", "user_id": ids["ada"]}),
        ("group.add", {"group_id": group["id"], "user_id": ids["admin"]}),
        ("group.delete", {"group_id": group["id"]}),
    ):
        refusal = await _refused(admin, method, **params)
        assert refusal.reason == "permission_denied", (method, params)
    await ada.ask("role.assign", {"role_id": "member", "group_id": group["id"]})
    assert (
        await _refused(ada, "role.revoke", role_id="owner", user_id=ids["ada"])
    ).reason == "conflict"
    assert await _may(ada) == EVERYTHING


async def test_a_member_administers_nothing(world: World) -> None:
    ada = await world.owner()
    for role in ("viewer", "member", "service", "operator"):
        who = await world.colleague(ada, role)
        for method, params in (
            ("permission.list", {}),
            ("role.list", {}),
            ("role.create", {"name": "mine"}),
            ("role.assign", {"role_id": "viewer", "user_id": await _id(ada)}),
            ("role.assignments", {}),
            ("role.explain", {"user_id": await _id(who), "permission": "run:read"}),
            ("group.list", {}),
            ("group.create", {"name": "mine"}),
        ):
            refusal = await _refused(who, method, **params)
            assert refusal.reason == "permission_denied", (role, method)


async def test_another_tenants_users_are_as_those_that_are_not_there(world: World) -> None:
    ada, eve = await world.owner(), await world.owner()
    foreign, missing = await _id(ada), new_id("u")
    group = await eve.ask("group.create", {"name": "mine"})
    for method, params in (
        ("role.assign", {"role_id": "viewer"}),
        ("role.revoke", {"role_id": "owner"}),
        ("role.explain", {"permission": "run:read"}),
        ("group.add", {"group_id": group["id"]}),
        ("group.remove", {"group_id": group["id"]}),
    ):
        seen = {
            (await _refused(eve, method, **params, user_id=id)).bytes for id in (foreign, missing)
        }
        assert len(seen) == 1, method
    for filters in ({"user_id": foreign}, {"user_id": missing}):
        assert (await eve.ask("role.assignments", filters))["items"] == []


async def test_it_is_explained_why_somebody_may_or_may_not(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    user_id = await _id(bob)
    own, others = await bob.conversation(), await ada.conversation()

    async def explained(permission: str, resource: str | None = None) -> dict[str, Any]:
        params = {"user_id": user_id, "permission": permission}
        return await ada.ask("role.explain", params | ({"resource": resource} if resource else {}))

    found = await explained("conversation:read")
    assert found["allowed"]
    assert found["roles"] == ["member"]
    assert found["ways"] == [{"roles": ["member", "viewer"], "permission": "conversation:read"}]
    found = await explained("metrics:read")
    assert (found["allowed"], found["fault"]) == (False, "permission_denied")
    assert found["lacking"] == "metrics:read"
    assert found["given_by"] == ["operator", "admin", "owner"]
    assert (await explained("conversation:delete", f"conversation:{own}"))["allowed"]
    found = await explained("conversation:delete", f"conversation:{others}")
    assert (found["allowed"], found["fault"]) == (False, "not_found")
    assert found["lacking"] == "conversation:delete:any"
    assert found["given_by"] == ["admin", "owner"]
    assert found["ways"], "for what is their own they have it"
    found = await explained("channel:subscribe", "channel:audit")
    assert (found["allowed"], found["fault"]) == (False, "permission_denied")
    group = await ada.ask("group.create", {"name": "admins"})
    await ada.ask("role.assign", {"role_id": "admin", "group_id": group["id"]})
    await ada.ask("group.add", {"group_id": group["id"], "user_id": user_id})
    assert (await explained("channel:subscribe", "channel:audit"))["allowed"]
    found = await explained("conversation:delete", f"conversation:{others}")
    assert found["allowed"]
    assert {
        "roles": ["admin"],
        "permission": "conversation:delete:any",
        "group_id": group["id"],
        "group": "admins",
    } in found["ways"]
    for permission, resource, reason in (
        ("conversation:fly", None, "invalid_params"),
        ("conversation:read", f"conversation:{new_id('c')}", "not_found"),
        ("conversation:read", "nonsense:x", "not_found"),
        ("conversation:read", "nonsense", "invalid_params"),
    ):
        with pytest.raises(Refused) as refusal:
            await explained(permission, resource)
        assert refusal.value.reason == reason


async def test_the_tools_of_a_server_are_given_by_who_may_call_them(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    holder, other = await world.colleague(ada, "admin"), await world.colleague(ada, "member")
    # One who administers roles, and calls the tools of one server alone.
    keeper = await ada.ask(
        "role.create",
        {"name": "keeper", "rank": 40, "inherits": "member",
         "permissions": ["role:read", "role:write", "role:assign", "tool:call:mail/send"]},
    )  # fmt: skip
    await ada.ask("role.assign", {"role_id": keeper["id"], "user_id": await _id(other)})
    wanted = {"name": "filer", "inherits": "member", "permissions": ["tool:call:files/*"]}
    refusal = await _refused(other, "role.create", **wanted)
    assert refusal.reason == "permission_denied"
    assert "tool:call:files/*" in refusal.message
    wider = {"name": "mailer", "permissions": ["tool:call:mail/*"]}
    assert (await _refused(other, "role.create", **wider)).reason == "permission_denied"
    mailer = await other.ask("role.create", {**wider, "permissions": ["tool:call:mail/send"]})
    filer = await holder.ask("role.create", wanted)
    assert filer["permissions"] == ["tool:call:files/*"]
    for nonsense in ("tool:call:*/read", "tool:call:files", "tool:call:<server*>/<tool*>"):
        refusal = await _refused(holder, "role.create", name="x", permissions=[nonsense])
        assert refusal.reason == "invalid_params", nonsense
    give = {"role_id": filer["id"], "user_id": await _id(bob)}
    assert (await _refused(other, "role.assign", **give)).reason == "permission_denied"
    await holder.ask("role.assign", give)
    assert "tool:call:files/*" in await _may(bob)

    async def explained(permission: str) -> dict[str, Any]:
        params = {"user_id": give["user_id"], "permission": permission}
        return await ada.ask("role.explain", params)

    found = await explained("tool:call:files/read")
    assert found["allowed"]
    assert found["ways"] == [{"roles": ["filer"], "permission": "tool:call:files/*"}]
    found = await explained("tool:call:mail/send")
    assert (found["allowed"], found["fault"]) == (False, "permission_denied")
    assert (found["lacking"], found["ways"]) == ("tool:call:mail/send", [])
    assert found["given_by"] == [mailer["name"], "admin", "keeper", "owner"]
    assert not (await explained("tool:call:*/*"))["allowed"]
    # What is narrower than what a role has is nothing new to it.
    narrower = {"role_id": filer["id"], "permissions": ["tool:call:files/read"]}
    assert (await other.ask("role.update", narrower))["permissions"] == ["tool:call:files/read"]
    assert not (await explained("tool:call:files/write"))["allowed"]


async def test_an_api_key_calls_the_tools_that_its_scopes_name_and_no_others(world: World) -> None:
    ada = await world.owner()
    plain = await ada.ask("apikey.create", {"name": "plain"})
    assert not [scope for scope in plain["scopes"] if scope.startswith("tool:")]
    filer = await ada.ask("apikey.create", {"name": "files", "scopes": ["tool:call:files/*"]})
    assert filer["scopes"] == ["tool:call:files/*"]
    narrow = {"api_key_id": filer["id"], "scopes": ["tool:call:files/read"]}
    assert (await ada.ask("apikey.update", narrow))["scopes"] == ["tool:call:files/read"]
    refusal = await _refused(ada, "apikey.create", name="x", scopes=["tool:call:*/read"])
    assert refusal.reason == "invalid_params"
    bob = await world.colleague(ada, "member")
    refusal = await _refused(bob, "apikey.create", name="x", scopes=["tool:call:files/read"])
    assert refusal.reason == "permission_denied"


async def test_roles_groups_and_members_are_paged(world: World) -> None:
    ada = await world.owner()
    bob, eve = [await world.colleague(ada, "viewer") for _ in range(2)]
    for number in range(3):
        await ada.ask("role.create", {"name": f"role-{number}", "rank": 30})
    groups = [(await ada.ask("group.create", {"name": f"g{n}"}))["id"] for n in range(3)]
    users = sorted([await _id(bob), await _id(eve)])
    for user_id in users:
        await ada.ask("group.add", {"group_id": groups[0], "user_id": user_id})

    async def pages(method: str, size: int, **params: Any) -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await ada.ask(method, {**params, "limit": size, **cursor})
            found.append(page["items"])
            if "next_cursor" not in page:
                return found
            cursor = {"cursor": page["next_cursor"]}

    roles = await pages("role.list", 4)
    assert [len(page) for page in roles] == [4, 4, 1]
    assert [role["rank"] for page in roles for role in page] == [
        10, 15, 20, 30, 30, 30, 30, 40, 50,
    ]  # fmt: skip
    assert [[item["id"] for item in page] for page in await pages("group.list", 2)] == [
        groups[:2],
        groups[2:],
    ]
    members = await pages("group.members", 1, group_id=groups[0])
    assert [item["user_id"] for page in members for item in page] == users
    assigned = await pages("role.assignments", 2)
    assert sorted(item["role"] for page in assigned for item in page) == [
        "owner", "viewer", "viewer",
    ]  # fmt: skip


async def test_every_deed_is_in_the_trail_with_who_did_it_and_how(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "viewer")
    user_id = await _id(bob)
    role = await ada.ask("role.create", {"name": "one", "permissions": ["run:read"]})
    group = await ada.ask("group.create", {"name": "team"})
    of_role, of_group = {"role_id": role["id"]}, {"group_id": group["id"]}
    await ada.ask("role.update", {**of_role, "rank": 5})
    await ada.ask("role.assign", {**of_role, "user_id": user_id})
    await ada.ask("role.revoke", {**of_role, "user_id": user_id})
    await ada.ask("group.update", {**of_group, "name": "crew"})
    await ada.ask("group.add", {**of_group, "user_id": user_id})
    await ada.ask("group.remove", {**of_group, "user_id": user_id})
    await _refused(bob, "group.delete", **of_group)
    await ada.ask("group.delete", of_group)
    await ada.ask("role.delete", of_role)
    services = world.hub.hub.services
    claims = services.tokens.read(ada.token)
    async with services.database.read(claims.tenant_id) as session:
        action = col(AuditEntry.action)
        wanted = or_(action.startswith("role."), action.startswith("group."))
        rows = (
            await session.exec(
                select(AuditEntry)
                .where(wanted, AuditEntry.outcome == "done")
                .order_by(col(AuditEntry.seq))
            )
        ).all()
    assert [(row.action, row.resource_id) for row in rows] == [
        ("role.create", role["id"]),
        ("group.create", group["id"]),
        ("role.update", role["id"]),
        ("role.assign", user_id),
        ("role.revoke", user_id),
        ("group.update", group["id"]),
        ("group.add", group["id"]),
        ("group.remove", group["id"]),
        ("group.delete", group["id"]),
        ("role.delete", role["id"]),
    ]
    assert {(row.actor_id, row.transport) for row in rows} == {(claims.user_id, world.name)}
