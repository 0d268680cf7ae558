"""Health and metrics: the truth about each part, and who may see the numbers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hub.faults import Fault
from tests.interaction.drivers import eventually, refused
from tests.parts.hub import PASSWORD, HubProcess, ServedHub, ServeHub
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess


async def _ready(url: str) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        response = await client.get("/health/ready")
        assert response.headers["cache-control"] == "no-store"
        return response.status_code, response.json()


async def test_a_hub_that_works_is_live_and_ready(served_hub: ServedHub) -> None:
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}
    status, body = await _ready(served_hub.url)
    assert (status, body["status"]) == (200, "ready")
    assert body["database"] == body["backplane"] == {"status": "up"}
    assert body["model"]["state"] == "ready"
    assert body["node"] == served_hub.hub.services.node


async def test_without_its_database_a_hub_is_live_and_not_ready(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise Fault("backend_unavailable", "The database does not answer.")

    monkeypatch.setattr(served_hub.hub.services.database, "ping", away)
    status, body = await _ready(served_hub.url)
    assert (status, body["status"]) == (503, "unready")
    assert body["database"] == {"status": "down", "why": "The database does not answer."}
    assert body["backplane"] == {"status": "up"}
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_a_database_that_hangs_is_told_within_seconds(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(served_hub.hub.services.database, "ping", hang)
    began = time.monotonic()
    status, body = await _ready(served_hub.url)
    assert (status, body["database"]["status"]) == (503, "down")
    assert time.monotonic() - began < 3


async def test_without_its_redis_a_hub_is_not_ready_within_two_seconds_and_then_again(
    serve_hub: ServeHub, own_redis: RedisProcess
) -> None:
    async with serve_hub(HUB_REDIS_URL=own_redis.url) as hub:
        assert (await _ready(hub.url))[0] == 200
        own_redis.kill()
        began = time.monotonic()
        status, body = await _ready(hub.url)
        assert (status, body["backplane"]["status"]) == (503, "down")
        assert time.monotonic() - began < 2.0
        own_redis.start()

        async def back() -> bool:
            return (await _ready(hub.url))[0] == 200

        await eventually(back, within=10)


async def test_without_a_model_a_hub_is_ready_and_says_what_is_missing(
    serve_hub: ServeHub,
) -> None:
    missing = {
        "OLLAMA_HOST": f"http://127.0.0.1:{free_port()}",
        "HUB_LOCAL_MODEL": "/nowhere/a-model.gguf",
    }
    async with serve_hub(**missing) as hub:

        async def told() -> bool:
            return (await _ready(hub.url))[1]["model"]["state"] in ("absent", "failed")

        await eventually(told, within=15)
        status, body = await _ready(hub.url)
        assert (status, body["status"]) == (200, "ready")
        assert body["model"]["detail"]


@pytest.fixture
async def client(served_hub: ServedHub) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody."""
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as one:
        yield one


async def _token(hub: ServedHub, role: str) -> dict[str, str]:
    accounts = hub.hub.services.accounts
    await accounts.create_user(f"{role}@hub.example", PASSWORD, "work", role)
    pair = await accounts.login(f"{role}@hub.example", PASSWORD)
    return {"Authorization": f"Bearer {pair.access_token}"}


async def test_the_metrics_are_for_who_may_read_them(
    served_hub: ServedHub, client: httpx.AsyncClient
) -> None:
    assert refused(await client.get("/metrics")).reason == "unauthenticated"
    member = await _token(served_hub, "member")
    assert refused(await client.get("/metrics", headers=member)).reason == "permission_denied"
    operator = await _token(served_hub, "operator")
    assert (await client.get("/metrics", headers=operator)).status_code == 200


async def test_the_metrics_are_not_there_for_owners_of_tenants_made_later(
    served_hub: ServedHub, client: httpx.AsyncClient
) -> None:
    operator = await _token(served_hub, "owner")
    session = await served_hub.sign_up("ada@hub.example")
    info = await client.get(
        "/v1/sessions/current", headers={"Authorization": f"Bearer {session['access_token']}"}
    )
    assert "metrics:read" in info.json()["permissions"], "an owner, but of another tenant"
    theirs = {"Authorization": f"Bearer {session['access_token']}"}
    for _ in range(2):
        assert refused(await client.get("/metrics", headers=theirs)).reason == "not_found"
        assert (await client.get("/metrics", headers=operator)).status_code == 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("", "text/plain"), ("application/openmetrics-text", "application/openmetrics-text")],
)
async def test_the_metrics_are_in_the_form_that_was_asked_for(
    served_hub: ServedHub, client: httpx.AsyncClient, accept: str, kind: str
) -> None:
    headers = {**await _token(served_hub, "operator"), "Accept": accept}
    response = await client.get("/metrics", headers=headers)
    assert response.headers["content-type"].startswith(kind)
    if kind == "text/plain":
        families = {family.name for family in text_string_to_metric_families(response.text)}
        assert {"hub_requests", "hub_connections", "hub_request_seconds"} <= families
    else:
        assert response.text.endswith("# EOF\n")


async def test_a_port_of_their_own_needs_no_credentials_and_is_the_only_place(
    hub_process: HubProcess,
) -> None:
    port = free_port()
    hub_process.environment["HUB_METRICS_PORT"] = str(port)
    await asyncio.to_thread(hub_process.start)
    async with httpx.AsyncClient(trust_env=False) as client:
        page = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert page.status_code == 200
        assert "hub_connections" in page.text
        assert (await client.get(f"{hub_process.url}/metrics")).status_code == 404
