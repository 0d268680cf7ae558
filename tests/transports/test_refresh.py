"""A refresh token in two hands ends what its family opened, on SQLite and on PostgreSQL."""

import json
from datetime import timedelta

import httpx
import pytest
from sqlmodel import col, update

from hub.identity.sessions.login_sessions import GRACE, digest
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import RefreshToken, now
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub

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


async def test_a_browser_keeps_its_refresh_token_where_no_script_reads_it(
    served_hub: ServedHub,
) -> None:
    email = "ada@hub.example"
    await served_hub.sign_up(email)
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as browser:
        account = {"email": email, "password": PASSWORD, "cookie": True}
        signed_in = await browser.post("/v1/auth/login", json=account)
        assert "refresh_token" not in signed_in.json()
        (cookie,) = signed_in.headers.get_list("set-cookie")
        said = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/v1/auth", "max-age=604800"} <= said
        first = browser.cookies["hub_refresh"]
        assert first not in signed_in.text
        refreshed = await browser.post("/v1/auth/refresh")
        assert refreshed.status_code == 200
        assert "refresh_token" not in refreshed.json()
        assert browser.cookies["hub_refresh"] != first
        bearer = {"Authorization": f"Bearer {refreshed.json()['access_token']}"}
        assert (await browser.post("/v1/auth/logout", headers=bearer)).status_code == 200
        assert "hub_refresh" not in browser.cookies
        assert (await browser.post("/v1/auth/refresh")).status_code == 401


async def test_the_cookie_goes_over_tls_alone_where_others_reach_the_hub(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub(worker=False) as hub:
        await hub.sign_up("ada@hub.example")
        settings = hub.hub.services.settings.model_copy(update={"host": "0.0.0.0"})
        object.__setattr__(hub.hub.services, "settings", settings)
        async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as browser:
            account = {"email": "ada@hub.example", "password": PASSWORD, "cookie": True}
            answer = await browser.post("/v1/auth/login", json=account)
            assert "; Secure" in answer.headers["set-cookie"]
