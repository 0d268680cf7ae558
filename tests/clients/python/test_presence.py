"""Presence through the client: who is there, who types, and what a reconnect changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from hub_client import Conversation, Hub, Presence, connect
from hub_client.faults import Conflict, NotFound
from hub_client.retry import Backoff

from hub.events import roster
from tests.parts.hub import PASSWORD, ServedHub


@dataclass
class Pair:
    """Ada, whose conversation it is, and Bob, who may follow it."""

    served: ServedHub
    ada: Hub
    bob: Hub
    mine: Conversation
    his: Conversation


@pytest.fixture
async def pair(served_hub: ServedHub) -> AsyncIterator[Pair]:
    session = await served_hub.sign_up("ada@hub.example")
    services = served_hub.hub.services
    tenant_id = services.tokens.read(session["access_token"]).tenant_id
    await services.accounts.create_user("bob@hub.example", PASSWORD, tenant_id, "admin", "Bob")
    async with AsyncExitStack() as stack:
        ada, bob = [
            await stack.enter_async_context(
                connect(
                    served_hub.url,
                    email=f"{name}@hub.example",
                    password=PASSWORD,
                    backoff=Backoff(lambda: 0.05),
                )
            )
            for name in ("ada", "bob")
        ]
        mine = await ada.conversations.create(model="echo")
        yield Pair(served_hub, ada, bob, mine, await bob.conversations.get(mine.id))


async def told(presence: Presence, changes: int) -> list[str]:
    """The kinds of so many changes."""
    async with asyncio.timeout(10):
        return [(await anext(presence)).kind for _ in range(changes)]


async def test_who_comes_and_types_and_leaves_is_told(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "LINGER_S", 0.0)
    notices: list[object] = []
    pair.ada.on("presence.joined", notices.append)
    async with pair.mine.presence() as presence:
        assert [who.user_id for who in presence.present] == [pair.ada.session["user"]]
        async with pair.his.presence() as theirs:
            assert len(theirs.present) == 2
            assert await told(presence, 1) == ["joined"]
            await pair.his.typing()
            assert await told(presence, 1) == ["typing"]
            assert [who.name for who in presence.typing] == ["Bob"]
            await pair.his.typing(False)
            assert await told(presence, 1) == ["typing"]
            assert presence.typing == []
            assert [who.name for who in await pair.mine.present()] == [None, "Bob"]
        assert await told(presence, 1) == ["left"]
        assert len(presence.present) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(presence)
    with pytest.raises(Conflict):
        await pair.his.typing()
    (notice,) = notices
    assert notice.params["name"] == "Bob"  # type: ignore[attr-defined]


async def test_presence_and_subscribers_share_a_subscription_and_no_event_is_lost(
    pair: Pair,
) -> None:
    async with pair.mine.subscribe() as events:
        answer = asyncio.create_task(pair.mine.ask("one two three four five"))
        for _ in range(4):  # on and off in the middle of a stream
            async with pair.mine.presence():
                await pair.mine.present()
        await answer
        seen = []
        async with asyncio.timeout(10):
            async for event in events:
                seen.append(event)
                if event.terminal:
                    break
    assert [event.seq - event.span for event in seen] == [0, *(event.seq for event in seen[:-1])]
    assert "".join(event.delta for event in seen) == (await answer).text


async def test_after_a_reconnect_the_differences_are_told(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "LINGER_S", 0.0)
    async with pair.mine.presence() as presence:
        async with pair.his.presence():
            assert await told(presence, 1) == ["joined"]
            lost = asyncio.Event()
            pair.ada.on("disconnected", lambda notice: lost.set())
            mine = pair.ada.session["connection_id"]
            connections = pair.served.hub.socket.connections
            (connection,) = [each for each in connections._all if each.id == mine]
            connection.told(0.0)
            connection.leave()
            await asyncio.wait_for(lost.wait(), 10)
        assert await told(presence, 1) == ["left"]
        assert [who.user_id for who in presence.present] == [pair.ada.session["user"]]


async def test_a_presence_that_is_refused_says_why(pair: Pair) -> None:
    async with connect(pair.served.url, token=(await _stranger(pair.served))) as eve:
        theirs = Conversation(eve._connection, pair.mine.id, {})
        with pytest.raises(NotFound):
            async with theirs.presence():
                raise AssertionError("it was let in")
        with pytest.raises(NotFound):
            await theirs.present()


async def _stranger(hub: ServedHub) -> str:
    return str((await hub.sign_up("eve@hub.example"))["access_token"])
