"""Rates on real nodes: one budget, whichever transport and node a request comes by."""

import asyncio
from functools import partial
from typing import Any

import httpx
import pytest

from hub.identity.tokens.api_key_text import make
from hub.ids import new_id
from hub.transports import sse
from tests.interaction.drivers import Refused, Socket, eventually, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.redis import RedisProcess

BURST = 40
TIGHT = {"HUB_USER_RATE": "0.5", "HUB_USER_BURST": str(BURST)}
ON_TRUST = BURST / 8


async def by_socket(socket: Socket) -> dict[str, Any] | None:
    """The details of the refusal, if it is one."""
    try:
        await socket.ask("session.info")
    except Refused as refused:
        return refused.details if refused.reason == "rate_limited" else {"scope": refused.reason}
    return None


async def by_http(client: httpx.AsyncClient, path: str = "/v1/models") -> dict[str, Any] | None:
    answer = await client.get(path)
    if answer.status_code != 429:
        answer.raise_for_status()
        return None
    return details_of(answer)


async def by_events(client: httpx.AsyncClient, user_id: str) -> dict[str, Any] | None:
    async with client.stream("GET", sse.PATH.format(channel=f"user:{user_id}")) as answer:
        if answer.status_code != 429:
            answer.raise_for_status()
            return None
        await answer.aread()
    return details_of(answer)


def details_of(answer: httpx.Response) -> dict[str, Any]:
    assert int(answer.headers["retry-after"]) >= 1
    details: dict[str, Any] = answer.json()["error"]["data"]["details"]
    return details


def browsing(hub: ServedHub, token: str, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=hub.url, headers={"Authorization": f"Bearer {token}", **headers}
    )


