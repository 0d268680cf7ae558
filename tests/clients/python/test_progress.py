"""A bot on the SDK: its session comes back, and each event is dealt with once."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest
from hub_client import Conversation, Event, Hub, Subscription, connect, progress
from hub_client.faults import ConnectionClosed, SubscriptionEnded
from hub_client.retry import Backoff

from hub.protocol.session import Event as Happened
from tests.parts.hub import ServedHub

QUICKLY = Backoff(draw=lambda: 0.02)


class Bots:
    """One bot, life after life, and a person that talks to it."""

    def __init__(self, served: ServedHub, token: str) -> None:
        self.served = served
        self.token = token

    def bot(self, key: str | None = "bot") -> AbstractAsyncContextManager[Hub]:
        return connect(self.served.url, token=self.token, session_key=key, backoff=QUICKLY)

    async def say(self, conversation_id: str, *texts: str) -> None:
        async with connect(self.served.url, token=self.token) as person:
            conversation = await person.conversations.get(conversation_id)
            for text in texts:
                await conversation.ask(text, timeout=20)

    def cut(self) -> None:
        """End every connection of the hub, as if no pong had come."""
        for connection in list(self.served.hub.socket.connections._all):
            connection.on(Happened.NO_PONG)


@pytest.fixture
async def bots(served_hub: ServedHub) -> Bots:
    session = await served_hub.sign_up("bot@hub.example")
    return Bots(served_hub, session["access_token"])


async def finished(events: Subscription, runs: int = 1) -> list[Event]:
    """What comes up to so many ends of runs."""
    heard: list[Event] = []
    async with asyncio.timeout(15):
        async for event in events:
            heard.append(event)
            runs -= event.terminal
            if not runs:
                return heard
    raise AssertionError("the events ended")


async def begun(bots: Bots) -> str:
    """A session that follows a conversation and has dealt with its first run."""
    async with bots.bot() as hub:
        assert hub.resumed == ()
        conversation = await hub.conversations.create(model="echo")
        async with conversation.subscribe() as events:
            await conversation.ask("first")
            await finished(events)
    return conversation.id


async def test_a_bot_goes_on_where_it_was(bots: Bots) -> None:
    id = await begun(bots)
    await bots.say(id, "second", "third")
    async with bots.bot() as hub:
        assert hub.session["resumed"] is True
        assert list(hub.resumed) == [f"conversation:{id}"]
        conversation = await hub.conversations.get(id)
        async with conversation.subscribe() as events:
            assert not hub.resumed
            heard = await finished(events, 2)
    assert "".join(event.delta for event in heard) == "secondthird"
    await bots.say(id, "fourth")
    async with bots.bot() as hub, hub.subscribe(f"conversation:{id}") as events:
        heard = await finished(events)
    assert "".join(event.delta for event in heard) == "fourth"


async def test_what_a_bot_failed_to_deal_with_comes_again(bots: Bots) -> None:
    id = await begun(bots)
    await bots.say(id, "second")
    channel = f"conversation:{id}"
    seen: list[Event] = []

    async def fail() -> None:
        async with bots.bot() as hub, hub.subscribe(channel) as events:
            async for event in events:
                seen.append(event)
                if event.type == "TEXT_MESSAGE_CONTENT":
                    raise LookupError

    with pytest.raises(LookupError):
        await fail()
    async with bots.bot() as hub, hub.subscribe(channel) as events:
        first = await anext(events)
    assert first.position == seen[-1].position


async def test_a_bot_that_is_cut_off_sees_nothing_twice(bots: Bots) -> None:
    """What it has seen and not acknowledged comes again over the wire, and not to its author."""
    id = await begun(bots)
    async with bots.bot() as hub:
        conversation = await hub.conversations.get(id)
        async with conversation.subscribe() as events:
            seen: list[int] = []
            for text in ("second", "third", "fourth"):
                await bots.say(id, text)
                seen += [n for e in await finished(events) for n in range(e.seq - e.span, e.seq)]
                bots.cut()
            assert seen == list(range(seen[0], seen[0] + len(seen)))


async def test_the_newer_bot_takes_over_and_the_older_ends(bots: Bots) -> None:
    id = await begun(bots)
    async with bots.bot() as older, older.subscribe(f"conversation:{id}") as events:
        waiting = asyncio.ensure_future(anext(events))
        async with bots.bot() as newer:
            with pytest.raises(ConnectionClosed) as ended:
                async with asyncio.timeout(10):
                    await waiting
            assert (ended.value.code, ended.value.reconnect) == (4505, False)
            assert newer.resumed == (f"conversation:{id}",)


async def test_what_is_forgotten_does_not_come_back(bots: Bots) -> None:
    id = await begun(bots)
    async with bots.bot() as hub:
        await hub.subscribe(f"conversation:{id}").forget()
        bots.cut()
        await hub.ping()
        assert hub.resumed == ()
    async with bots.bot() as hub:
        assert hub.resumed == ()


async def test_the_conversations_of_its_own_questions_are_not_remembered(bots: Bots) -> None:
    async with bots.bot() as hub:
        conversation = await hub.conversations.create(model="echo")
        assert (await conversation.ask("hello")).text == "hello"
    async with bots.bot() as hub:
        assert hub.resumed == ()


async def test_a_subscription_beside_a_question_is_remembered_all_the_same(bots: Bots) -> None:
    async with bots.bot() as hub:
        conversation = await hub.conversations.create(model="echo")
        stream = await conversation.send("hello")
        async with conversation.subscribe() as events:
            async for _ in stream:
                pass
            await events.acknowledge()
    async with bots.bot() as hub:
        assert hub.resumed == (f"conversation:{conversation.id}",)


async def test_only_the_author_s_word_counts_where_that_was_asked(bots: Bots) -> None:
    id = await begun(bots)
    await bots.say(id, "second")
    channel = f"conversation:{id}"
    async with bots.bot() as hub, hub.subscribe(channel, acknowledge=False) as events:
        first = await anext(events)
        await events.acknowledge()
        await finished(events)
    async with bots.bot() as hub, hub.subscribe(channel) as events:
        again = await anext(events)
    assert again.seq - again.span == first.seq


async def test_two_readers_of_a_channel_acknowledge_what_both_have_dealt_with(bots: Bots) -> None:
    id = await begun(bots)
    await bots.say(id, "second")
    channel = f"conversation:{id}"
    async with (
        bots.bot() as hub,
        hub.subscribe(channel) as ahead,
        hub.subscribe(channel, ahead.position) as behind,
    ):
        await finished(ahead)
        first = await anext(behind)
        await ahead.acknowledge()
        await behind.acknowledge()
        at = hub._connection.progress
        assert at is not None
        assert at.acknowledged[channel] == first.position


async def test_what_nobody_claims_for_long_is_read_from_the_log_when_it_is(
    bots: Bots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "UNCLAIMED", 2)
    id = await begun(bots)
    await bots.say(id, "second")
    async with bots.bot() as hub:
        async with asyncio.timeout(10):
            while hub.resumed:  # given up when it is full
                await hub.ping()
        async with hub.subscribe(f"conversation:{id}") as events:
            heard = await finished(events)
    assert "".join(event.delta for event in heard) == "second"


async def test_a_channel_that_is_gone_says_so_to_who_subscribes_it(bots: Bots) -> None:
    id = await begun(bots)
    async with connect(bots.served.url, token=bots.token) as person:
        await (await person.conversations.get(id)).delete()
    async with bots.bot() as hub:
        with pytest.raises(SubscriptionEnded):
            async with hub.subscribe(f"conversation:{id}") as events:
                await anext(events)
    async with bots.bot() as hub:
        assert hub.resumed == ()


async def test_without_a_key_there_is_nothing_to_acknowledge(bots: Bots) -> None:
    async with bots.bot(None) as hub:
        conversation: Conversation = await hub.conversations.create()
        async with conversation.subscribe() as events:
            with pytest.raises(RuntimeError, match="session_key"):
                await events.acknowledge()
    with pytest.raises(ValueError, match="visible"):
        connect(bots.served.url, token=bots.token, session_key="two words")
