"""API keys on the wire: as good as an access token, and over within a second on every node."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from sqlmodel import col, select, update

from hub.identity.keys.api_keys import Changes, Wanted
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, Run, User, now
from hub.transports import login, sse
from tests.agents.test_runs import slowly
from tests.interaction.drivers import Refused, RestCaller, Socket, eventually, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess

SOON_S: Final = 1.0
"""Within this, what is taken away has ended on every node (G4)."""


class Owner:
    """Somebody who is signed in at a hub, and owns the tenant."""

    def __init__(self, hub: ServedHub, session: dict[str, Any]) -> None:
        self.hub = hub
        self.token = str(session["access_token"])
        claims = hub.hub.services.tokens.read(self.token)
        self.user_id, self.tenant_id = claims.user_id, claims.tenant_id

    async def key(self, scopes: list[str] | None = None, **more: Any) -> tuple[str, str]:
        """A key of theirs: its id, and its text."""
        services = self.hub.hub.services
        actor = await services.authority.member(self.user_id, self.tenant_id)
        wanted = Wanted("a bot", scopes, **more)
        row, text = await services.api_keys.create(actor, self.user_id, self.tenant_id, wanted)
        return row.id, text


async def owner_of(hub: ServedHub, email: str = "ada@hub.example") -> Owner:
    return Owner(hub, await hub.sign_up(email))


async def _closed(socket: Socket, within: float = SOON_S) -> tuple[int | None, str]:
    code, reason = await socket.closed(within)
    return code, json.loads(reason)["reason"]


def rest(hub: ServedHub) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=hub.url, trust_env=False)


async def test_a_key_is_taken_wherever_a_token_is(served_hub: ServedHub) -> None:
    ada = await owner_of(served_hub)
    key_id, text = await ada.key()
    bearer = {"Authorization": f"Bearer {text}"}
    async with rest(served_hub) as client:
        told = (await client.get("/v1/sessions/current", headers=bearer)).json()
        assert told["session_id"] == key_id
        assert "expires_at" not in told
        in_query = await client.get("/v1/conversations", params={"access_token": text})
        assert in_query.status_code == 401
    async with open_socket(served_hub.ws_url, text) as shown:
        ready = await shown.notice("session.ready")
        assert "expires_at" not in ready
        conversation = (await shown.ask("conversation.create", {"model": "echo"}))["id"]
        channel = f"conversation:{conversation}"
        await shown.ask("channel.subscribe", {"channel": channel})
        message = {"conversation_id": conversation, "client_message_id": "1", "content": "Hello."}
        await shown.ask("message.send", message)
        await shown.event("RUN_FINISHED")
    async with open_socket(served_hub.ws_url) as sent:
        assert await sent.ask("session.authenticate", {"token": text}) == {}
        assert (await sent.ask("session.info"))["user_id"] == ada.user_id
    path = sse.PATH.format(channel=channel)
    async with rest(served_hub) as client, client.stream("GET", path, headers=bearer) as stream:
        assert stream.status_code == 200
    await served_hub.hub.services.key_use.close()  # what is noted of it has been written
    used = await served_hub.hub.services.api_keys.get(ada.tenant_id, key_id)
    assert used.last_used_at is not None


async def test_a_key_does_what_its_scopes_say_and_nothing_else(served_hub: ServedHub) -> None:
    ada = await owner_of(served_hub)
    _, text = await ada.key(["conversation:read"])
    async with open_socket(served_hub.ws_url, text) as socket:
        await socket.ask("conversation.list")
        assert (await socket.ask("session.info"))["permissions"] == ["conversation:read"]
        for method, params in (
            ("conversation.create", {}),
            ("apikey.list", {}),
            ("apikey.create", {"name": "another"}),
            ("account.logout", {}),
        ):
            with pytest.raises(Refused) as refusal:
                await socket.ask(method, params)
            assert refusal.value.reason == "permission_denied", method


async def test_a_connection_goes_on_by_another_credential_of_its_user(
    served_hub: ServedHub,
) -> None:
    ada = await owner_of(served_hub)
    key_id, text = await ada.key()
    async with open_socket(served_hub.ws_url, ada.token) as socket:
        await socket.notice("session.ready")
        assert await socket.ask("session.refresh", {"token": text}) == {}
        await served_hub.hub.services.api_keys.revoke(None, ada.tenant_id, key_id)
        assert (await socket.notice("session.revoked", SOON_S))["reason"] == "key_revoked"
        assert await _closed(socket) == (4503, "session_revoked")


async def test_a_key_that_expires_is_told_of_and_then_over(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "EXPIRING_NOTICE_S", 30.0)
    ada = await owner_of(served_hub)
    end = now() + timedelta(seconds=1.2)
    _, text = await ada.key(expires_at=end)
    async with open_socket(served_hub.ws_url, text) as socket:
        assert "expires_at" in await socket.notice("session.ready")
        await socket.notice("session.expiring")
        assert (await socket.notice("session.revoked"))["reason"] == "key_expired"
        late = (datetime.now(UTC) - end).total_seconds()
        assert await _closed(socket) == (4503, "session_revoked")
        assert 0 <= late < SOON_S


Ending = Callable[[Owner, str], Awaitable[Any]]


async def revoked(ada: Owner, key_id: str) -> None:
    await ada.hub.hub.services.api_keys.revoke(None, ada.tenant_id, key_id)


async def expired(ada: Owner, key_id: str) -> None:
    services = ada.hub.hub.services
    actor = await services.authority.member(ada.user_id, ada.tenant_id)
    soon = Changes(expires_at=now() + timedelta(milliseconds=50))
    await services.api_keys.update(actor, ada.tenant_id, key_id, soon)


async def rotated_away(ada: Owner, key_id: str) -> None:
    services = ada.hub.hub.services
    actor = await services.authority.member(ada.user_id, ada.tenant_id)
    await services.api_keys.rotate(actor, ada.tenant_id, key_id, 0)


async def overlapped(ada: Owner, key_id: str) -> None:
    services = ada.hub.hub.services
    actor = await services.authority.member(ada.user_id, ada.tenant_id)
    # The least that the wire takes is a second, which is the limit of this test.
    await services.api_keys.rotate(actor, ada.tenant_id, key_id, 0.2)  # type: ignore[arg-type]


async def disabled(ada: Owner, _: str) -> None:
    services = ada.hub.hub.services
    async with services.database.write(EVERY_TENANT) as session:
        of = col(User.id) == ada.user_id
        await session.exec(update(User).where(of).values(disabled_at=now()))
    await services.authority.changed("user", ada.user_id)


ENDINGS: Final[dict[Ending, str]] = {
    revoked: "key_revoked",
    expired: "key_expired",
    rotated_away: "key_revoked",
    overlapped: "key_revoked",
    disabled: "user_disabled",
}


@pytest.fixture
async def nodes(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    """Where keys are changed, and where they are used."""
    url = redis_server.url
    async with (
        serve_hub(worker=False, HUB_REDIS_URL=url) as here,
        serve_hub(HUB_REDIS_URL=url) as there,
    ):
        yield here, there


async def test_each_end_of_a_key_closes_its_sockets_and_streams_on_another_node(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    here, there = nodes
    for number, (end, reason) in enumerate(ENDINGS.items()):
        ada = await owner_of(here, f"ada{number}@hub.example")
        key_id, text = await ada.key()
        async with open_socket(there.ws_url, text) as socket:
            await socket.notice("session.ready")
            conversation = (await socket.ask("conversation.create", {}))["id"]
            path = sse.PATH.format(channel=f"conversation:{conversation}")
            bearer = {"Authorization": f"Bearer {text}"}
            async with rest(there) as client, client.stream("GET", path, headers=bearer) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                await end(ada, key_id)
                revoked = await socket.notice("session.revoked", SOON_S)
                assert revoked["reason"] == reason, end
                assert await _closed(socket) == (4503, "session_revoked")
                async with asyncio.timeout(SOON_S):
                    rest_of = [line async for line in lines]
                assert json.loads(rest_of[-2].removeprefix("data: ")) == {"reason": reason}
            async with rest(there) as client:
                response = await client.get("/v1/conversations", headers=bearer)
                assert response.status_code == 401


async def test_what_a_role_or_a_scope_gives_no_more_ends_on_another_node_while_the_socket_stays(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    here, there = nodes
    ada = await owner_of(here)
    services = here.hub.services
    needed = ["channel:subscribe", "conversation:create", "conversation:read"]
    key_id, text = await ada.key(needed)
    actor = await services.authority.member(ada.user_id, ada.tenant_id)

    async def narrowed() -> None:
        changes = Changes(scopes=["conversation:create", "conversation:read"])
        await services.api_keys.update(actor, ada.tenant_id, key_id, changes)

    async def widened() -> None:
        await services.api_keys.update(actor, ada.tenant_id, key_id, Changes(scopes=needed))

    async with open_socket(there.ws_url, text) as socket:
        conversation = (await socket.ask("conversation.create", {}))["id"]
        channel = f"conversation:{conversation}"
        await socket.ask("channel.subscribe", {"channel": channel})
        await narrowed()
        ended = await socket.notice("subscription.ended", SOON_S)
        assert ended == {"channel": channel, "reason": "permission_denied"}
        await widened()

        async def may() -> bool:
            return "channel:subscribe" in (await socket.ask("session.info"))["permissions"]

        await eventually(may)
        await socket.ask("channel.subscribe", {"channel": channel})
        async with services.database.write(EVERY_TENANT) as session:
            of = col(Membership.user_id) == ada.user_id
            await session.exec(update(Membership).where(of).values(role_id="viewer"))
        await services.authority.changed("user", ada.user_id)
        with pytest.raises(Refused, match="permission_denied"):
            await _until_refused(socket)


async def _until_refused(socket: Socket) -> None:
    async with asyncio.timeout(SOON_S):
        while True:
            await socket.ask("conversation.create", {})


async def test_the_run_of_a_key_that_is_revoked_ends_as_one_without_permission(
    served_hub: ServedHub,
) -> None:
    ada = await owner_of(served_hub)
    key_id, text = await ada.key()
    async with open_socket(served_hub.ws_url, ada.token) as socket:
        async with open_socket(served_hub.ws_url, text) as bot:
            conversation = (await bot.ask("conversation.create", {"model": "echo"}))["id"]
            channel = f"conversation:{conversation}"
            await socket.ask("channel.subscribe", {"channel": channel})
            message = {"conversation_id": conversation, "client_message_id": "1"}
            await bot.ask("message.send", {**message, "content": slowly(1_000, 5)})
            await socket.event("TEXT_MESSAGE_CONTENT")
        await served_hub.hub.services.api_keys.revoke(None, ada.tenant_id, key_id)
        failed = await socket.event("RUN_ERROR", SOON_S)
        assert failed["event"]["code"] == "permission_denied"
    async with served_hub.hub.services.database.read(EVERY_TENANT) as session:
        assert (await session.exec(select(Run.session_id))).one() == key_id


async def test_a_key_is_made_over_rest_and_shown_once(served_hub: ServedHub) -> None:
    ada = await owner_of(served_hub)
    async with rest(served_hub) as client:
        caller = RestCaller(client, ada.token)
        once = {"Idempotency-Key": "a-key-once"}
        made = await caller.ask("apikey.create", {"name": "ticker"}, once)
        with pytest.raises(Refused) as refusal:
            await caller.ask("apikey.create", {"name": "ticker"}, once)
        assert refusal.value.reason == "conflict"
        assert made["key"] not in refusal.value.message
        (listed,) = (await caller.ask("apikey.list"))["items"]
        assert listed == await caller.ask("apikey.get", {"api_key_id": made["id"]})
        assert "key" not in listed
        assert listed["scopes"] == made["scopes"]
        changed = {"api_key_id": made["id"], "name": "tocker", "expires_in": 600}
        end = datetime.fromisoformat((await caller.ask("apikey.update", changed))["expires_at"])
        assert 590 < (end - now()).total_seconds() < 600
        forever = {"api_key_id": made["id"], "expires_in": None}
        updated = await caller.ask("apikey.update", forever)
        assert "expires_at" not in updated
        assert updated["name"] == "tocker"
        rotated = await caller.ask("apikey.rotate", {"api_key_id": made["id"], "overlap_s": 60})
        assert rotated["key"] != made["key"]
        assert rotated["id"] == made["id"]
        assert await caller.ask("apikey.revoke", {"api_key_id": made["id"]}) == {}
        assert (await caller.ask("apikey.list"))["items"] == []
        assert "revoked_at" in await caller.ask("apikey.get", {"api_key_id": made["id"]})


async def test_a_service_account_is_made_given_a_key_and_works(served_hub: ServedHub) -> None:
    ada = await owner_of(served_hub)
    async with rest(served_hub) as client:
        caller = RestCaller(client, ada.token)
        service = await caller.ask("service.create", {"name": "ticker"})
        assert service["roles"] == ["service"]
        for_it = {"name": "its key", "service_id": service["id"]}
        made = await caller.ask("apikey.create", for_it)
        assert made["user_id"] == service["id"]
        assert (await caller.ask("apikey.list"))["items"] == []
        (listed,) = (await caller.ask("apikey.list", {"of": "tenant"}))["items"]
        assert listed["id"] == made["id"]
        bot = RestCaller(client, made["key"])
        assert (await bot.ask("session.info"))["roles"] == ["service"]
        conversation = await bot.ask("conversation.create", {})
        assert conversation["owner_id"] == service["id"]
        for method in ("service.list", "apikey.list"):
            with pytest.raises(Refused, match="permission_denied"):
                await bot.ask(method)
        async with open_socket(served_hub.ws_url, made["key"]) as socket:
            await socket.notice("session.ready")
            await caller.ask("service.disable", {"service_id": service["id"]})
            assert (await socket.notice("session.revoked", SOON_S))["reason"] == "user_disabled"
        await caller.ask("service.enable", {"service_id": service["id"]})
        assert (await bot.ask("session.info"))["user_id"] == service["id"]
        await caller.ask("service.delete", {"service_id": service["id"]})
        with pytest.raises(Refused, match="unauthenticated"):
            await bot.ask("session.info")
        assert (await caller.ask("service.list"))["items"] == []


async def test_a_member_comes_to_no_service_account_and_to_nobody_elses_keys(
    served_hub: ServedHub,
) -> None:
    ada = await owner_of(served_hub)
    services = served_hub.hub.services
    password = "correct horse battery"
    await services.accounts.create_user("bob@hub.example", password, ada.tenant_id, "member")
    bob = await services.accounts.login("bob@hub.example", password)
    actor = await services.authority.member(ada.user_id, ada.tenant_id)
    service = (await services.service_accounts.create(actor, ada.tenant_id, "ticker")).user
    hers, _ = await ada.key()
    async with rest(served_hub) as client:
        caller = RestCaller(client, bob.access_token)
        with pytest.raises(Refused, match="not_found"):
            await caller.ask("apikey.create", {"name": "x", "service_id": service.id})
        for method in ("apikey.get", "apikey.revoke", "apikey.rotate"):
            with pytest.raises(Refused, match="not_found"):
                await caller.ask(method, {"api_key_id": hers})
        with pytest.raises(Refused, match="permission_denied"):
            await caller.ask("apikey.list", {"of": "tenant"})
        with pytest.raises(Refused, match="permission_denied"):
            await caller.ask("service.create", {"name": "x"})
        his = await caller.ask("apikey.create", {"name": "his own"})
        assert (await RestCaller(client, his["key"]).ask("session.info"))["roles"] == ["member"]
