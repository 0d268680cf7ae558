"""Persistent sessions on a WebSocket: what a bot followed comes back, from where it was (contract 1
and 4).
"""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlmodel import col, select

from hub.protocol import limits
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ClientSession, Membership, Role
from hub.transports import persistent
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess
from tests.transports.bot import acknowledge, bot, conversation, history, run, send, stands_for

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _begun(hub: ServedHub, token: str) -> tuple[str, str, list[dict[str, Any]]]:
    """A session that follows a conversation with one run in it, and has acknowledged nothing."""
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("session.ready"))["resumed"] is False
        made, channel = await conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        await send(socket, made, "one two three")
        return made, channel, await run(socket)


async def test_what_was_followed_comes_back_after_the_acknowledged_event(
    hub: ServedHub, token: str
) -> None:
    made, channel, events = await _begun(hub, token)
    async with bot(hub.ws_url, token) as socket:
        start = {"channel": channel, "epoch": events[0]["epoch"], "seq": 0}
        ready = await socket.notice("session.ready")
        assert (ready["resumed"], ready["channels"]) == (True, [start])
        resumed = await socket.notice("subscription.resumed")
        assert resumed == {**start, "recovered": True}
        again = await run(socket)
        assert stands_for(again) == stands_for(events), "nothing was acknowledged: all of it again"
        answer = await acknowledge(socket, events[2])
        assert answer == {"channels": [{**start, "seq": events[2]["seq"]}]}
    async with open_socket(hub.ws_url, token) as other:
        await send(other, made, "said while the bot was away")
        await other.ask("channel.subscribe", {"channel": channel, "since": "start"})
        whole = await run(other) + await run(other)
    async with bot(hub.ws_url, token) as socket:
        resumed = await socket.notice("subscription.resumed")
        assert (resumed["seq"], resumed["recovered"]) == (events[2]["seq"], True)
        missed = await run(socket) + await run(socket)
        numbers, text = stands_for(missed)
        assert numbers == list(range(events[2]["seq"] + 1, whole[-1]["seq"] + 1))
        done = stands_for(events[:3])[1]
        assert done + text == stands_for(whole)[1]
        await send(socket, made, "live")
        assert (await run(socket))[0]["seq"] == whole[-1]["seq"] + 1


async def test_a_session_is_named_in_the_first_frame_as_well(hub: ServedHub, token: str) -> None:
    _, channel, events = await _begun(hub, token)
    async with open_socket(hub.ws_url) as socket:
        await socket.ask("session.authenticate", {"token": token, "session_key": "bot-7"})
        assert (await socket.notice("session.ready"))["resumed"] is True
        assert (await socket.notice("subscription.resumed"))["channel"] == channel
        assert stands_for(await run(socket)) == stands_for(events)


async def test_an_acknowledgement_is_durable_once_and_never_goes_back(
    hub: ServedHub, token: str
) -> None:
    _, _, events = await _begun(hub, token)
    last, first = events[-1], events[0]
    async with bot(hub.ws_url, token) as socket:
        await socket.notice("subscription.resumed")
        for event in (last, first):
            (kept,) = (await acknowledge(socket, event))["channels"]
            assert kept["seq"] == last["seq"]
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("subscription.resumed"))["seq"] == last["seq"]
        await socket.ask("session.ping")
        assert socket.left("event") == []


async def test_what_cannot_be_acknowledged_is_said_and_holds_up_nothing_else(
    hub: ServedHub, token: str
) -> None:
    _, channel, events = await _begun(hub, token)
    async with bot(hub.ws_url, token) as socket:
        _, unknown = await conversation(socket)
        _, other = await conversation(socket)
        at = await socket.ask("channel.subscribe", {"channel": other})
        for wrong, reason in (
            ({**at, "epoch": "elsewhere"}, "resume_gap"),
            ({**at, "epoch": events[0]["epoch"]}, "resume_gap"),
            ({**at, "seq": at["seq"] + 1}, "invalid_params"),
            ({**at, "channel": unknown}, "not_found"),
            ({**at, "channel": "audit"}, "not_found"),
        ):
            answer = await acknowledge(socket, wrong, events[1])
            assert [kept["channel"] for kept in answer["channels"]] == [channel]
            (refused,) = answer["refused"]
            assert (refused["channel"], refused["reason"]) == (wrong["channel"], reason)
            assert refused["message"]


