"""How a WebSocket is opened: who may, and how it begins (contract 1)."""

import asyncio
import json
from datetime import datetime
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from hub.protocol.limits import CLIENT_LIMITS
from hub.transports import login
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.transports.conftest import ORIGIN
from tests.transports.tokens import lasting

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _refused(ws_url: str, **how: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as refusal:
        async with open_socket(ws_url, **how):
            pass
    response = refusal.value.response
    return response.status_code, json.loads(response.body)["error"]


async def _closed(socket: Socket) -> tuple[int | None, str]:
    code, reason = await socket.closed()
    return code, json.loads(reason)["reason"]


@pytest.mark.parametrize("subprotocol", [None, "agenthub.v2"])
async def test_without_the_subprotocol_the_upgrade_is_refused(
    hub: ServedHub, token: str, subprotocol: str | None
) -> None:
    status, error = await _refused(hub.ws_url, token=token, subprotocol=subprotocol)
    assert (status, error["data"]["reason"]) == (400, "invalid_request")
    assert "agenthub.v1" in error["message"]


async def test_the_subprotocol_is_chosen(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        assert socket.websocket.subprotocol == "agenthub.v1"


async def test_a_query_string_is_refused_whatever_is_in_it(hub: ServedHub, token: str) -> None:
    status, error = await _refused(f"{hub.ws_url}?token={token}")
    assert (status, error["data"]["reason"]) == (400, "invalid_request")
    assert token not in json.dumps(error)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://chat.example.evil.example", "null"]
)
async def test_an_origin_that_is_not_on_the_list_is_refused(
    hub: ServedHub, token: str, origin: str
) -> None:
    status, error = await _refused(hub.ws_url, token=token, origin=origin)
    assert (status, error["data"]["reason"]) == (403, "permission_denied")


async def test_the_origins_on_the_list_and_the_hubs_own_are_let_in(
    hub: ServedHub, token: str
) -> None:
    port = hub.url.rpartition(":")[2]
    for origin in (ORIGIN, hub.url, f"http://localhost:{port}"):
        async with open_socket(hub.ws_url, token, origin=origin) as socket:
            await socket.notice("session.ready")


async def test_a_hub_on_all_interfaces_lets_its_own_page_in_at_loopback_and_no_other_name(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub(HUB_HOST="0.0.0.0", HUB_REGISTRATION="open") as served:
        port = served.url.rpartition(":")[2]
        own = f"http://127.0.0.1:{port}"
        served.url = own
        token = (await served.sign_up("ada@hub.example"))["access_token"]
        for origin in (own, f"http://localhost:{port}"):
            async with open_socket(served.ws_url, token, origin=origin) as socket:
                await socket.notice("session.ready")
        status, _ = await _refused(served.ws_url, token=token, origin=f"http://hub.example:{port}")
        assert status == 403


async def test_a_plain_http_request_is_told_to_upgrade(hub: ServedHub) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(hub.url + "/ws")
    assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
    assert response.json()["error"]["data"]["reason"] == "invalid_request"


async def test_the_first_frame_is_session_ready_with_all_its_fields(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        first = await socket.heard(lambda frame: True)
        assert first["method"] == "session.ready"
        ready = first["params"]
        who = await socket.ask("session.info")
    assert datetime.fromisoformat(ready.pop("expires_at")) == datetime.fromisoformat(
        who["expires_at"]
    )
    assert ready.pop("connection_id").startswith("k_")
    assert ready == {
        "protocol": "agenthub.v1",
        "node": hub.hub.services.node,
        "user": who["user_id"],
        "tenant": who["tenant_id"],
        "roles": ["owner"],
        "heartbeat_s": 25.0,
        "limits": CLIENT_LIMITS,
        "resumed": False,
    }


async def test_a_bearer_token_that_is_not_valid_closes_with_4500(hub: ServedHub) -> None:
    async with open_socket(hub.ws_url, "nonsense") as socket:
        assert await _closed(socket) == (4500, "invalid_token")


async def test_a_bearer_token_that_has_run_out_closes_with_4005(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, lasting(hub, token, -60)) as socket:
        assert await _closed(socket) == (4005, "token_expired")


async def test_a_browser_authenticates_with_its_first_frame(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, origin=hub.url) as socket:
        asked = await socket.begin("session.authenticate", {"token": token})
        first = await socket.heard(lambda frame: True)
        assert first["method"] == "session.ready"
        result = await socket.result(asked)
        assert datetime.fromisoformat(result["expires_at"]) == datetime.fromisoformat(
            first["params"]["expires_at"]
        )
        assert (await socket.ask("conversation.list"))["items"] == []


async def test_before_authentication_other_methods_are_refused_and_the_socket_stays(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url) as socket:
        for method in ("session.ping", "conversation.list", "session.refresh", "no.such"):
            with pytest.raises(Refused) as refusal:
                await socket.ask(method)
            assert (refusal.value.reason, refusal.value.code) == ("unauthenticated", 4010)
        await socket.ask("session.authenticate", {"token": token})
        await socket.ask("session.ping")


async def test_parameters_that_are_wrong_can_be_sent_again(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url) as socket:
        for params in ({}, {"token": 7}, {"token": token, "colour": "blue"}):
            with pytest.raises(Refused) as refusal:
                await socket.ask("session.authenticate", params)
            assert refusal.value.reason == "invalid_params"
        await socket.ask("session.authenticate", {"token": token})


async def test_a_second_authentication_is_a_conflict(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.authenticate", {"token": token})
        assert refusal.value.reason == "conflict"


async def test_authenticating_with_a_token_that_is_not_valid_closes_with_4500(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.authenticate", {"token": token[:-4] + "AAAA"})
        assert refusal.value.reason == "unauthenticated"
        assert await _closed(socket) == (4500, "invalid_token")


async def test_authenticating_with_a_token_that_has_run_out_closes_with_4005(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.authenticate", {"token": lasting(hub, token, -60)})
        assert refusal.value.reason == "token_expired"
        assert await _closed(socket) == (4005, "token_expired")


async def test_who_never_authenticates_is_closed_with_4502(
    hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "AUTHENTICATE_DEADLINE_S", 0.2)
    began = asyncio.get_running_loop().time()
    async with open_socket(hub.ws_url) as socket:
        assert await _closed(socket) == (4502, "never_authenticated")
    assert asyncio.get_running_loop().time() - began >= 0.2


async def test_the_deadline_is_over_once_one_is_authenticated(
    hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "AUTHENTICATE_DEADLINE_S", 0.2)
    async with open_socket(hub.ws_url, token) as socket:
        with pytest.raises(TimeoutError):
            await socket.closed(within=0.5)
        await socket.ask("session.ping")


async def test_an_operation_of_http_alone_is_not_a_method_of_the_socket(
    hub: ServedHub, token: str
) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        for method in ("account.login", "no.such"):
            with pytest.raises(Refused) as refusal:
                await socket.ask(method, {"email": "a@hub.example", "password": "x"})
            assert refusal.value.reason == "method_not_found"
