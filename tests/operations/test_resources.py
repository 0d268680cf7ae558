"""Whose a thing is: found within the tenant, remembered for a while, forgotten when deleted."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.operations import resources
from hub.rbac.actor import Actor
from hub.storage.scope import EVERY_TENANT, Scope
from hub.storage.tables import Conversation, Membership
from tests.interaction.drivers import open_socket
from tests.parts.hub import ServedHub, ServeHub


async def _actor_and_conversation(hub: ServedHub) -> tuple[Actor, str]:
    session = await hub.sign_up("ada@hub.example")
    services = hub.hub.services
    actor = await services.authority.actor(services.tokens.read(session["access_token"]))
    async with open_socket(hub.ws_url, session["access_token"]) as socket:
        return actor, (await socket.ask("conversation.create"))["id"]


async def _remove(hub: ServedHub, conversation: str) -> None:
    """As another node would: this one is not told."""
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        row = await session.get(Conversation, conversation)
        await session.delete(row)


@pytest.mark.parametrize("kind", ["conversation", "channel"])
async def test_what_another_node_deleted_is_not_found_once_the_time_is_over(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    name = conversation if kind == "conversation" else f"conversation:{conversation}"
    found = served_hub.hub.services.resources
    monkeypatch.setattr(resources, "REMEMBERED_S", 0.0)
    assert (await found.find(kind, name, actor)).owner_id == actor.user_id
    await _remove(served_hub, conversation)
    with pytest.raises(Fault, match="not_found"):
        await found.find(kind, name, actor)


async def test_what_is_remembered_is_bounded(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "REMEMBERED", 1)
    actor, conversation = await _actor_and_conversation(served_hub)
    found = served_hub.hub.services.resources
    await found.find("conversation", conversation, actor)
    await found.find("channel", f"conversation:{conversation}", actor)
    assert len(found._known) == 1


async def test_a_thousand_who_come_back_at_once_ask_the_database_once(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    services = served_hub.hub.services
    services.resources.changed("conversation", conversation)  # forgotten
    asked = 0
    read = services.database.read

    def counted(scope: Scope) -> AbstractAsyncContextManager[AsyncSession]:
        nonlocal asked
        asked += 1
        return read(scope)

    monkeypatch.setattr(services.database, "read", counted)
    found = await asyncio.gather(
        *(services.resources.find("conversation", conversation, actor) for _ in range(1_000))
    )
    assert {one.owner_id for one in found} == {actor.user_id}
    assert asked == 1


async def test_one_who_goes_away_leaves_the_others_their_answer(served_hub: ServedHub) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    resources = served_hub.hub.services.resources
    resources.changed("conversation", conversation)
    first, second = (
        asyncio.create_task(resources.find("conversation", conversation, actor)) for _ in range(2)
    )
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).owner_id == actor.user_id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_owner_is_that_of_the_row(served_hub: ServedHub) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    async with served_hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(
            update(Conversation)
            .where(col(Conversation.id) == conversation)
            .values(tenant_id=actor.tenant_id, title="Sky")
        )
    found = await served_hub.hub.services.resources.find("conversation", conversation, actor)
    assert (found.tenant_id, found.owner_id) == (actor.tenant_id, actor.user_id)
    elsewhere = Actor(actor.user_id, "t_other", actor.session_id, actor.roles, actor.permissions)
    with pytest.raises(Fault, match="not_found"):
        await served_hub.hub.services.resources.find("conversation", conversation, elsewhere)


async def _make_members(hub: ServedHub) -> None:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(update(Membership).values(role_id="member"))
    await hub.hub.services.authority.changed("role", "owner")


@pytest.mark.parametrize("what", ["given away", "deleted"])
async def test_who_follows_what_another_node_gave_away_is_let_go_though_nothing_was_heard(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(resources, "LOOK_S", 0.1)
    async with serve_hub() as hub:
        ada, bob = [await hub.sign_up(f"{name}@hub.example") for name in ("ada", "bob")]
        async with open_socket(hub.ws_url, ada["access_token"]) as socket:
            conversation = (await socket.ask("conversation.create"))["id"]
            channel = f"conversation:{conversation}"
            await _make_members(hub)  # who owns a tenant may follow all of it
            await socket.ask("channel.subscribe", {"channel": channel})
            if what == "deleted":
                await _remove(hub, conversation)
            else:
                user_id = hub.hub.services.tokens.read(bob["access_token"]).user_id
                async with hub.hub.services.database.write(EVERY_TENANT) as session:
                    of = col(Conversation.id) == conversation
                    await session.exec(update(Conversation).where(of).values(owner_id=user_id))
            ended = await socket.notice("subscription.ended")
            assert ended == {"channel": channel, "reason": "not_found"}
