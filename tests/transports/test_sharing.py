"""Who comes back to what is shared with them has the permissions of now (contract 3 and 4)."""

from typing import Any

import httpx
import pytest

from hub.transports import sse
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import ServedHub
from tests.transports.bot import acknowledge, bot, conversation, run, send
from tests.transports.test_presence import Person, colleague, person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _two(hub: ServedHub, session: dict[str, Any]) -> tuple[Person, Person]:
    ada = await person(hub, session)
    return ada, await colleague(hub, ada, "member")


async def _share(socket: Socket, made: str, whom: Person, access: str) -> None:
    named = {"conversation_id": made, "user_id": whom.id}
    await socket.ask("conversation.share", {**named, "access": access})


async def _unshare(socket: Socket, made: str, whom: Person) -> None:
    await socket.ask("conversation.unshare", {"conversation_id": made, "user_id": whom.id})


async def test_what_was_unshared_while_a_bot_was_away_does_not_come_back(
    hub: ServedHub, session: dict[str, Any]
) -> None:
    ada, bob = await _two(hub, session)
    async with open_socket(hub.ws_url, ada.token) as hers:
        made, channel = await conversation(hers)
        await _share(hers, made, bob, "reader")
        async with bot(hub.ws_url, bob.token) as his:
            await his.ask("channel.subscribe", {"channel": channel})
            await send(hers, made, "for both")
            heard = await run(his)
            await acknowledge(his, heard[1])
        at = {"channel": channel, **{key: heard[1][key] for key in ("epoch", "seq")}}
        await _unshare(hers, made, bob)
        await send(hers, made, "for nobody else")
        async with bot(hub.ws_url, bob.token) as his:
            assert (await his.notice("session.ready"))["channels"] == [at]
            ended = await his.notice("subscription.ended")
            assert ended == {"channel": channel, "reason": "not_found"}
            since = {key: at[key] for key in ("epoch", "seq")}
            for method, params in (
                ("channel.subscribe", {"channel": channel, "since": since}),
                ("channel.subscribe", {"channel": channel, "since": "start"}),
                ("channel.history", {"channel": channel, "after": at["seq"]}),
                ("message.list", {"conversation_id": made}),
            ):
                with pytest.raises(Refused, match="not_found"):
                    await his.ask(method, params)
            answer = await acknowledge(his, heard[2])
            assert [each["reason"] for each in answer["refused"]] == ["not_found"]
            assert his.left("event") == his.left("subscription.resumed") == []
        async with bot(hub.ws_url, bob.token) as his:
            assert (await his.notice("session.ready"))["channels"] == []


async def test_what_is_shared_still_comes_back_where_it_was(
    hub: ServedHub, session: dict[str, Any]
) -> None:
    ada, bob = await _two(hub, session)
    async with open_socket(hub.ws_url, ada.token) as hers:
        made, channel = await conversation(hers)
        await _share(hers, made, bob, "writer")
        async with bot(hub.ws_url, bob.token) as his:
            await his.ask("channel.subscribe", {"channel": channel})
        await _share(hers, made, bob, "reader")
        await send(hers, made, "while he was away")
        async with bot(hub.ws_url, bob.token) as his:
            assert (await his.notice("subscription.resumed"))["recovered"] is True
            assert (await run(his))[-1]["event"]["type"] == "RUN_FINISHED"


async def test_an_event_stream_resumes_with_the_permissions_of_now(
    hub: ServedHub, session: dict[str, Any]
) -> None:
    ada, bob = await _two(hub, session)
    async with open_socket(hub.ws_url, ada.token) as hers:
        made, channel = await conversation(hers)
        await hers.ask("channel.subscribe", {"channel": channel})
        await send(hers, made, "for both")
        last = (await run(hers))[-1]
        await _share(hers, made, bob, "reader")
        headers = {
            "Authorization": f"Bearer {bob.token}",
            "Last-Event-ID": f"{last['epoch']}:{last['seq'] - 1}",
        }
        path = sse.PATH.format(channel=channel)
        async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
            async with client.stream("GET", path, headers=headers) as response:
                assert response.status_code == 200
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        break
                assert "RUN_FINISHED" in line
            await _unshare(hers, made, bob)
            assert (await client.get(path, headers=headers)).status_code == 404
