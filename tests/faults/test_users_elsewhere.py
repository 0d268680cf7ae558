"""What an administrator does about a user on one node acts on another within a second."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.interaction.drivers import open_socket
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.redis import RedisProcess

EMAIL, NEW = "bob@hub.example", "a better horse and battery"


@pytest.fixture
async def nodes(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    shared = {"HUB_REDIS_URL": redis_server.url}
    async with serve_hub(worker=False, **shared) as here, serve_hub(**shared) as there:
        yield here, there


@pytest.mark.parametrize(
    "deed", ["disable", "delete", "change_password", "logout everywhere", "revoke", "operator"]
)
async def test_a_socket_on_another_node_ends_within_a_second(
    nodes: tuple[ServedHub, ServedHub], deed: str, figures: Figures
) -> None:
    here, there = nodes
    ada = await here.sign_up("ada@hub.example")
    services = here.hub.services
    tenant_id = services.tokens.read(ada["access_token"]).tenant_id
    user, _ = await services.accounts.create_user(EMAIL, PASSWORD, tenant_id, "member")
    async with httpx.AsyncClient(base_url=there.url, trust_env=False) as client:
        account = {"email": EMAIL, "password": PASSWORD}
        bob = (await client.post("/v1/auth/login", json=account)).json()
        other = (await client.post("/v1/auth/login", json=account)).json()
    async with (
        open_socket(there.ws_url, bob["access_token"]) as socket,
        httpx.AsyncClient(base_url=here.url, trust_env=False) as client,
    ):
        await socket.ask("session.ping")
        hers = {"Authorization": f"Bearer {ada['access_token']}"}
        his = {"Authorization": f"Bearer {other['access_token']}"}
        began = time.perf_counter()
        match deed:
            case "disable":
                done = await client.post(f"/v1/users/{user.id}/disable", headers=hers)
            case "delete":
                done = await client.delete(f"/v1/users/{user.id}", headers=hers)
            case "change_password":
                change = {"current": PASSWORD, "password": NEW}
                done = await client.post("/v1/auth/password", json=change, headers=his)
            case "logout everywhere":
                done = await client.post("/v1/auth/logout", json={"everywhere": True}, headers=his)
            case "revoke":
                path = f"/v1/sessions/{bob['session_id']}/revoke"
                done = await client.post(path, headers=his)
            case _:
                done = httpx.Response(200)
                await services.users.set_disabled(user.id, True)
        assert done.status_code == 200, done.text
        async with asyncio.timeout(1):
            await socket.notice("session.revoked")
            assert (await socket.closed())[0] == 4503
        took = time.perf_counter() - began
        figures(f"{deed} on another node: the socket ended after {took * 1e3:.0f} ms")


async def test_wrong_guesses_count_on_every_node(nodes: tuple[ServedHub, ServedHub]) -> None:
    here, there = nodes
    await here.sign_up(EMAIL)
    said = []
    for number in range(26):
        node = (here, there)[number % 2]
        async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
            guess = {"email": EMAIL, "password": f"a wrong guess {number}"}
            answer = await client.post("/v1/auth/login", json=guess)
            said.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["data"]["details"]["retry_after_ms"] > 0
    assert said == [401] * 20 + [429] * 6
