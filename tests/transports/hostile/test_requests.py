"""Requests of somebody who is signed in and means no good: floods, others' channels, positions."""

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

import pytest

from hub.ids import new_id
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import sign_up
from tests.transports.hostile.baseline import Watched
from tests.transports.hostile.frames import CLOSE, TEXT, frame
from tests.transports.hostile.neighbour import neighbour, somebody
from tests.transports.raw import raw_peer

FLOOD: Final = 10_000


async def _channel(socket: Socket) -> str:
    made = await socket.ask("conversation.create", {"model": "echo"})
    return f"conversation:{made['id']}"


def _request(number: int, method: str, **params: Any) -> bytes:
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return frame(TEXT, json.dumps(body).encode())


async def test_a_flood_of_subscriptions_is_answered_one_by_one_or_ended_and_leaves_nothing(
    hub: Watched, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        channel = await _channel(socket)
    async with neighbour(hub.url), raw_peer(hub.ws_url, token) as peer:
        await peer.until(TEXT)

        async def flood() -> None:
            for number in range(0, FLOOD, 2):
                peer.writer.write(_request(number, "channel.subscribe", channel=channel))
                peer.writer.write(_request(number + 1, "channel.unsubscribe", channel=channel))
                await peer.writer.drain()

        flooding = asyncio.create_task(flood())
        answers: dict[int, str] = {}
        while len(answers) < FLOOD:
            opcode, payload = await peer.frame()
            if opcode == CLOSE:
                assert int.from_bytes(payload[:2], "big") == 4029
                break
            if opcode == TEXT:
                reply = json.loads(payload)
                assert reply["id"] not in answers
                answers[reply["id"]] = (
                    reply["error"]["data"]["reason"] if "error" in reply else "ok"
                )
        await flooding
        peer.writer.write(frame(CLOSE, b"\x03\xe8"))
        await peer.end()
        # An unsubscribe that was not taken makes a conflict of the next subscribe.
        assert set(answers.values()) <= {"ok", "rate_limited", "conflict"}
        assert {"ok", "rate_limited"} <= set(answers.values())


async def test_the_201st_channel_is_refused_and_the_200_are_left_with_the_socket(
    hub: Watched, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        channels = [await _channel(socket) for _ in range(201)]
        for channel in channels[:200]:
            await socket.ask("channel.subscribe", {"channel": channel})
        with pytest.raises(Refused) as refusal:
            await socket.ask("channel.subscribe", {"channel": channels[200]})
        assert refusal.value.reason == "rate_limited"
        assert (await hub.standing()).subscriptions >= 200


async def _refusal(socket: Socket, method: str, **params: Any) -> Refused:
    with pytest.raises(Refused) as refusal:
        await socket.ask(method, params)
    return refusal.value


async def test_anothers_channel_answers_as_one_that_does_not_exist(
    hub: Watched, token: str
) -> None:
    other = (await sign_up(hub.url, somebody()))["access_token"]
    async with open_socket(hub.ws_url, other) as owner, open_socket(hub.ws_url, token) as socket:
        theirs = await _channel(owner)
        at = await owner.ask("channel.subscribe", {"channel": theirs})
        user = f"user:{(await owner.ask('session.info'))['user_id']}"
        forged = [None, "start", {"epoch": at["epoch"], "seq": 0}, {"epoch": "x", "seq": 2**53 - 1}]
        for real, imagined in (
            (theirs, f"conversation:{new_id('c')}"),
            (user, f"user:{new_id('u')}"),
        ):
            for since in forged:
                mine = await _refusal(socket, "channel.subscribe", channel=real, since=since)
                none = await _refusal(socket, "channel.subscribe", channel=imagined, since=since)
                assert (mine.reason, mine.bytes) == ("not_found", none.bytes)
            for method in ("channel.history", "channel.presence"):
                mine = await _refusal(socket, method, channel=real)
                none = await _refusal(socket, method, channel=imagined)
                assert mine.bytes == none.bytes
            # Leaving what one does not follow is fine, whatever it is, and tells nothing.
            assert await socket.ask("channel.unsubscribe", {"channel": real}) == {}
        await owner.ask("session.ping")
        assert owner.left("subscription.ended") == []


NO_CHANNELS: Final[tuple[object, ...]] = (
    "", ":", "conversation", "conversation:", "conversation:*", "conversation:c_1",
    "conversation:../audit", "conversation:c_%00", "CONVERSATION:c_1", "user:", "user:*",
    "tenant:t_1", "gone", "audit:", "audit:t_1", "conversation:" + "x" * 10_000,
    "conversation:c_1\n", "conversation:c_1 ", "conversation:ｃ_1", "__proto__", "{x}:1",
    7, None, [], {}, True,
)  # fmt: skip


async def test_a_channel_that_is_none_is_refused_without_a_word_of_what_there_is(
    hub: Watched, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        for channel in NO_CHANNELS:
            for method in ("channel.subscribe", "channel.history"):
                refusal = await _refusal(socket, method, channel=channel)
                assert refusal.reason in ("not_found", "invalid_params"), channel
            with suppress(Refused):
                assert await socket.ask("channel.unsubscribe", {"channel": channel}) == {}


async def test_a_position_that_nobody_was_given_gets_a_snapshot_or_a_fault_and_no_event(
    hub: Watched, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        channel, elsewhere = await _channel(socket), await _channel(socket)
        at = await socket.ask("channel.subscribe", {"channel": channel})
        foreign = (await socket.ask("channel.subscribe", {"channel": elsewhere}))["epoch"]
        await socket.ask(
            "message.send",
            {
                "conversation_id": channel.partition(":")[2],
                "client_message_id": "1",
                "content": "a",
            },
        )
        while (last := await socket.event())["event"]["type"] != "RUN_FINISHED":
            pass
        await socket.ask("channel.unsubscribe", {"channel": channel})
        for since in (
            {"epoch": at["epoch"], "seq": last["seq"] + 1},
            {"epoch": at["epoch"], "seq": 2**53 - 1},
            {"epoch": foreign, "seq": 0},
            {"epoch": foreign, "seq": 1},
            {"epoch": "forged", "seq": 0},
            {"epoch": "", "seq": 0},
            {"epoch": at["epoch"] + "x", "seq": 1},
            {"epoch": at["epoch"].upper() + " ", "seq": 1},
        ):
            taken = await socket.ask("channel.subscribe", {"channel": channel, "since": since})
            assert taken["recovered"] is False, since
            assert (taken["epoch"], taken["seq"]) == (at["epoch"], last["seq"])
            said = [message["content"] for message in taken["snapshot"]["messages"]]
            assert said == ["a", "a"]
            await socket.ask("channel.unsubscribe", {"channel": channel})
        wrong: tuple[object, ...] = (
            {"epoch": at["epoch"], "seq": -1},
            {"epoch": at["epoch"], "seq": 2**53},
            {"epoch": at["epoch"], "seq": 2**64 - 1},
            {"epoch": at["epoch"], "seq": 1.5},
            {"epoch": at["epoch"], "seq": "one"},
            {"epoch": "e" * 65, "seq": 1},
            {"epoch": 7, "seq": 1},
            {"epoch": None, "seq": 1},
            {"seq": 1},
            {"epoch": at["epoch"], "seq": 1, "tenant": "t_1"},
            "end",
            "",
            [],
        )
        for bad in wrong:
            refusal = await _refusal(socket, "channel.subscribe", channel=channel, since=bad)
            assert refusal.reason == "invalid_params", bad
        assert socket.left("event") == []


async def test_anothers_epoch_does_not_open_ones_own_channel_to_it(
    hub: Watched, token: str
) -> None:
    other = (await sign_up(hub.url, somebody()))["access_token"]
    async with open_socket(hub.ws_url, other) as owner, open_socket(hub.ws_url, token) as socket:
        theirs = await owner.ask("channel.subscribe", {"channel": await _channel(owner)})
        mine = await _channel(socket)
        since = {"epoch": theirs["epoch"], "seq": 0}
        taken = await socket.ask("channel.subscribe", {"channel": mine, "since": since})
        assert taken["recovered"] is False
        assert taken["epoch"] != theirs["epoch"]
        assert taken["snapshot"]["messages"] == []