async def test_without_a_session_nothing_is_acknowledged(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        _, channel = await conversation(socket)
        at = await socket.ask("channel.subscribe", {"channel": channel})
        with pytest.raises(Refused, match="session") as refusal:
            await acknowledge(socket, at)
        assert refusal.value.reason == "conflict"
        ready = await socket.notice("session.ready")
        assert (ready["resumed"], "channels" in ready) == (False, False)


async def test_what_was_left_does_not_come_back_unless_that_is_asked(
    hub: ServedHub, token: str
) -> None:
    async with bot(hub.ws_url, token) as socket:
        left, kept, passing = [(await conversation(socket))[1] for _ in range(3)]
        for channel in (left, kept):
            await socket.ask("channel.subscribe", {"channel": channel})
        await socket.ask("channel.subscribe", {"channel": passing, "remember": False})
        await socket.ask("channel.unsubscribe", {"channel": left})
        await socket.ask("channel.unsubscribe", {"channel": kept, "remember": True})
    async with bot(hub.ws_url, token) as socket:
        ready = await socket.notice("session.ready")
        assert [at["channel"] for at in ready["channels"]] == [kept]
        assert (await socket.notice("subscription.resumed"))["channel"] == kept


async def test_a_channel_that_is_remembered_stays_where_it_was_acknowledged(
    hub: ServedHub, token: str
) -> None:
    """Who subscribes it again from further on has only read ahead."""
    _, channel, events = await _begun(hub, token)
    async with bot(hub.ws_url, token) as socket:
        await socket.notice("subscription.resumed")
        await acknowledge(socket, events[1])
        await socket.ask("channel.unsubscribe", {"channel": channel, "remember": True})
        since = {key: events[3][key] for key in ("epoch", "seq")}
        at = await socket.ask("channel.subscribe", {"channel": channel, "since": since})
        assert at["seq"] == events[3]["seq"]
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("subscription.resumed"))["seq"] == events[1]["seq"]


async def test_a_position_that_the_log_does_not_hold_comes_back_as_a_snapshot_until_acknowledged(
    hub: ServedHub, token: str
) -> None:
    _, channel, events = await _begun(hub, token)
    lost = json.dumps({channel: ["elsewhere", 3]})
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        rows = update(ClientSession).where(col(ClientSession.channels).contains(channel))
        await session.exec(rows.values(channels=lost))
    for _ in range(2):
        async with bot(hub.ws_url, token) as socket:
            at = await socket.notice("subscription.resumed")
            assert (at["recovered"], at["seq"]) == (False, events[-1]["seq"])
            assert at["epoch"] == events[0]["epoch"]
            assert [m["content"] for m in at["snapshot"]["messages"]] == ["one two three"] * 2
    async with bot(hub.ws_url, token) as socket:
        await acknowledge(socket, await socket.notice("subscription.resumed"))
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("subscription.resumed"))["recovered"] is True


async def test_sessions_of_two_users_never_meet(hub: ServedHub, token: str) -> None:
    _, channel, _ = await _begun(hub, token)
    stranger = await hub.sign_up(f"stranger-{channel[-8:].lower()}@hub.example")
    async with bot(hub.ws_url, token) as mine:
        await mine.notice("subscription.resumed")
        async with bot(hub.ws_url, stranger["access_token"]) as theirs:
            ready = await theirs.notice("session.ready")
            assert (ready["resumed"], ready["channels"]) == (False, [])
            await theirs.ask("session.forget", {"session_key": "bot-7"})
            await mine.ask("session.ping")
    async with bot(hub.ws_url, token) as mine:
        assert (await mine.notice("session.ready"))["resumed"] is True


