"""When sessions and API keys were last used: every transport tells, and their owner sees it."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from sqlmodel import update

from hub.identity.sessions import sightings
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, now
from hub.transports import sse
from tests.interaction.drivers import RestCaller, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub

EMAIL: Final = "ada@hub.example"
JUST_NOW: Final = timedelta(seconds=30)


async def by_rest(hub: ServedHub, token: str, user_id: str) -> None:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        await RestCaller(client, token).ask("conversation.list")


async def by_socket(hub: ServedHub, token: str, user_id: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.ask("conversation.list")


async def by_events(hub: ServedHub, token: str, user_id: str) -> None:
    path = sse.PATH.format(channel=f"user:{user_id}")
    bearer = {"Authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
        client.stream("GET", path, headers=bearer) as stream,
    ):
        assert stream.status_code == 200


WAYS: Final[dict[str, Callable[[ServedHub, str, str], Awaitable[None]]]] = {
    "rest": by_rest,
    "websocket": by_socket,
    "events": by_events,
}


async def asked(hub: ServedHub, token: str, method: str) -> list[dict[str, Any]]:
    """The items of a list."""
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        items: list[dict[str, Any]] = (await RestCaller(client, token).ask(method))["items"]
        return items


def recent(instant: str) -> bool:
    return now() - datetime.fromisoformat(instant) < JUST_NOW


async def test_a_session_was_last_seen_when_it_asked_something_on_any_transport(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "WRITE_S", 3_600.0)  # it is written when the test says so
    async with serve_hub() as hub:
        services = hub.hub.services
        owner = str((await hub.sign_up(EMAIL))["access_token"])
        user_id = services.tokens.read(owner).user_id
        theirs = {name: await services.accounts.login(EMAIL, PASSWORD) for name in WAYS}
        silent = (await services.accounts.login(EMAIL, PASSWORD)).session_id
        long_ago = now() - timedelta(minutes=10)
        async with services.database.write(EVERY_TENANT) as session:
            await session.exec(update(LoginSession).values(last_seen_at=long_ago))
        for name, by in WAYS.items():
            await by(hub, theirs[name].access_token, user_id)
        await services.sightings.write()
        listed = await asked(hub, owner, "session.list")
    seen = {item["id"]: item["last_seen_at"] for item in listed}
    for name, pair in theirs.items():
        assert recent(seen[pair.session_id]), name
    assert not recent(seen[silent]), "who asked nothing was not seen"


async def test_a_key_was_last_used_when_it_asked_something_on_any_transport(
    served_hub: ServedHub,
) -> None:
    owner = str((await served_hub.sign_up(EMAIL))["access_token"])
    services = served_hub.hub.services
    user_id = services.tokens.read(owner).user_id
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        caller = RestCaller(client, owner)
        names = (*WAYS, "silent")
        keys = {name: await caller.ask("apikey.create", {"name": name}) for name in names}
    for name, by in WAYS.items():
        await by(served_hub, keys[name]["key"], user_id)
    await services.key_use.close()
    listed = {item["name"]: item for item in await asked(served_hub, owner, "apikey.list")}
    assert listed.keys() == keys.keys()
    for name in WAYS:
        assert recent(listed[name]["last_used_at"]), name
    assert "last_used_at" not in listed["silent"]
