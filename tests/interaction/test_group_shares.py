"""Conversations that are shared with groups, through every transport."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from hub.ids import new_id
from hub.operations import sharing
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Grant
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused
from tests.interaction.test_sharing import history, id_of, refused, send, share

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def group_of(owner: Person, *members: Person) -> str:
    """A new group, with these in it: its id."""
    group = await owner.ask("group.create", {"name": new_id("g")})
    for each in members:
        await join(owner, group["id"], each)
    return str(group["id"])


async def join(owner: Person, group: str, whom: Person) -> None:
    await owner.ask("group.add", {"group_id": group, "user_id": await id_of(whom)})


async def leave(owner: Person, group: str, whom: Person) -> None:
    await owner.ask("group.remove", {"group_id": group, "user_id": await id_of(whom)})


async def share_with(owner: Person, conversation: str, group: str, access: str, **more: Any) -> Any:
    params = {"conversation_id": conversation, "group_id": group, "access": access}
    return await owner.ask("conversation.share", {**params, **more})


async def access_of(person: Person, conversation: str) -> str:
    return str((await person.ask("conversation.get", {"conversation_id": conversation}))["access"])


async def shared_with(person: Person) -> list[tuple[str, str]]:
    items = (await person.ask("conversation.list", {"shared": True}))["items"]
    return [(item["id"], item["access"]) for item in items]


async def is_hidden(person: Person, conversation: str) -> bool:
    gone = await refused(person, "conversation.get", conversation_id=conversation)
    missing = await refused(person, "conversation.get", conversation_id=new_id("c"))
    return gone.reason == "not_found" and gone.bytes == missing.bytes


async def test_who_is_in_the_group_has_what_it_was_granted_and_nobody_else(world: World) -> None:
    ada = await world.owner()
    bob, carol, eve = [await world.colleague(ada, "member") for _ in range(3)]
    group, other = await group_of(ada, bob, carol), await group_of(ada, eve)
    conversation = await ada.conversation(title="Sky")
    assert await is_hidden(bob, conversation)
    made = await share_with(ada, conversation, group, "writer")
    assert (made["group_id"], made["access"], "user_id" in made) == (group, "writer", False)
    for each in (bob, carol):
        assert await access_of(each, conversation) == "writer"
        assert (await history(each, conversation))["items"] is not None
        assert await send(each, conversation, "Hello")
        assert await shared_with(each) == [(conversation, "writer")]
    assert await is_hidden(eve, conversation)
    assert await shared_with(eve) == []
    denied = await refused(bob, "conversation.delete", conversation_id=conversation)
    assert denied.reason == "permission_denied"
    await share_with(ada, conversation, other, "reader")
    assert await access_of(eve, conversation) == "reader"
    with pytest.raises(Refused, match="permission_denied"):
        await send(eve, conversation, "Hello")


async def test_who_comes_later_has_it_and_who_leaves_has_it_no_more(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    group, conversation = await group_of(ada), await ada.conversation()
    await share_with(ada, conversation, group, "reader")
    assert await is_hidden(bob, conversation)
    await join(ada, group, bob)
    assert await access_of(bob, conversation) == "reader"
    await leave(ada, group, bob)
    assert await is_hidden(bob, conversation)
    assert await shared_with(bob) == []


async def test_the_greatest_of_several_grants_counts(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    readers, writers = await group_of(ada, bob), await group_of(ada, bob)
    conversation = await ada.conversation()
    end = datetime.now(UTC) + timedelta(days=1)
    await share_with(ada, conversation, readers, "reader")
    await share(ada, conversation, bob, "reader")
    await share_with(ada, conversation, writers, "writer", expires_at=end.isoformat())
    assert await send(bob, conversation, "Hello")
    (listed,) = (await bob.ask("conversation.list", {"shared": True}))["items"]
    found = await bob.ask("conversation.get", {"conversation_id": conversation})
    assert found["access"] == listed["access"] == "writer"
    assert datetime.fromisoformat(found["access_expires_at"]) == end
    assert found["access_expires_at"] == listed["access_expires_at"]
    named = {"conversation_id": conversation}
    await ada.ask("conversation.unshare", {**named, "group_id": writers})
    assert await access_of(bob, conversation) == "reader"
    await ada.ask("conversation.unshare", {**named, "user_id": await id_of(bob)})
    assert await access_of(bob, conversation) == "reader"
    await ada.ask("conversation.unshare", {**named, "group_id": readers})
    assert await is_hidden(bob, conversation)


async def test_what_groups_were_granted_is_paged_without_a_duplicate_or_a_gap(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    first, second = await group_of(ada, bob), await group_of(ada, bob)
    elsewhere = await group_of(ada)
    own = await bob.conversation()
    await share_with(bob, own, first, "reader")
    made = []
    for number in range(7):
        conversation = await ada.conversation()
        await share_with(ada, conversation, elsewhere, "writer")
        ways = number % 3
        if ways != 1:
            await share_with(ada, conversation, first, "reader")
        if ways != 0:
            await share_with(ada, conversation, second, "writer")
            await share(ada, conversation, bob, "reader")
        made.append((conversation, "reader" if ways == 0 else "writer"))
    pages, params = [], {"shared": True, "limit": 2}
    while True:
        page = await bob.ask("conversation.list", params)
        pages.append([(item["id"], item["access"]) for item in page["items"]])
        if "next_cursor" not in page:
            break
        params = {**params, "cursor": page["next_cursor"]}
    assert [len(page) for page in pages] == [2, 2, 2, 1]
    assert [item for page in pages for item in page] == made[::-1]
    mine = (await bob.ask("conversation.list"))["items"]
    assert [(item["id"], item["access"]) for item in mine] == [(own, "owner")]


async def test_shares_with_users_and_with_groups_are_listed_together(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    group = await ada.ask("group.create", {"name": "Weather"})
    conversation = await ada.conversation()
    one = await share_with(ada, conversation, group["id"], "reader")
    two = await share(ada, conversation, bob, "writer")
    three = await share_with(ada, conversation, await group_of(ada), "approver")
    assert one["name"] == "Weather"
    named = {"conversation_id": conversation}
    first = await ada.ask("conversation.shares", {**named, "limit": 2})
    rest = await ada.ask("conversation.shares", {**named, "cursor": first["next_cursor"]})
    assert first["items"] + rest["items"] == [one, two, three]
    again = await share_with(ada, conversation, group["id"], "writer")
    assert (again["id"], again["access"]) == (one["id"], "writer")


async def test_who_may_share_finds_the_groups_by_name_and_nothing_more_of_them(
    world: World,
) -> None:
    ada, eve = await world.owner(), await world.owner()
    bob, viewer = await world.colleague(ada, "member"), await world.colleague(ada, "viewer")
    made = []
    for number in range(3):
        told = {"name": f"Group {number}", "description": "for nobody else to read"}
        made.append(await ada.ask("group.create", told))
    await group_of(eve)
    first = await bob.ask("group.names", {"limit": 2})
    rest = await bob.ask("group.names", {"limit": 2, "cursor": first["next_cursor"]})
    assert "next_cursor" not in rest
    assert first["items"] + rest["items"] == [
        {"id": each["id"], "name": each["name"]} for each in made
    ]
    share = await share_with(bob, await bob.conversation(), first["items"][0]["id"], "reader")
    assert share["name"] == "Group 0"
    for method in ("group.list", "group.get", "group.members"):
        named = {} if method == "group.list" else {"group_id": made[0]["id"]}
        assert (await refused(bob, method, **named)).reason == "permission_denied"
    assert (await refused(viewer, "group.names")).reason == "permission_denied"


async def test_a_group_that_is_not_there_and_a_foreign_one_answer_alike(world: World) -> None:
    ada, eve = await world.owner(), await world.owner()
    theirs = await group_of(eve)
    deleted = await group_of(ada)
    await ada.ask("group.delete", {"group_id": deleted})
    named = {"conversation_id": await ada.conversation()}
    for method, more in (
        ("conversation.share", {"access": "reader"}),
        ("conversation.unshare", {}),
    ):
        answers = set()
        for group in (theirs, deleted, new_id("g"), await id_of(ada)):
            refusal = await refused(ada, method, **named, group_id=group, **more)
            assert refusal.reason == "not_found", (method, group)
            answers.add(refusal.bytes)
        assert len(answers) == 1
    assert (await ada.ask("conversation.shares", named))["items"] == []
    for wrong in ({}, {"user_id": new_id("u"), "group_id": new_id("g")}):
        refusal = await refused(ada, "conversation.unshare", **named, **wrong)
        assert refusal.reason == "invalid_params"


async def test_nobody_grants_a_group_more_than_they_may_do_there(world: World) -> None:
    owner = await world.owner()
    ada, bob = [await world.colleague(owner, "member") for _ in range(2)]
    admin = await world.colleague(owner, "admin")
    group, conversation = await group_of(owner, bob), await ada.conversation()
    with pytest.raises(Refused, match="permission_denied"):
        await share_with(admin, conversation, group, "writer")
    with pytest.raises(Refused, match="not_found"):
        await share_with(bob, conversation, group, "reader")
    await share_with(ada, conversation, group, "reader")
    with pytest.raises(Refused, match="permission_denied"):
        await share_with(bob, conversation, group, "reader")
    viewer = await world.colleague(owner, "viewer")
    await join(owner, group, viewer)
    await share_with(ada, conversation, group, "writer")
    assert await access_of(viewer, conversation) == "writer"
    with pytest.raises(Refused, match="permission_denied"):
        await send(viewer, conversation, "Hello")


async def test_groups_and_users_count_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MAX_SHARES", 2)
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    await share_with(ada, conversation, await group_of(ada), "reader")
    await share(ada, conversation, bob, "reader")
    with pytest.raises(Refused, match="conflict"):
        await share_with(ada, conversation, await group_of(ada), "reader")


async def test_with_a_group_its_shares_are_deleted_and_the_trail_says_so(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    group, other = await group_of(ada, bob), await group_of(ada, bob)
    kept, lost = await ada.conversation(), await ada.conversation()
    for conversation in (kept, lost):
        await share_with(ada, conversation, group, "writer")
    await share_with(ada, kept, other, "reader")
    await ada.ask("group.delete", {"group_id": group})
    assert await access_of(bob, kept) == "reader"
    assert await is_hidden(bob, lost)
    assert await shared_with(bob) == [(kept, "reader")]
    (left,) = (await ada.ask("conversation.shares", {"conversation_id": kept}))["items"]
    assert left["group_id"] == other
    async with world.hub.hub.services.database.read(EVERY_TENANT) as session:
        of_group = select(Grant).where(col(Grant.subject_id) == group)
        assert (await session.exec(of_group)).all() == []
        told = select(AuditEntry).where(col(AuditEntry.resource_id).in_([group, lost]))
        entries = (await session.exec(told.order_by(col(AuditEntry.seq)))).all()
    said = {entry.action: json.loads(entry.details) for entry in entries}
    assert said["conversation.share"]["group_id"] == group
    assert "user_id" not in said["conversation.share"]
    assert said["group.delete"]["shares"] == 2
    assert said["group.delete"]["conversations"] == sorted([kept, lost])


async def test_why_somebody_may_is_explained_by_the_share_of_a_group(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    about = {"user_id": await id_of(bob), "permission": "message:send"}
    about["resource"] = f"conversation:{conversation}"
    assert not (await ada.ask("role.explain", about))["allowed"]
    await share_with(ada, conversation, await group_of(ada, bob), "writer")
    told = await ada.ask("role.explain", about)
    assert told["allowed"]
    assert "shared as writer" in told["reason"]