async def test_the_newer_connection_takes_the_session_over_on_any_node(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> None:
    async with (
        serve_hub(HUB_REDIS_URL=redis_server.url) as one,
        serve_hub(HUB_REDIS_URL=redis_server.url) as other,
    ):
        token = (await one.sign_up("ada@hub.example"))["access_token"]
        _, _, events = await _begun(one, token)
        async with bot(one.ws_url, token) as older:
            await older.notice("subscription.resumed")
            for hub in (one, other):
                async with bot(hub.ws_url, token) as newer:
                    await newer.notice("subscription.resumed")
                    code, reason = await older.closed()
                    assert (code, json.loads(reason)) == (4505, {"reason": "session_replaced"})
                    assert stands_for(await run(newer)) == stands_for(events)
                    older = newer  # noqa: PLW2901
                    async with bot(other.ws_url, token) as newest:
                        assert (await newest.notice("session.ready"))["resumed"]
                        assert (await newer.closed())[0] == 4505


async def test_a_take_over_that_was_not_heard_of_is_noticed_at_the_next_acknowledgement(
    hub: ServedHub, token: str
) -> None:
    _, channel, events = await _begun(hub, token)
    database = hub.hub.services.database
    row = select(ClientSession).where(col(ClientSession.channels).contains(channel))
    async with bot(hub.ws_url, token) as older:
        await older.notice("subscription.resumed")
        # As another node does whose message is lost.
        async with database.write(EVERY_TENANT) as session:
            (await session.exec(row)).one().turn += 1
        with pytest.raises((Refused, ConnectionError)):
            await acknowledge(older, events[-1])
        assert (await older.closed())[0] == 4505
    async with database.read(EVERY_TENANT) as session:
        kept = json.loads((await session.exec(row)).one().channels)
    assert kept == {channel: [events[0]["epoch"], 0]}


async def test_a_session_that_is_forgotten_begins_anew(hub: ServedHub, token: str) -> None:
    await _begun(hub, token)
    async with (
        bot(hub.ws_url, token) as holder,
        httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
    ):
        await holder.notice("subscription.resumed")
        answer = await client.post(
            "/v1/sessions/forget",
            json={"session_key": "bot-7"},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 200
        assert (await holder.closed())[0] == 4505
    async with bot(hub.ws_url, token) as socket:
        ready = await socket.notice("session.ready")
        assert (ready["resumed"], ready["channels"]) == (False, [])
        await socket.ask("session.forget", {"session_key": "bot-7"})
        _, channel = await conversation(socket)
        at = await socket.ask("channel.subscribe", {"channel": channel})
        with pytest.raises(Refused) as refusal:
            await acknowledge(socket, at)
        assert refusal.value.reason == "conflict", "it goes on without one"


async def test_a_channel_that_one_may_follow_no_longer_is_ended_and_forgotten(
    hub: ServedHub, token: str
) -> None:
    _, channel, _ = await _begun(hub, token)
    async with open_socket(hub.ws_url, token) as socket:
        info = await socket.ask("session.info")
    authority, database = hub.hub.services.authority, hub.hub.services.database
    mine = col(Membership.user_id) == info["user_id"]
    async with database.write(EVERY_TENANT) as session:
        nothing = f"nothing-{info['user_id'].lower()}"
        session.add(Role(id=nothing, tenant_id=info["tenant_id"], name="nothing", rank=1))
        await session.flush()
        await session.exec(update(Membership).where(mine).values(role_id=nothing))
    await authority.changed("user", info["user_id"])
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("session.ready"))["resumed"] is True
        ended = await socket.notice("subscription.ended")
        assert ended == {"channel": channel, "reason": "permission_denied"}
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(Membership).where(mine).values(role_id="owner"))
    await authority.changed("user", info["user_id"])
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("session.ready"))["channels"] == []
        await socket.ask("session.ping")
        assert socket.left("event") == []


async def test_a_channel_that_is_gone_while_it_is_followed_is_forgotten(
    hub: ServedHub, token: str
) -> None:
    made, channel, _ = await _begun(hub, token)
    async with bot(hub.ws_url, token) as socket:
        await socket.notice("subscription.resumed")
        await socket.ask("conversation.delete", {"conversation_id": made})
        assert (await socket.notice("subscription.ended"))["channel"] == channel
        _, another = await conversation(socket)
        await socket.ask("channel.subscribe", {"channel": another})  # written after the other
    async with bot(hub.ws_url, token) as socket:
        ready = await socket.notice("session.ready")
        assert [at["channel"] for at in ready["channels"]] == [another]


async def test_a_user_has_so_many_sessions_and_no_more(
    hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.hub.services.client_sessions, "_most", 2)
    for key in ("one", "two"):
        async with bot(hub.ws_url, token, key) as socket:
            await socket.notice("session.ready")
    async with bot(hub.ws_url, token, "three") as socket:
        code, reason = await socket.closed()
        assert (code, json.loads(reason)["reason"]) == (4504, "too_many_connections")
    async with open_socket(hub.ws_url) as socket:
        with pytest.raises(Refused, match=r"session\.forget") as refusal:
            await socket.ask("session.authenticate", {"token": token, "session_key": "three"})
        assert refusal.value.reason == "rate_limited"
    async with bot(hub.ws_url, token, "two") as socket:
        assert (await socket.notice("session.ready"))["resumed"] is True
        await socket.ask("session.forget", {"session_key": "one"})
    async with bot(hub.ws_url, token, "three") as socket:
        assert (await socket.notice("session.ready"))["resumed"] is False


