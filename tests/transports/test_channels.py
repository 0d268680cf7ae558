"""Channels on a WebSocket: subscribe, leave, subscribe again (contract 4)."""

import asyncio
from typing import Any

import httpx
import pytest

from hub.ids import new_id
from hub.transports import subscriptions
from tests.agents.agui import told_alike
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _conversation(socket: Socket, model: str = "echo") -> tuple[str, str]:
    """A new conversation: its id and its channel."""
    made = await socket.ask("conversation.create", {"model": model})
    return made["id"], f"conversation:{made['id']}"


async def _send(socket: Socket, conversation: str, content: str) -> None:
    await socket.ask(
        "message.send",
        {"conversation_id": conversation, "client_message_id": content, "content": content},
    )


async def _run(socket: Socket) -> list[dict[str, Any]]:
    """The events up to the end of a run."""
    events = [await socket.event()]
    while events[-1]["event"]["type"] not in ("RUN_FINISHED", "RUN_ERROR"):
        events.append(await socket.event())
    return events


def _numbers(events: list[dict[str, Any]]) -> list[int]:
    """The positions that the events stand for, spans included."""
    return [
        seq
        for event in events
        for seq in range(event["seq"] - event.get("span", 1) + 1, event["seq"] + 1)
    ]


async def test_a_subscription_from_now_begins_with_what_comes(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation, channel = await _conversation(socket)
        at = await socket.ask("channel.subscribe", {"channel": channel})
        assert (at["seq"], at["recovered"]) == (0, True)
        assert "snapshot" not in at
        await _send(socket, conversation, "one two three")
        events = await _run(socket)
        assert {event["channel"] for event in events} == {channel}
        assert {event["epoch"] for event in events} == {at["epoch"]}
        assert _numbers(events) == list(range(1, events[-1]["seq"] + 1))


async def test_the_reply_comes_before_the_events_that_were_missed(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation, channel = await _conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        await _send(socket, conversation, "one two three")
        whole = await _run(socket)
    async with open_socket(hub.ws_url, token) as late:
        await late.notice("session.ready")
        frames = []
        await late.send(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "channel.subscribe",
                "params": {"channel": channel, "since": "start"},
            }
        )
        frames = [await late.heard(lambda frame: True)]
        assert frames[0]["result"]["seq"] == 0
        while frames[-1].get("params", {}).get("seq") != whole[-1]["seq"]:
            frames.append(await late.heard(lambda frame: True))
        assert told_alike(frame["params"] for frame in frames[1:]) == told_alike(whole)


async def test_a_subscription_goes_on_after_a_position(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation, channel = await _conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        await _send(socket, conversation, "one two three")
        whole = await _run(socket)
        await socket.ask("channel.unsubscribe", {"channel": channel})
        since = {"epoch": whole[1]["epoch"], "seq": whole[1]["seq"]}
        at = await socket.ask("channel.subscribe", {"channel": channel, "since": since})
        assert (at["epoch"], at["seq"], at["recovered"]) == (since["epoch"], since["seq"], True)
        assert told_alike(await _run(socket)) == told_alike(whole[2:])


@pytest.mark.parametrize("since", [{"epoch": "elsewhere", "seq": 1}, {"epoch": None, "seq": 999}])
async def test_a_position_the_log_does_not_hold_gives_a_snapshot_and_goes_on(
    hub: ServedHub, token: str, since: dict[str, Any]
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation, channel = await _conversation(socket)
        now = await socket.ask("channel.subscribe", {"channel": channel})
        await _send(socket, conversation, "first")
        last = (await _run(socket))[-1]["seq"]
        await socket.ask("channel.unsubscribe", {"channel": channel})
        since = {**since, "epoch": since["epoch"] or now["epoch"]}
        at = await socket.ask("channel.subscribe", {"channel": channel, "since": since})
        assert (at["recovered"], at["epoch"], at["seq"]) == (False, now["epoch"], last)
        assert at["snapshot"]["type"] == "MESSAGES_SNAPSHOT"
        assert [m["content"] for m in at["snapshot"]["messages"]] == ["first", "first"]
        await _send(socket, conversation, "second")
        assert (await _run(socket))[0]["seq"] == last + 1


async def test_who_has_left_hears_no_more(hub: ServedHub, token: str) -> None:
    async with (
        open_socket(hub.ws_url, token) as leaver,
        open_socket(hub.ws_url, token) as stayer,
    ):
        conversation, channel = await _conversation(leaver)
        for socket in (leaver, stayer):
            await socket.ask("channel.subscribe", {"channel": channel})
        assert await leaver.ask("channel.unsubscribe", {"channel": channel}) == {}
        await _send(stayer, conversation, "one two")
        await _run(stayer)
        await leaver.ask("session.ping")
        assert leaver.left("event") == []


async def test_subscribing_twice_is_a_conflict_and_the_first_goes_on(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation, channel = await _conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        with pytest.raises(Refused) as refusal:
            await socket.ask("channel.subscribe", {"channel": channel, "since": "start"})
        assert refusal.value.reason == "conflict"
        await _send(socket, conversation, "one two")
        events = await _run(socket)
        assert _numbers(events) == list(range(1, events[-1]["seq"] + 1))


async def test_leaving_what_is_not_followed_is_fine(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        _, channel = await _conversation(socket)
        assert await socket.ask("channel.unsubscribe", {"channel": channel}) == {}


async def test_leaving_and_subscribing_without_waiting_keeps_the_last_word(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        conversation, channel = await _conversation(socket)
        named = {"channel": channel}
        begun = [await socket.begin("channel.subscribe", named)]
        for _ in range(5):
            begun.append(await socket.begin("channel.unsubscribe", named))
            begun.append(await socket.begin("channel.subscribe", named))
        for one in begun:
            await socket.result(one)
        await _send(socket, conversation, "one two")
        events = await _run(socket)
        assert _numbers(events) == list(range(1, events[-1]["seq"] + 1))


async def test_ones_own_channel_can_be_followed_and_another_users_not(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        me = (await socket.ask("session.info"))["user_id"]
        await socket.ask("channel.subscribe", {"channel": f"user:{me}"})
        stranger = await hub.sign_up(f"stranger-of-{me.lower()}@hub.example")
        async with open_socket(hub.ws_url, stranger["access_token"]) as other:
            for channel in (f"user:{me}", f"user:{new_id('u')}"):
                with pytest.raises(Refused) as refusal:
                    await other.ask("channel.subscribe", {"channel": channel})
                assert refusal.value.reason == "not_found"


async def test_a_connection_follows_so_many_channels_and_no_more(
    hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_SUBSCRIPTIONS", 2)
    async with open_socket(hub.ws_url, token) as socket:
        channels = [(await _conversation(socket))[1] for _ in range(3)]
        for channel in channels[:2]:
            await socket.ask("channel.subscribe", {"channel": channel})
        with pytest.raises(Refused) as refusal:
            await socket.ask("channel.subscribe", {"channel": channels[2]})
        assert refusal.value.reason == "rate_limited"
        await socket.ask("channel.unsubscribe", {"channel": channels[0]})
        await socket.ask("channel.subscribe", {"channel": channels[2]})


@pytest.mark.parametrize(
    "since",
    [7, "yesterday", {"epoch": "e"}, {"epoch": "e", "seq": -1}, {"epoch": "e", "seq": 2**53}],
)
async def test_a_position_of_another_form_is_refused(
    hub: ServedHub, token: str, since: object
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        _, channel = await _conversation(socket)
        with pytest.raises(Refused) as refusal:
            await socket.ask("channel.subscribe", {"channel": channel, "since": since})
        assert refusal.value.reason == "invalid_params"
        assert refusal.value.message.startswith("since")


async def test_who_follows_a_conversation_that_is_deleted_is_told_so_on_every_node(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> None:
    async with (
        serve_hub(HUB_REDIS_URL=redis_server.url) as one,
        serve_hub(HUB_REDIS_URL=redis_server.url) as other,
    ):
        token = (await one.sign_up("ada@hub.example"))["access_token"]
        async with (
            open_socket(one.ws_url, token) as here,
            open_socket(other.ws_url, token) as there,
            httpx.AsyncClient(base_url=other.url, trust_env=False) as client,
        ):
            kept = f"conversation:{(await here.ask('conversation.create'))['id']}"
            conversation = (await here.ask("conversation.create"))["id"]
            channel = f"conversation:{conversation}"
            for socket in (here, there):
                await socket.ask("channel.subscribe", {"channel": kept})
                await socket.ask("channel.subscribe", {"channel": channel})
            headers = {"Authorization": f"Bearer {token}"}
            path = f"/v1/channels/{channel}/events"
            async with client.stream("GET", path, headers=headers) as stream:
                await here.ask("conversation.delete", {"conversation_id": conversation})
                told = {"channel": channel, "reason": "not_found"}
                for socket in (here, there):
                    assert await socket.notice("subscription.ended") == told
                    await socket.ask("channel.unsubscribe", {"channel": kept})
                async with asyncio.timeout(3):
                    text = (await stream.aread()).decode()
                assert text.endswith('event: ended\ndata: {"reason":"not_found"}\n\n')
