"""Presence on a WebSocket: who is there, who comes and goes, who types (contract 4)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hub.events import presence, roster, seat
from hub.ids import new_id
from tests.agents.agui import accept, told_alike
from tests.interaction.drivers import Refused, Socket, eventually, open_socket
from tests.parts.hub import PASSWORD, ServedHub
from tests.transports.bot import stands_for

pytestmark = pytest.mark.asyncio(loop_scope="module")

_NUMBERS = count(1)


@dataclass
class Person:
    """Somebody with an access token."""

    id: str
    token: str


@dataclass
class Place:
    """A conversation of ``ada``'s, which ``bob``, an administrator, may follow; sockets to it."""

    hub: ServedHub
    stack: AsyncExitStack
    ada: Person
    bob: Person
    conversation: str = ""

    @property
    def channel(self) -> str:
        return f"conversation:{self.conversation}"

    async def socket(self, person: Person) -> Socket:
        return await self.stack.enter_async_context(open_socket(self.hub.ws_url, person.token))

    async def attend(self, person: Person) -> Socket:
        """A connection of theirs that follows the conversation with presence."""
        socket = await self.socket(person)
        await attend(socket, self.channel)
        return socket


async def person(hub: ServedHub, session: dict[str, Any]) -> Person:
    token = str(session["access_token"])
    return Person(hub.hub.services.tokens.read(token).user_id, token)


async def colleague(hub: ServedHub, of: Person, role: str) -> Person:
    """Somebody new in the same tenant; their name is their role."""
    services = hub.hub.services
    tenant_id = services.tokens.read(of.token).tenant_id
    email = f"{role}-{next(_NUMBERS)}@hub.example"
    await services.accounts.create_user(email, PASSWORD, tenant_id, role, role.title())
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        answer = await client.post("/v1/auth/login", json={"email": email, "password": PASSWORD})
    return await person(hub, answer.raise_for_status().json())


@pytest_asyncio.fixture(loop_scope="module")
async def place(hub: ServedHub, session: dict[str, Any]) -> AsyncIterator[Place]:
    ada = await person(hub, session)
    async with AsyncExitStack() as stack:
        made = Place(hub, stack, ada, await colleague(hub, ada, "admin"))
        socket = await made.socket(ada)
        made.conversation = (await socket.ask("conversation.create", {"model": "echo"}))["id"]
        yield made