async def test_a_session_remembers_so_many_channels_and_no_more(
    hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistent, "MAX_SUBSCRIPTIONS", 1)
    async with bot(hub.ws_url, token) as socket:
        channels = [(await conversation(socket))[1] for _ in range(2)]
        await socket.ask("channel.subscribe", {"channel": channels[0]})
        with pytest.raises(Refused, match="remembers") as refusal:
            await socket.ask("channel.subscribe", {"channel": channels[1]})
        assert refusal.value.reason == "rate_limited"
        await socket.ask("channel.subscribe", {"channel": channels[1], "remember": False})


@pytest.mark.parametrize("key", ["", "with a space", "x" * 129, "café"])
async def test_a_key_of_another_form_is_refused(hub: ServedHub, token: str, key: str) -> None:
    async with open_socket(hub.ws_url) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.authenticate", {"token": token, "session_key": key})
        assert refusal.value.reason == "invalid_params"
        assert refusal.value.message.startswith("session_key")
        await socket.ask("session.authenticate", {"token": token, "session_key": "x" * 128})


@pytest.mark.parametrize(
    ("key", "shown", "why"),
    [("with a space", True, "visible characters"), ("bot-7", False, "Authorization")],
)
async def test_a_header_that_cannot_be_is_refused_before_the_upgrade(
    hub: ServedHub, token: str, key: str, shown: bool, why: str
) -> None:
    headers = {
        "Hub-Session-Key": key,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": limits.SUBPROTOCOL,
    }
    if shown:
        headers["Authorization"] = f"Bearer {token}"
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        answer = await client.get("/ws", headers=headers)
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


async def test_a_connection_stays_with_its_session(hub: ServedHub, token: str) -> None:
    async with bot(hub.ws_url, token) as socket:
        await socket.notice("session.ready")
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.refresh", {"token": token, "session_key": "another"})
        assert refusal.value.reason == "invalid_params"
        await socket.ask("session.refresh", {"token": token})
        _, channel = await conversation(socket)
        await acknowledge(socket, await socket.ask("channel.subscribe", {"channel": channel}))


async def test_many_channels_come_back_each_with_its_own_events(hub: ServedHub, token: str) -> None:
    async with bot(hub.ws_url, token) as socket:
        made = [await conversation(socket) for _ in range(25)]
        for number, (id, channel) in enumerate(made):
            await socket.ask("channel.subscribe", {"channel": channel})
            await send(socket, id, f"number {number}")
        for _ in made:
            await socket.event("RUN_FINISHED")
    async with bot(hub.ws_url, token) as socket:
        back = [(await socket.notice("subscription.resumed"))["channel"] for _ in made]
        assert sorted(back) == sorted(channel for _, channel in made)
        ends = {(await socket.event("RUN_FINISHED"))["channel"] for _ in made}
        assert ends == set(back)
        for _, channel in made[:5]:
            log = await history(socket, channel)
            heard = [event for event in socket.left("event") if event["channel"] == channel]
            assert stands_for(heard) == stands_for(log[:-1])


async def test_who_leaves_a_channel_while_it_comes_back_has_left_it(
    hub: ServedHub, token: str
) -> None:
    async with bot(hub.ws_url, token) as socket:
        channels = [(await conversation(socket))[1] for _ in range(30)]
        for channel in channels:
            await socket.ask("channel.subscribe", {"channel": channel})
    async with bot(hub.ws_url, token) as socket:
        await _leave_all(socket, channels)
        for channel in channels:
            await socket.ask("channel.subscribe", {"channel": channel})
            await socket.ask("channel.unsubscribe", {"channel": channel})
    async with bot(hub.ws_url, token) as socket:
        assert (await socket.notice("session.ready"))["channels"] == []


async def _leave_all(socket: Socket, channels: list[str]) -> None:
    begun = [await socket.begin("channel.unsubscribe", {"channel": name}) for name in channels]
    for waiting in begun:
        await socket.result(waiting)
