"""Conversations that are shared, through every transport."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from hub.ids import new_id
from hub.operations import sharing
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Grant, Membership, User, now
from tests.agents.test_runs import slowly
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

READS: Final = ("conversation.get", "message.list", "run.list")


async def id_of(person: Person) -> str:
    return str((await person.ask("session.info"))["user_id"])


async def share(owner: Person, conversation: str, whom: Person, access: str, **more: Any) -> Any:
    params = {"conversation_id": conversation, "user_id": await id_of(whom), "access": access}
    return await owner.ask("conversation.share", {**params, **more})


async def send(person: Person, conversation: str, content: str) -> dict[str, Any]:
    message = {"client_message_id": new_id("m"), "content": content}
    return await person.ask("message.send", {"conversation_id": conversation, **message})


async def refused(person: Person, method: str, **params: Any) -> Refused:
    with pytest.raises(Refused) as refusal:
        await person.ask(method, params)
    return refusal.value


async def history(person: Person, conversation: str) -> Any:
    return await person.ask("channel.history", {"channel": f"conversation:{conversation}"})


async def test_a_reader_reads_and_follows_and_does_nothing_else(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation(title="Sky")
    run = (await send(ada, conversation, "Why is it blue?"))["run_id"]
    named = {"conversation_id": conversation}
    for method in READS:
        assert (await refused(bob, method, **named)).reason == "not_found"
    await share(ada, conversation, bob, "reader")
    found = await bob.ask("conversation.get", named)
    assert (found["title"], found["access"]) == ("Sky", "reader")
    assert (await bob.ask("message.list", named))["items"][0]["content"] == "Why is it blue?"
    assert (await bob.ask("run.get", {"run_id": run}))["id"] == run
    assert (await history(bob, conversation))["items"]
    message = {"client_message_id": "1", "content": "Me too"}
    for method, params in (
        ("message.send", {**named, **message}),
        ("conversation.update", {**named, "title": "mine"}),
        ("conversation.delete", named),
        ("conversation.shares", named),
        ("conversation.share", {**named, "user_id": new_id("u"), "access": "reader"}),
        ("run.cancel", {"run_id": run}),
    ):
        assert (await refused(bob, method, **params)).reason == "permission_denied", method


async def test_a_writer_sends_and_cancels_every_run_there(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    await share(ada, conversation, bob, "writer")
    hers = await send(ada, conversation, slowly(500))
    his = await send(bob, conversation, "And me?")
    for sent in (hers, his):
        cancelled = await bob.ask("run.cancel", {"run_id": sent["run_id"]})
        assert cancelled["conversation_id"] == conversation
    assert (await bob.ask("run.get", {"run_id": his["run_id"]}))["user_id"] == await id_of(bob)
    (said,) = [
        message
        for message in (await ada.ask("message.list", {"conversation_id": conversation}))["items"]
        if message["id"] == his["message_id"]
    ]
    assert said["author_id"] == await id_of(bob)
    for method in ("conversation.delete", "conversation.shares"):
        refusal = await refused(bob, method, conversation_id=conversation)
        assert refusal.reason == "permission_denied"


async def test_an_approver_reads_and_sends_nothing_yet(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    await share(ada, conversation, bob, "approver")
    assert (await bob.ask("conversation.get", {"conversation_id": conversation}))["access"] == (
        "approver"
    )
    with pytest.raises(Refused, match="permission_denied"):
        await send(bob, conversation, "Approved!")


async def test_a_viewer_who_is_made_a_writer_sends_nothing(world: World) -> None:
    ada = await world.owner()
    viewer = await world.colleague(ada, "viewer")
    conversation = await ada.conversation()
    await share(ada, conversation, viewer, "writer")
    assert await viewer.ask("conversation.get", {"conversation_id": conversation})
    with pytest.raises(Refused, match="permission_denied"):
        await send(viewer, conversation, "Hello")


async def test_what_is_shared_no_longer_is_as_if_it_were_not_there(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    run = (await send(ada, conversation, "Hello"))["run_id"]
    await share(ada, conversation, bob, "writer")
    await bob.ask("conversation.get", {"conversation_id": conversation})
    unshared = {"conversation_id": conversation, "user_id": await id_of(bob)}
    assert await ada.ask("conversation.unshare", unshared) == {}
    missing = await refused(bob, "conversation.get", conversation_id=new_id("c"))
    gone = await refused(bob, "conversation.get", conversation_id=conversation)
    assert (gone.reason, gone.bytes) == ("not_found", missing.bytes)
    assert (await refused(bob, "run.get", run_id=run)).reason == "not_found"
    channel = f"conversation:{conversation}"
    assert (await refused(bob, "channel.history", channel=channel)).reason == "not_found"
    assert (await bob.ask("conversation.list", {"shared": True}))["items"] == []
    assert (await refused(ada, "conversation.unshare", **unshared)).reason == "not_found"


async def test_sharing_again_changes_what_it_is_shared_as_and_until_when(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    end = datetime.now(UTC) + timedelta(days=1)
    first = await share(ada, conversation, bob, "writer", expires_at=end.isoformat())
    assert datetime.fromisoformat(first["expires_at"]) == end
    assert (first["user_id"], first["granted_by"]) == (await id_of(bob), await id_of(ada))
    await send(bob, conversation, "As long as I may.")
    found = await bob.ask("conversation.get", {"conversation_id": conversation})
    assert datetime.fromisoformat(found["access_expires_at"]) == end
    second = await share(ada, conversation, bob, "reader")
    assert (second["id"], second["access"]) == (first["id"], "reader")
    assert "expires_at" not in second
    with pytest.raises(Refused, match="permission_denied"):
        await send(bob, conversation, "Still?")
    listed = await ada.ask("conversation.shares", {"conversation_id": conversation})
    assert listed == {"items": [second]}


async def test_what_is_shared_is_listed_in_pages_and_ones_own_apart(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    own = await bob.conversation()
    shared = [await ada.conversation() for _ in range(5)]
    for number, conversation in enumerate(shared):
        await share(ada, conversation, bob, ("reader", "writer")[number % 2])
    pages, params = [], {"shared": True, "limit": 2}
    while True:
        page = await bob.ask("conversation.list", params)
        pages.append(page["items"])
        if "next_cursor" not in page:
            break
        params = {**params, "cursor": page["next_cursor"]}
    assert [len(page) for page in pages] == [2, 2, 1]
    listed = [item for page in pages for item in page]
    assert [item["id"] for item in listed] == shared[::-1]
    assert [item["access"] for item in listed] == ["reader", "writer"] * 2 + ["reader"]
    mine = (await bob.ask("conversation.list"))["items"]
    assert [(item["id"], item["access"]) for item in mine] == [(own, "owner")]
    assert (await ada.ask("conversation.list", {"shared": True}))["items"] == []


async def test_whom_one_cannot_share_with_answers_as_who_does_not_exist(world: World) -> None:
    ada, eve = await world.owner(), await world.owner()
    disabled = await world.colleague(ada, "member")
    off = await id_of(disabled)
    here, over = [await id_of(await world.colleague(ada, "member")) for _ in range(2)]
    await ada.ask("user.disable", {"user_id": here})
    async with world.hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(update(User).where(col(User.id) == off).values(disabled_at=now()))
        theirs = col(Membership.user_id) == over
        await session.exec(update(Membership).where(theirs).values(expires_at=now()))
    conversation = await ada.conversation()
    answers = set()
    for whom in (
        {"user_id": await id_of(ada)},
        {"email": ada.email},
        {"user_id": await id_of(eve)},
        {"email": eve.email},
        {"user_id": off},
        {"email": disabled.email},
        {"user_id": here},
        {"user_id": over},
        {"user_id": new_id("u")},
        {"user_id": new_id("c")},
        {"email": "nobody-at-all@hub.example"},
    ):
        params = {"conversation_id": conversation, "access": "reader", **whom}
        refusal = await refused(ada, "conversation.share", **params)
        assert refusal.reason == "not_found", whom
        answers.add(refusal.bytes)
    assert len(answers) == 1
    assert (await ada.ask("conversation.shares", {"conversation_id": conversation}))["items"] == []


async def test_a_colleague_is_named_by_address_in_any_case(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    params = {"conversation_id": conversation, "email": bob.email.upper(), "access": "reader"}
    assert (await ada.ask("conversation.share", params))["user_id"] == await id_of(bob)


async def test_nobody_grants_more_than_they_may_do_there(world: World) -> None:
    owner = await world.owner()
    ada, bob = [await world.colleague(owner, "member") for _ in range(2)]
    admin = await world.colleague(owner, "admin")
    conversation = await ada.conversation()
    with pytest.raises(Refused, match="not_found"):
        await share(bob, conversation, owner, "reader")
    with pytest.raises(Refused, match="permission_denied"):
        await share(admin, conversation, bob, "writer")
    await share(admin, conversation, bob, "reader")
    assert (await share(owner, conversation, bob, "writer"))["access"] == "writer"
    seen = await admin.ask("conversation.get", {"conversation_id": conversation})
    assert "access" not in seen
    with pytest.raises(Refused, match="not_found"):
        await share(admin, conversation, ada, "reader")


WRONG: Final[tuple[dict[str, str], ...]] = (
    {},
    {"group_id": new_id("g"), "user_id": new_id("u")},
    {"group_id": new_id("g"), "email": "bob@hub.example"},
    {"group_id": "everyone"},
    {"user_id": new_id("u"), "email": "bob@hub.example"},
    {"email": "bob"},
    {"user_id": new_id("u"), "access": "owner"},
    {"user_id": new_id("u"), "expires_at": "2020-01-01T00:00:00Z"},
    {"user_id": new_id("u"), "expires_at": "2999-01-01T00:00:00Z"},
    {"user_id": new_id("u"), "expires_at": "9999-12-31T23:59:59-12:00"},
    {"user_id": new_id("u"), "expires_at": "2030-01-01T00:00:00"},
)


async def test_what_cannot_be_a_share_is_refused(world: World) -> None:
    ada = await world.owner()
    named = {"conversation_id": await ada.conversation(), "access": "reader"}
    for wrong in WRONG:
        refusal = await refused(ada, "conversation.share", **{**named, **wrong})
        assert refusal.reason == "invalid_params", wrong


async def test_a_share_that_has_ended_gives_nothing_and_leaves_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MAX_SHARES", 1)
    ada = await world.owner()
    bob, eve = [await world.colleague(ada, "member") for _ in range(2)]
    conversation = await ada.conversation()
    await share(ada, conversation, bob, "reader")
    named = {"conversation_id": conversation}
    assert await bob.ask("conversation.get", named)
    with pytest.raises(Refused, match="conflict"):
        await share(ada, conversation, eve, "reader")
    end = datetime.now(UTC) + timedelta(seconds=0.8)
    await share(ada, conversation, bob, "reader", expires_at=end.isoformat())

    async def has_ended() -> bool:
        try:
            await bob.ask("conversation.get", named)
        except Refused as refusal:
            assert refusal.reason == "not_found"  # noqa: PT017
            return True
        return False

    await eventually(has_ended)
    assert datetime.now(UTC) >= end
    assert (await bob.ask("conversation.list", {"shared": True}))["items"] == []
    assert (await ada.ask("conversation.shares", named))["items"] == []
    gone = {**named, "user_id": await id_of(bob)}
    assert (await refused(ada, "conversation.unshare", **gone)).reason == "not_found"
    await share(ada, conversation, eve, "reader")
    with pytest.raises(Refused, match="conflict"):
        await share(ada, conversation, bob, "reader")


async def test_with_a_conversation_its_shares_are_deleted(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    kept, deleted = await ada.conversation(), await ada.conversation()
    for conversation in (kept, deleted):
        await share(ada, conversation, bob, "writer")
    await ada.ask("conversation.delete", {"conversation_id": deleted})
    async with world.hub.hub.services.database.read(EVERY_TENANT) as session:
        rows = (await session.exec(select(Grant.resource_id))).all()
    assert (kept in rows, deleted in rows) == (True, False)
    listed = (await bob.ask("conversation.list", {"shared": True}))["items"]
    assert [item["id"] for item in listed] == [kept]


async def test_two_at_once_who_share_the_same_leave_one_share(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    await id_of(bob)
    made = await asyncio.gather(
        *(share(ada, conversation, bob, access) for access in ("reader", "writer", "approver"))
    )
    assert len({each["id"] for each in made}) == 1
    (left,) = (await ada.ask("conversation.shares", {"conversation_id": conversation}))["items"]
    assert left["access"] in ("reader", "writer", "approver")


async def test_a_name_that_somebody_else_gave_a_message_is_theirs(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    await share(ada, conversation, bob, "writer")
    message = {"conversation_id": conversation, "client_message_id": "1", "content": "Hello"}
    sent = await ada.ask("message.send", message)
    assert (await refused(bob, "message.send", **message)).reason == "conflict"
    assert await ada.ask("message.send", message) == sent


async def test_what_is_shared_and_with_whom_is_in_the_audit_trail(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await ada.conversation()
    end = datetime.now(UTC) + timedelta(days=1)
    await share(ada, conversation, bob, "reader", expires_at=end.isoformat())
    await share(ada, conversation, bob, "writer")
    named = {"conversation_id": conversation, "user_id": await id_of(bob)}
    await ada.ask("conversation.unshare", named)
    with pytest.raises(Refused):
        await ada.ask("conversation.unshare", named)
    async with world.hub.hub.services.database.read(EVERY_TENANT) as session:
        of = select(AuditEntry).where(col(AuditEntry.resource_id) == conversation)
        entries = (await session.exec(of.order_by(col(AuditEntry.seq)))).all()
    told = [entry for entry in entries if entry.outcome == "done"]
    assert [entry.action for entry in told] == ["conversation.share"] * 2 + ["conversation.unshare"]
    assert {(entry.actor_id, entry.transport) for entry in told} == {(await id_of(ada), world.name)}
    details = [json.loads(entry.details) for entry in told]
    assert [(each["access"], each.get("before")) for each in details] == [
        ("reader", None),
        ("writer", "reader"),
        ("writer", None),
    ]
    assert {each["user_id"] for each in details} == {await id_of(bob)}
    assert datetime.fromisoformat(details[0]["expires_at"]) == end
