"""Token attacks: whatever is wrong with a token, the answer is the same, on every way in."""

import json
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hub.identity.keys.api_keys import Wanted
from hub.identity.tokens.access_tokens import REFUSED
from tests.interaction.drivers import Refused, open_socket
from tests.parts.hub import ServedHub, serving
from tests.parts.scripted import ScriptedModel
from tests.parts.standing import accounted
from tests.transports.attacks import ATTACKS, Target, signed

ALGORITHMS = ("HS256", "RS256", "EdDSA")
_NUMBERS = count(1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ALGORITHMS)
async def attacked(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    scripted_model: ScriptedModel,
) -> AsyncIterator[tuple[ServedHub, Target]]:
    """A hub that signs by this algorithm, and what an attacker may have of it."""
    folder = tmp_path_factory.mktemp("attacked") / ".hub"
    environment = {"OLLAMA_HOST": scripted_model.host, "JWT_ALGORITHM": request.param}
    async with accounted(serving(folder, worker=False, **environment)) as hub:
        yield hub, await _target(hub)


async def _target(hub: ServedHub) -> Target:
    services = hub.hub.services
    session = await hub.sign_up("ada@hub.example")
    ended = await hub.sign_up("ended@hub.example")
    other = await hub.sign_up("eve@hub.example")
    await services.accounts.logout(ended["session_id"])
    claims = services.tokens.read(session["access_token"])
    actor = await services.authority.actor(claims)
    _, api_key = await services.api_keys.create(
        actor, actor.user_id, actor.tenant_id, Wanted("a bot")
    )
    return Target(
        session=session,
        key=services.tokens.keys.signing,
        ended=ended["access_token"],
        foreign_tenant=services.tokens.read(other["access_token"]).tenant_id,
        foreign_session=other["session_id"],
        api_key=api_key,
    )


def _seen(error: dict[str, Any]) -> dict[str, Any]:
    """What a caller sees of the fault, but for the trace id that finds it in the log."""
    data = {name: value for name, value in error["data"].items() if name != "trace_id"}
    return {**error, "data": data}


THE_SAME = {
    "code": 4010,
    "message": REFUSED,
    "data": {"reason": "unauthenticated", "retryable": False},
}


async def test_the_token_that_the_attacks_are_made_of_is_good(
    attacked: tuple[ServedHub, Target],
) -> None:
    hub, target = attacked
    for good in (target.token, signed(target, {}, target.claims), target.api_key):
        async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
            headers = {"Authorization": f"Bearer {good}"}
            assert (await client.get("/v1/sessions/current", headers=headers)).status_code == 200


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
async def test_an_attack_is_answered_like_any_other_on_every_way_in(
    attacked: tuple[ServedHub, Target], attack: Callable[[Target], str]
) -> None:
    hub, target = attacked
    token = attack(target)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        for path in ("/v1/sessions/current", "/v1/channels/conversation:c_1/events"):
            response = await client.get(path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == 'Bearer realm="hub"'
            assert _seen(response.json()["error"]) == THE_SAME
    async with open_socket(hub.ws_url, token) as handshake:
        code, why = await handshake.closed()
        assert (code, json.loads(why)) == (4500, {"reason": "invalid_token"})
        assert handshake._heard == []
    async with open_socket(hub.ws_url) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.authenticate", {"token": token})
        error = {"code": refusal.value.code, "message": refusal.value.message}
        assert {**error, "data": THE_SAME["data"]} == THE_SAME
        assert (refusal.value.reason, refusal.value.details) == ("unauthenticated", {})
        assert (await socket.closed())[0] == 4500


async def test_an_attack_on_an_open_connection_changes_nothing(
    attacked: tuple[ServedHub, Target],
) -> None:
    hub, target = attacked
    async with open_socket(hub.ws_url, target.token) as socket:
        before = await socket.ask("session.info")
        for name in ("alg 'none'", "no kid", "jwk", "another tenant's tid", "the refresh token"):
            with pytest.raises(Refused, match="unauthenticated"):
                await socket.ask("session.refresh", {"token": ATTACKS[name](target)})
        assert await socket.ask("session.info") == before


async def test_nothing_but_a_refresh_token_refreshes(attacked: tuple[ServedHub, Target]) -> None:
    hub, target = attacked
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        seen = set()
        for token in (target.token, target.api_key, "nonsense"):
            response = await client.post("/v1/auth/refresh", json={"refresh_token": token})
            assert response.status_code == 401
            seen.add(json.dumps(_seen(response.json()["error"])))
        assert len(seen) == 1