@pytest.fixture
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves has left at once."""
    monkeypatch.setattr(roster, "LINGER_S", 0.0)


async def attend(socket: Socket, channel: str, since: Any = None) -> dict[str, Any]:
    params = {"channel": channel, "since": since, "presence": True}
    return await socket.ask("channel.subscribe", params)


async def news(socket: Socket) -> tuple[str, dict[str, Any]]:
    """The next event of presence: what happened, and to whom."""
    params = await socket.event("CUSTOM")
    assert set(params) == {"channel", "event"}
    event = accept(params["event"])
    return event["name"].removeprefix("presence."), event["value"]


def untold(socket: Socket) -> list[str]:
    """The events of presence that came and were not taken."""
    events = [params["event"] for params in socket.left("event")]
    return [event["name"] for event in events if event["type"] == "CUSTOM"]


async def said(socket: Socket, channel: str, by: Socket) -> None:
    """Wait for something that ``by`` says now: what was to come before it, has come."""
    await by.ask("channel.typing", {"channel": channel, "typing": True})
    await socket.heard(
        lambda frame: (
            frame.get("method") == "event"
            and frame["params"]["event"].get("name") == "presence.typing"
        )
    )


async def test_who_comes_is_told_who_is_there_and_those_who_are_there_of_who_comes(
    place: Place, no_lingering: None
) -> None:
    here, there = await place.socket(place.ada), await place.socket(place.bob)
    (ada,) = (await attend(here, place.channel))["presence"]
    assert (set(ada), ada["user_id"]) == ({"user_id", "since"}, place.ada.id)
    first, second = (await attend(there, place.channel))["presence"]
    assert first == ada
    assert await news(here) == ("joined", second)
    assert (second["user_id"], second["name"]) == (place.bob.id, "Admin")
    await there.ask("channel.unsubscribe", {"channel": place.channel})
    assert await news(here) == ("left", {"user_id": place.bob.id, "name": "Admin"})
    assert untold(there) == []


async def test_a_user_of_many_tabs_is_present_once(place: Place, no_lingering: None) -> None:
    here = await place.attend(place.ada)
    tabs = [await place.attend(place.bob)]
    assert (await news(here))[0] == "joined"
    tabs += [await place.attend(place.bob) for _ in range(4)]
    present = await here.ask("channel.presence", {"channel": place.channel})
    assert [who["user_id"] for who in present["items"]] == [place.ada.id, place.bob.id]
    for tab in tabs[:-1]:
        await tab.websocket.close()
    await said(here, place.channel, tabs[-1])
    await tabs[-1].websocket.close()
    assert [(await news(here))[0] for _ in range(2)] == ["typing", "left"]


async def test_a_page_that_is_loaded_again_is_no_news(place: Place) -> None:
    here = await place.attend(place.ada)
    for _ in range(3):
        there = await place.attend(place.bob)
        await there.websocket.close()
    there = await place.attend(place.bob)
    await said(here, place.channel, there)
    assert untold(here) == ["presence.joined"]
    assert untold(there) == []


async def test_who_has_left_lingers_for_a_moment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "LINGER_S", 0.3)
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    assert (await news(here))[0] == "joined"
    clock = asyncio.get_running_loop().time
    began = clock()
    await there.ask("channel.unsubscribe", {"channel": place.channel})
    present = await here.ask("channel.presence", {"channel": place.channel})
    assert len(present["items"]) == 2
    assert (await news(here))[0] == "left"
    assert clock() - began >= 0.3


async def test_without_presence_one_neither_sees_nor_is_seen(
    place: Place, no_lingering: None
) -> None:
    here, there = await place.socket(place.ada), await place.socket(place.bob)
    assert "presence" not in await here.ask("channel.subscribe", {"channel": place.channel})
    reply = await attend(there, place.channel)
    assert [who["user_id"] for who in reply["presence"]] == [place.bob.id]
    await said(await place.attend(place.ada), place.channel, there)
    await there.websocket.close()
    await eventually(lambda: _alone(place, here))
    assert untold(here) == []


async def _alone(place: Place, socket: Socket) -> bool:
    present = await socket.ask("channel.presence", {"channel": place.channel})
    return [who["user_id"] for who in present["items"]] == [place.ada.id]


async def test_typing_is_told_to_the_others_and_taken_back(place: Place) -> None:
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    await news(here)
    for typing in (True, False):
        await there.ask("channel.typing", {"channel": place.channel, "typing": typing})
        value = {"user_id": place.bob.id, "name": "Admin", "typing": typing}
        assert await news(here) == ("typing", value)
    assert untold(there) == []


async def test_typing_that_is_not_said_again_is_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "TYPING_S", 0.2)
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    await news(here)
    await there.ask("channel.typing", {"channel": place.channel, "typing": True})
    assert [(await news(here))[1]["typing"] for _ in range(2)] == [True, False]


async def test_who_comes_while_somebody_types_is_told_so(place: Place) -> None:
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    await said(here, place.channel, there)
    late = await place.socket(place.ada)
    reply = await attend(late, place.channel)
    assert [who.get("typing") for who in reply["presence"]] == [None, True]


async def test_typing_ends_with_who_types(place: Place) -> None:
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    await said(here, place.channel, there)
    assert (await news(here))[0] == "joined"
    await there.websocket.close()
    assert await news(here) == (
        "typing",
        {"user_id": place.bob.id, "name": "Admin", "typing": False},
    )


async def test_typing_is_not_passed_on_for_ever(place: Place) -> None:
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    for _ in range(20):  # it is known already
        await there.ask("channel.typing", {"channel": place.channel, "typing": True})
    await news(here)
    assert (await news(here))[1]["typing"] is True
    say = "channel.typing", {"channel": place.channel, "typing": True}
    for _ in range(seat.TYPING_BURST - 1):
        await there.ask("channel.typing", {"channel": place.channel, "typing": False})
        await there.ask(*say)
    await there.ask("channel.typing", {"channel": place.channel, "typing": False})
    with pytest.raises(Refused, match="rate_limited") as refusal:
        await there.ask(*say)
    wait_ms = refusal.value.details["retry_after_ms"]
    assert 0 < wait_ms <= 1000 / seat.TYPING_RATE
    told = [(await news(here))[1]["typing"] for _ in range(2 * seat.TYPING_BURST - 1)]
    assert told == [False, True] * (seat.TYPING_BURST - 1) + [False]
    assert untold(here) == []


async def test_who_is_not_there_cannot_type(place: Place) -> None:
    socket = await place.socket(place.ada)
    for subscribed in (False, True):
        if subscribed:
            await socket.ask("channel.subscribe", {"channel": place.channel})
        with pytest.raises(Refused, match="conflict"):
            await socket.ask("channel.typing", {"channel": place.channel, "typing": True})


async def test_presence_is_of_conversations_alone(place: Place) -> None:
    socket = await place.socket(place.ada)
    with pytest.raises(Refused, match="invalid_params"):
        await attend(socket, f"user:{place.ada.id}")
    with pytest.raises(Refused, match="invalid_params"):
        await socket.ask("channel.presence", {"channel": f"user:{place.ada.id}"})


async def test_another_tenants_people_are_as_those_of_a_conversation_that_is_not(
    place: Place, hub: ServedHub
) -> None:
    here = await place.attend(place.ada)
    email = f"stranger-{next(_NUMBERS)}@hub.example"
    eve = await person(hub, await hub.sign_up(email))
    there = await place.socket(eve)
    answers = set()
    for channel in (place.channel, f"conversation:{new_id('c')}"):
        for method, more in (
            ("subscribe", {"presence": True}),
            ("presence", {}),
            ("typing", {"typing": True}),
        ):
            with pytest.raises(Refused) as refusal:
                await there.ask(f"channel.{method}", {"channel": channel, **more})
            answers.add(refusal.value.bytes)
    assert len(answers) == 1
    assert b"not_found" in answers.pop()
    await said(here, place.channel, await place.attend(place.bob))
    assert untold(here) == ["presence.joined"]


async def test_who_may_follow_no_more_is_not_there_any_more(
    place: Place, hub: ServedHub, no_lingering: None
) -> None:
    here, there = await place.attend(place.ada), await place.attend(place.bob)
    assert (await news(here))[0] == "joined"
    services = hub.hub.services
    session_id = services.tokens.read(place.bob.token).session_id
    await services.accounts.logout(session_id)
    assert (await news(here))[0] == "left"
    assert (await there.closed())[0] == 4503


async def test_rest_tells_who_is_present(place: Place, hub: ServedHub) -> None:
    await place.attend(place.ada)
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        headers = {"Authorization": f"Bearer {place.bob.token}"}
        answer = await client.get(f"/v1/channels/{place.channel}/presence", headers=headers)
    (ada,) = answer.raise_for_status().json()["items"]
    assert ada["user_id"] == place.ada.id


async def test_presence_takes_no_position_and_a_subscription_resumes_across_it(
    place: Place, no_lingering: None
) -> None:
    here, there = await place.socket(place.ada), await place.attend(place.bob)
    at = await attend(here, place.channel)
    events = await _run(here, place, there)
    assert {"CUSTOM", "RUN_FINISHED"} <= {params["event"]["type"] for params in events}
    logged = [params for params in events if params["event"]["type"] != "CUSTOM"]
    assert {params["epoch"] for params in logged} == {at["epoch"]}
    numbers, _ = stands_for(logged)
    last = numbers[-1]
    assert numbers == list(range(1, last + 1))
    await here.websocket.close()
    again = await place.socket(place.ada)
    since = {"epoch": at["epoch"], "seq": 2}
    reply = await attend(again, place.channel, since)
    assert (reply["seq"], reply["recovered"], len(reply["presence"])) == (2, True, 2)
    missed: list[dict[str, Any]] = []
    while not missed or missed[-1]["seq"] < last:
        params = await again.event()
        if params["event"]["type"] != "CUSTOM":  # who is there may change meanwhile
            missed.append(params)
    assert told_alike(missed) == told_alike(logged[2:])
    page = await again.ask("channel.history", {"channel": place.channel})
    assert "CUSTOM" not in {item["event"]["type"] for item in page["items"]}


async def _run(socket: Socket, place: Place, typist: Socket) -> list[dict[str, Any]]:
    """The events up to the end of a run during which somebody types."""
    params = {"conversation_id": place.conversation, "client_message_id": "1"}
    await socket.ask("message.send", {**params, "content": "one two three"})
    await typist.ask("channel.typing", {"channel": place.channel, "typing": True})
    events: list[dict[str, Any]] = []
    kinds: Callable[[], set[str]] = lambda: {params["event"]["type"] for params in events}  # noqa: E731
    while not {"CUSTOM", "RUN_FINISHED"} <= kinds():
        events.append(await socket.event())
    return events


async def test_channels_that_everybody_has_left_cost_nothing(
    place: Place, hub: ServedHub, no_lingering: None
) -> None:
    services = hub.hub.services
    await eventually(lambda: _members(hub, 0))
    sockets = [await place.attend(who) for who in (place.ada, place.bob, place.bob)]
    assert await _members(hub, 2)
    for socket in sockets:
        await socket.websocket.close()
    await eventually(lambda: _members(hub, 0))
    await eventually(lambda: _rooms(services.presence, 0))


async def _members(hub: ServedHub, number: int) -> bool:
    gauge = hub.hub.services.metrics.presence_members
    return bool(gauge._value.get() == number)


async def _rooms(of: presence.Presence, number: int) -> bool:
    return len(of._rooms) == number
