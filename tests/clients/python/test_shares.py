"""Sharing through the client: whom, as what, until when, and what the others see of it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hub_client import Conversation, Hub, SubscriptionEnded, connect
from hub_client.faults import NotFound, PermissionDenied

from tests.parts.hub import PASSWORD, ServedHub


@dataclass
class Pair:
    """Ada with a conversation, and Bob, her colleague."""

    ada: Hub
    bob: Hub
    mine: Conversation


@pytest.fixture
async def pair(served_hub: ServedHub) -> AsyncIterator[Pair]:
    session = await served_hub.sign_up("ada@hub.example")
    services = served_hub.hub.services
    tenant_id = services.tokens.read(session["access_token"]).tenant_id
    await services.accounts.create_user("bob@hub.example", PASSWORD, tenant_id, "member", "Bob")
    async with AsyncExitStack() as stack:
        ada, bob = [
            await stack.enter_async_context(
                connect(served_hub.url, email=f"{name}@hub.example", password=PASSWORD)
            )
            for name in ("ada", "bob")
        ]
        yield Pair(ada, bob, await ada.conversations.create(title="Sky", model="echo"))


async def test_a_conversation_is_shared_changed_and_taken_back(pair: Pair) -> None:
    mine = pair.mine
    assert mine.access == "owner"
    end = datetime.now(UTC) + timedelta(days=1)
    share = await mine.share("writer", email="bob@hub.example", expires_at=end)
    assert (share.user_id, share.name, share.access) == (pair.bob.session["user"], "Bob", "writer")
    assert (share.expires_at, share.granted_by) == (end, pair.ada.session["user"])
    (his,) = [conversation async for conversation in pair.bob.conversations.list(shared=True)]
    assert (his.id, his.title, his.access) == (mine.id, "Sky", "writer")
    assert str(await his.ask("May I?")) == "May I?"
    await mine.share("reader", user_id=share.user_id)
    with pytest.raises(PermissionDenied):
        await his.ask("Still?")
    (left,) = [each async for each in mine.shares()]
    assert (left.access, left.expires_at) == ("reader", None)
    async with his.subscribe() as events:
        await mine.unshare(share.user_id)
        with pytest.raises(SubscriptionEnded, match="not_found"):
            await anext(events)
    with pytest.raises(NotFound):
        await pair.bob.conversations.get(mine.id)
    assert [each async for each in mine.shares()] == []
    assert [each async for each in pair.bob.conversations.list(shared=True)] == []


async def test_a_conversation_is_shared_with_a_group_and_taken_back(pair: Pair) -> None:
    group = await pair.ada.call("group.create", name="Team")
    named = {"group_id": group["id"], "user_id": pair.bob.session["user"]}
    await pair.ada.call("group.add", **named)
    listed = [each async for each in pair.bob.conversations.groups()]
    assert [(each.id, each.name) for each in listed] == [(group["id"], "Team")]
    share = await pair.mine.share("writer", group_id=group["id"])
    assert (share.group_id, share.user_id, share.name) == (group["id"], None, "Team")
    (his,) = [conversation async for conversation in pair.bob.conversations.list(shared=True)]
    assert (his.id, his.access) == (pair.mine.id, "writer")
    assert [each async for each in pair.mine.shares()] == [share]
    await pair.mine.unshare(group_id=group["id"])
    with pytest.raises(NotFound):
        await pair.bob.conversations.get(pair.mine.id)


async def test_an_end_without_a_zone_and_a_stranger_are_refused(pair: Pair) -> None:
    naive = datetime(2030, 1, 1)
    with pytest.raises(ValueError, match="time zone"):
        await pair.mine.share("reader", email="bob@hub.example", expires_at=naive)
    with pytest.raises(NotFound):
        await pair.mine.share("reader", email="nobody@hub.example")
