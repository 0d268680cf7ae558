"""A tenant that is suspended or deleted, or a member who is removed, on one node: what that ends on
another, while an answer is streaming there.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx
import pytest

from tests.agents.client import opened
from tests.agents.test_runs import slowly
from tests.faults.test_revocation import (
    WITHIN_S,
    Person,
    _end,
    person,
    stream,
    stream_ends,
)
from tests.interaction.drivers import eventually
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, ServedHub, ServeHub

BOSS: Final = "boss@hub.example"
TRIALS: Final = 3


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of two nodes on one database, and on one Redis."""
    return {
        "HUB_DATABASE_URL": request.getfixturevalue(request.param),
        "HUB_REDIS_URL": request.getfixturevalue("redis_server").url,
    }


@pytest.fixture
async def nodes(
    shared: dict[str, str], serve_hub: ServeHub
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    """Where it is asked for, and where people are. The hub began with the tenant of ``BOSS``."""
    async with serve_hub(worker=False, **shared) as here, serve_hub(**shared) as there:
        await here.sign_up(BOSS)
        yield here, there


async def ask(hub: ServedHub, method: str, path: str, **body: Any) -> dict[str, Any]:
    """Ask over REST, as the operator."""
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        account = {"email": BOSS, "password": PASSWORD}
        token = (await client.post("/v1/auth/login", json=account)).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        how: dict[str, Any] = {"params": body} if method == "DELETE" else {"json": body}
        answer = await client.request(method, path, headers=headers, **how)
    return dict(answer.raise_for_status().json())


Deed = Callable[[ServedHub, Person], Awaitable[object]]


async def suspended(hub: ServedHub, who: Person) -> None:
    await ask(hub, "POST", f"/v1/tenants/{who.tenant_id}/suspend")


async def deleted(hub: ServedHub, who: Person) -> None:
    name = (await hub.hub.services.tenants.get(who.tenant_id)).name
    await ask(hub, "DELETE", f"/v1/tenants/{who.tenant_id}", confirm=name)


async def removed(hub: ServedHub, who: Person) -> None:
    services = hub.hub.services
    # The person has no role that a tenant keeps one of; somebody else owns it.
    email = f"{who.user_id.lower()}-owner@hub.example"
    await services.accounts.create_user(email, PASSWORD, who.tenant_id, "owner")
    await services.members.remove(who.tenant_id, who.user_id, by=None)


DEEDS: Final[dict[Deed, str]] = {
    suspended: "tenant_suspended",
    deleted: "tenant_suspended",
    removed: "membership_ended",
}


async def trial(here: ServedHub, there: ServedHub, deed: Deed) -> float:
    """Seconds from the answer of the deed to the last of the ends."""
    who = await person(here)
    run_ended = asyncio.Event()

    def on_log(channel: str, epoch: str, seq: int, data: bytes) -> None:
        if json.loads(data)["type"] == "RUN_ERROR":
            run_ended.set()

    async with opened(there.url, who.token) as client:
        conversation = await client.conversation()
        backplane = here.hub.services.backplane
        await backplane.subscribe(f"conversation:{conversation}", on_log)
        async with stream(there, who.token, conversation) as response:
            ending = asyncio.create_task(stream_ends(response))
            await client.send(conversation, slowly(1_000, 5))
            await client.says(conversation, "w3 ")
            await deed(here, who)
            began = time.perf_counter()
            await client.until(lambda: _end(client) is not None, WITHIN_S)
            assert _end(client) == DEEDS[deed]
            async with asyncio.timeout(WITHIN_S):
                _, why = await ending
                await run_ended.wait()
                await client.socket.wait_closed()
            assert why == DEEDS[deed]
            assert client.socket.close_code == 4503
        await backplane.unsubscribe(f"conversation:{conversation}")
        return time.perf_counter() - began


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
async def test_what_is_open_on_another_node_ends_within_a_second(
    nodes: tuple[ServedHub, ServedHub], deed: Deed, figures: Figures
) -> None:
    times = sorted([await trial(*nodes, deed) for _ in range(TRIALS)])
    figures(f"{deed.__name__} on another node: all ended after {times[-1] * 1e3:.0f} ms at most")
    assert times[-1] < WITHIN_S


async def test_a_tenant_that_is_resumed_lets_its_members_in_on_every_node(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    here, there = nodes
    who = await person(here)
    await suspended(here, who)
    async with httpx.AsyncClient(base_url=there.url, trust_env=False) as client:
        headers = {"Authorization": f"Bearer {who.token}"}
        closed = await client.get("/v1/sessions/current", headers=headers)
        await ask(here, "POST", f"/v1/tenants/{who.tenant_id}/resume")

        async def inside() -> bool:
            found = await client.get("/v1/sessions/current", headers=headers)
            return found.status_code == 200

        await eventually(inside, WITHIN_S)
    assert closed.status_code == 401