async def test_a_user_has_one_budget_for_all_transports(serve_hub: ServeHub) -> None:
    async with serve_hub(**TIGHT) as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        ada = hub.hub.services.tokens.read(token).user_id
        eves = (await hub.sign_up("eve@hub.example"))["access_token"]
        async with (
            open_socket(hub.ws_url, token) as socket,
            browsing(hub, token) as client,
            open_socket(hub.ws_url, eves) as other,
        ):
            ways = {
                "websocket": partial(by_socket, socket),
                "rest": partial(by_http, client),
                "events": partial(by_events, client, ada),
                "metrics": partial(by_http, client, "/metrics"),
            }
            # Twice the budget, in equal parts: were one way free, more would be let in.
            answers = [(way, await ask()) for _ in range(BURST // 2) for way, ask in ways.items()]
            refused = [details for _, details in answers if details is not None]
            assert BURST - 2 <= len(refused) <= BURST + 1
            assert {way for way, details in answers if details is not None} == ways.keys()
            assert {details["scope"] for details in refused} == {"user"}
            assert 0 < refused[-1]["retry_after_ms"] <= 2_000 / 0.5
            assert await by_socket(other) is None, "another's budget is another's"
            page = hub.hub.services.metrics.exposition("")[0].decode()
            assert f'hub_rate_refusals_total{{scope="user"}} {len(refused)}.0' in page


async def test_a_user_has_one_budget_for_all_nodes(
    serve_hub: ServeHub, redis_server: RedisProcess, sqlite_url: str
) -> None:
    shared = {"HUB_REDIS_URL": redis_server.url, "HUB_DATABASE_URL": sqlite_url, **TIGHT}
    async with serve_hub(**shared) as one, serve_hub(**shared) as two:
        token = (await one.sign_up("ada@hub.example"))["access_token"]
        async with open_socket(one.ws_url, token) as here, open_socket(two.ws_url, token) as there:
            asked = [by_socket(socket) for socket in (here, there) for _ in range(BURST)]
            let_in = (await asyncio.gather(*asked)).count(None)
            # Each may be wrong by what it gives out on trust.
            assert BURST - 2 * ON_TRUST <= let_in <= BURST + 2 * ON_TRUST + 2


async def test_an_address_has_a_budget_signed_in_or_not(serve_hub: ServeHub) -> None:
    few = {"HUB_ADDRESS_RATE": "0.1", "HUB_ADDRESS_BURST": "30"}
    async with serve_hub(HUB_TRUSTED_PROXIES="127.0.0.1", **few) as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with httpx.AsyncClient(base_url=hub.url) as client:

            async def guess(address: str) -> int:
                answer = await client.post(
                    "/v1/auth/login",
                    json={"email": "ada@hub.example", "password": "not hers at all"},
                    headers={"X-Forwarded-For": address},
                )
                return answer.status_code

            # A guess costs twenty.
            assert [await guess("203.0.113.7") for _ in range(3)] == [401, 429, 429]
            assert await guess("203.0.113.8") == 401
            # Whoever has one address of IPv6 has all of its network.
            near = [await guess(f"2001:db8:1:2::{at}") for at in range(3)]
            assert near == [401, 429, 429]
            assert await guess("2001:db8:1:3::1") == 401
        async with browsing(hub, token, **{"X-Forwarded-For": "203.0.113.7"}) as same:
            answers = [await by_http(same, path) for path in ("/v1/models", "/metrics") * 6]
            assert answers.count(None) == 10
            assert answers[-1] is not None
            assert answers[-1]["scope"] == "address"


async def test_keys_that_anybody_can_make_up_cost_their_address_before_they_are_looked_up(
    serve_hub: ServeHub,
) -> None:
    few = {"HUB_ADDRESS_RATE": "0.1", "HUB_ADDRESS_BURST": "10"}
    async with serve_hub(HUB_TRUSTED_PROXIES="127.0.0.1", **few) as hub:
        lookups = hub.hub.services.metrics.registry.get_sample_value
        async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:

            async def show(address: str, path: str) -> int:
                made_up, _ = make(new_id("ak"))
                headers = {"Authorization": f"Bearer {made_up}", "X-Forwarded-For": address}
                return (await client.get(path, headers=headers)).status_code

            paths = ("/v1/sessions/current", "/v1/channels/audit/events", "/metrics")
            said = [await show("203.0.113.7", path) for path in paths * 4]
            assert said == [401] * 10 + [429] * 2
            assert await show("203.0.113.8", "/v1/sessions/current") == 401
        asked = lookups("hub_cache_lookups_total", {"cache": "permissions", "outcome": "miss"})
        assert asked == 11
        made_up, _ = make(new_id("ak"))
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        async with open_socket(hub.ws_url, made_up, headers=forwarded) as socket:
            assert (await socket.closed())[0] == 4029, "it may come back"
        # So may who is valid, behind such an address, and names its key in its first frame.
        async with open_socket(hub.ws_url, headers=forwarded) as socket:
            with pytest.raises(Refused, match="rate_limited"):
                await socket.ask("session.authenticate", {"token": made_up})
            assert (await socket.closed())[0] == 4029


async def test_with_the_backplane_away_a_node_holds_to_the_budget_by_itself(
    serve_hub: ServeHub, own_redis: RedisProcess
) -> None:
    async with serve_hub(HUB_REDIS_URL=own_redis.url, **TIGHT) as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with open_socket(hub.ws_url, token) as socket:
            await socket.ask("session.info")
            own_redis.kill()
            answers = [await by_socket(socket) for _ in range(2 * BURST)]
            assert BURST - 2 <= answers.count(None) <= BURST


@pytest.mark.parametrize("setting", ["HUB_USER_RATE", "HUB_TENANT_RATE"])
async def test_a_rate_of_zero_is_no_limit(serve_hub: ServeHub, setting: str) -> None:
    burst = setting.replace("RATE", "BURST")
    async with serve_hub(**{setting: "0", burst: "1"}) as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with open_socket(hub.ws_url, token) as socket:
            assert [await by_socket(socket) for _ in range(20)] == [None] * 20


async def test_a_tenant_has_one_budget_for_all_its_users(serve_hub: ServeHub) -> None:
    async with serve_hub(HUB_TENANT_RATE="0.1", HUB_TENANT_BURST="20") as hub:
        services = hub.hub.services
        ada = await hub.sign_up("ada@hub.example")
        tenant = services.tokens.read(ada["access_token"]).tenant_id
        code = await services.accounts.invite(tenant, "member")
        async with httpx.AsyncClient(base_url=hub.url) as client:
            joining = {"email": "bob@hub.example", "password": PASSWORD, "invitation": code}
            (await client.post("/v1/auth/register", json=joining)).raise_for_status()
            bob = (await client.post("/v1/auth/login", json=joining_login(joining))).json()
        async with (
            open_socket(hub.ws_url, ada["access_token"]) as hers,
            open_socket(hub.ws_url, bob["access_token"]) as his,
        ):
            for _ in range(10):
                await by_socket(hers)
                await by_socket(his)

            async def spent() -> bool:
                return (await by_socket(his)) is not None

            await eventually(spent)
            refusal = await by_socket(hers)
            assert refusal is not None
            assert refusal["scope"] == "tenant"


def joining_login(joining: dict[str, str]) -> dict[str, str]:
    return {name: joining[name] for name in ("email", "password")}
