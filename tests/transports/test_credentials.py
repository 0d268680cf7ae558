"""The credentials of an open WebSocket: refreshed, running out, revoked (contract 3 and 8)."""

import json
from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlmodel import col

from hub.faults import Fault
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership
from hub.transports import login
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess
from tests.transports.tokens import lasting

SOON_S = 1.0
"""Within this, what is taken away has ended on every node (G4)."""


def _instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def _closed(socket: Socket, within: float = 8.0) -> tuple[int | None, str]:
    code, reason = await socket.closed(within)
    return code, json.loads(reason)["reason"]


@pytest.mark.asyncio(loop_scope="module")
class TestRunningOut:
    async def test_the_notice_comes_before_the_end(
        self, hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(login, "EXPIRING_NOTICE_S", 1.0)
        async with open_socket(hub.ws_url, lasting(hub, token, 2)) as socket:
            ready = await socket.notice("session.ready")
            expiring = await socket.notice("session.expiring")
            assert _instant(expiring["expires_at"]) == _instant(ready["expires_at"])
            await socket.ask("conversation.list")

    async def test_a_newer_token_keeps_the_connection_beyond_the_older_ones_end(
        self, hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(login, "EXPIRED_GRACE_S", 0.1)
        async with open_socket(hub.ws_url, lasting(hub, token, 1)) as socket:
            first = await socket.notice("session.ready")
            later = lasting(hub, token, 600)
            refreshed = await socket.ask("session.refresh", {"token": later})
            assert _instant(refreshed["expires_at"]) > _instant(first["expires_at"]) + 500
            with pytest.raises(TimeoutError):
                await socket.closed(within=1.5)
            await socket.ask("conversation.list")
            assert socket.left("session.ready") == [], "ready is said once"

    async def test_an_expired_token_takes_no_requests_and_closes_after_the_grace(
        self, hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(login, "EXPIRED_GRACE_S", 0.5)
        async with open_socket(hub.ws_url, lasting(hub, token, -5)) as socket:
            await socket.notice("session.expiring")
            with pytest.raises(Refused) as refusal:
                await socket.ask("conversation.list")
            assert (refusal.value.reason, refusal.value.code) == ("token_expired", 4011)
            await socket.ask("session.ping")
            assert await _closed(socket) == (4005, "token_expired")

    @pytest.mark.parametrize("method", ["session.refresh", "session.authenticate"])
    async def test_in_the_grace_a_new_token_brings_everything_back(
        self, hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        monkeypatch.setattr(login, "EXPIRED_GRACE_S", 0.5)
        async with open_socket(hub.ws_url, lasting(hub, token, -5)) as socket:
            await socket.notice("session.expiring")
            await socket.ask(method, {"token": token})
            await socket.ask("conversation.list")
            with pytest.raises(TimeoutError):
                await socket.closed(within=0.7)

    async def test_another_users_token_is_refused_and_changes_nothing(
        self, hub: ServedHub, session: dict[str, Any], token: str
    ) -> None:
        other = await hub.sign_up(f"other-of-{session['session_id'].lower()}@hub.example")
        async with open_socket(hub.ws_url, token) as socket:
            before = await socket.ask("session.info")
            with pytest.raises(Refused) as refusal:
                await socket.ask("session.refresh", {"token": other["access_token"]})
            assert refusal.value.reason == "permission_denied"
            assert await socket.ask("session.info") == before

    async def test_a_refresh_with_a_token_that_is_not_valid_changes_nothing(
        self, hub: ServedHub, token: str
    ) -> None:
        async with open_socket(hub.ws_url, token) as socket:
            for bad, reason in (
                ("nonsense", "unauthenticated"),
                (lasting(hub, token, -60), "token_expired"),
            ):
                with pytest.raises(Refused) as refusal:
                    await socket.ask("session.refresh", {"token": bad})
                assert refusal.value.reason == reason
            await socket.ask("conversation.list")


@pytest.mark.asyncio(loop_scope="module")
class TestRevocation:
    async def test_a_logout_elsewhere_closes_the_socket_at_once(
        self, hub: ServedHub, token: str
    ) -> None:
        async with open_socket(hub.ws_url, token) as socket:
            await socket.notice("session.ready")
            async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
                await client.post("/v1/auth/logout", headers={"Authorization": f"Bearer {token}"})
            assert (await socket.notice("session.revoked", SOON_S))["reason"] == "session_revoked"
            assert await _closed(socket, SOON_S) == (4503, "session_revoked")

    async def test_a_logout_on_the_socket_is_answered_before_the_socket_is_closed(
        self, hub: ServedHub, token: str
    ) -> None:
        async with open_socket(hub.ws_url, token) as socket:
            assert await socket.ask("account.logout") == {}
            assert await _closed(socket, SOON_S) == (4503, "session_revoked")

    async def test_other_sessions_of_the_same_user_stay(
        self, hub: ServedHub, session: dict[str, Any], token: str
    ) -> None:
        services = hub.hub.services
        user = services.tokens.read(token)
        code = await services.accounts.login_link(user.user_id, user.tenant_id)
        second = await services.accounts.redeem(code)
        async with open_socket(hub.ws_url, second.access_token) as socket:
            await services.accounts.logout(session["session_id"])
            await socket.ask("conversation.list")


async def test_a_logout_on_one_node_closes_the_socket_on_another(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> None:
    url = redis_server.url
    async with serve_hub(HUB_REDIS_URL=url) as one, serve_hub(HUB_REDIS_URL=url) as two:
        session = await one.sign_up("ada@hub.example")
        async with open_socket(two.ws_url, session["access_token"]) as socket:
            await socket.notice("session.ready")
            await one.hub.services.accounts.logout(session["session_id"])
            await socket.notice("session.revoked", SOON_S)
            assert await _closed(socket, SOON_S) == (4503, "session_revoked")


async def test_a_logout_that_a_node_was_not_told_of_is_found_by_looking(
    serve_hub: ServeHub,
) -> None:
    """Two nodes on one database that do not hear each other, as with a backplane that is away."""
    async with serve_hub() as deaf, serve_hub() as other:
        deaf.hub.services.watches._sweep_s = 0.3
        session = await other.sign_up("ada@hub.example")
        async with open_socket(deaf.ws_url, session["access_token"]) as socket:
            await socket.notice("session.ready")
            await other.hub.services.accounts.logout(session["session_id"])
            await socket.notice("session.revoked", 2)
            assert await _closed(socket) == (4503, "session_revoked")


async def test_what_cannot_be_known_is_not_delivered_and_can_be_asked_for_again(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_hub() as hub:
        hub.hub.services.authority._recheck_s = 0.2
        hub.hub.services.watches._sweep_s = 0.2
        session = await hub.sign_up("ada@hub.example")
        async with open_socket(hub.ws_url, session["access_token"]) as socket:
            await socket.notice("session.ready")
            conversation = (await socket.ask("conversation.create", {}))["id"]
            channel = f"conversation:{conversation}"
            await socket.ask("channel.subscribe", {"channel": channel})

            def away(*_: object) -> None:
                raise Fault("backend_unavailable")

            with monkeypatch.context() as patch:
                patch.setattr(hub.hub.services.database, "read", away)
                ended = await socket.notice("subscription.ended", 5)
                assert ended == {"channel": channel, "reason": "backend_unavailable"}
            again = await socket.ask("channel.subscribe", {"channel": channel})
            assert again["channel"] == channel


async def test_what_is_allowed_no_more_ends_while_the_socket_stays(serve_hub: ServeHub) -> None:
    """A colleague who followed a conversation as an administrator is made a viewer."""
    async with serve_hub() as hub:
        ada = await hub.sign_up("ada@hub.example")
        services = hub.hub.services
        tenant_id = services.tokens.read(ada["access_token"]).tenant_id
        await services.accounts.create_user(
            "bob@hub.example", "correct horse battery", tenant_id, "admin"
        )
        bob = await services.accounts.login("bob@hub.example", "correct horse battery")
        async with (
            open_socket(hub.ws_url, ada["access_token"]) as hers,
            open_socket(hub.ws_url, bob.access_token) as his,
        ):
            conversation = (await hers.ask("conversation.create", {"model": "echo"}))["id"]
            channel = f"conversation:{conversation}"
            await his.ask("channel.subscribe", {"channel": channel})
            own = (await his.ask("conversation.create", {}))["id"]
            await his.ask("channel.subscribe", {"channel": f"conversation:{own}"})
            user_id = (await his.ask("session.info"))["user_id"]
            await _give_role(hub, user_id, "viewer")
            ended = await his.notice("subscription.ended", SOON_S)
            assert ended == {"channel": channel, "reason": "not_found"}
            await hers.ask(
                "message.send",
                {"conversation_id": conversation, "client_message_id": "1", "content": "Secret."},
            )
            await his.ask("session.ping")
            with pytest.raises(TimeoutError):
                await his.event(within=0.3)


async def _give_role(hub: ServedHub, user_id: str, role: str) -> None:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(
            update(Membership).where(col(Membership.user_id) == user_id).values(role_id=role)
        )
    await hub.hub.services.authority.changed("user", user_id)
