"""A refresh token in two hands ends what its family opened, on SQLite and on PostgreSQL."""

import json
from datetime import timedelta

import httpx
import pytest
from sqlmodel import col, update

from hub.identity.sessions import GRACE, digest
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import RefreshToken, now
from tests.interaction.drivers import open_socket
from tests.parts.hub import ServeHub

SOON_S = 1.0


@pytest.mark.parametrize("grand", [False, True], ids=["after the grace", "a grandparent"])
async def test_a_refresh_token_that_comes_back_closes_the_sockets_of_its_family_alone(
    serve_hub: ServeHub, database_url: str, grand: bool
) -> None:
    async with serve_hub(worker=False, HUB_DATABASE_URL=database_url) as hub:
        session = await hub.sign_up("ada@hub.example")
        services = hub.hub.services
        other = await services.accounts.redeem(
            await services.accounts.login_code_for("ada@hub.example")
        )
        async with (
            httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
            open_socket(hub.ws_url, session["access_token"]) as socket,
            open_socket(hub.ws_url, other.access_token) as stays,
        ):
            await socket.notice("session.ready")

            async def refresh(token: str) -> httpx.Response:
                return await client.post("/v1/auth/refresh", json={"refresh_token": token})

            first = (await refresh(session["refresh_token"])).json()
            again = (await refresh(session["refresh_token"])).json()
            assert again["refresh_token"] == first["refresh_token"], "within the grace"
            if grand:
                assert (await refresh(first["refresh_token"])).status_code == 200
            else:
                of = col(RefreshToken.token_hash) == digest(session["refresh_token"])
                past = now() - GRACE - timedelta(seconds=1)
                async with services.database.write(EVERY_TENANT) as rows:
                    await rows.exec(update(RefreshToken).where(of).values(used_at=past))
            assert (await refresh(session["refresh_token"])).status_code == 401
            assert (await socket.notice("session.revoked", SOON_S))["reason"] == "session_revoked"
            code, reason = await socket.closed(SOON_S)
            assert (code, json.loads(reason)["reason"]) == (4503, "session_revoked")
            assert (await refresh(first["refresh_token"])).status_code == 401
            await stays.ask("conversation.list")
