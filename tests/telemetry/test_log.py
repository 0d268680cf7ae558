"""What a hub writes while it works: no secret, whole lines, one error for a failure."""

import asyncio
import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog

from hub.faults import Fault
from hub.operations.operation import Nothing
from hub.operations.session import ping
from hub.telemetry.logs import configure_logs
from tests.interaction.drivers import Refused, open_socket, refused
from tests.parts.hub import HubProcess, ServedHub, ServeHub

PASSWORD = "Tr0ub4dor-and-three-words"
WRONG = "a-wrong-password-of-hers"
KEY = "kDmW3Zq8vN5tYb2RfLx7HcJ4sGpA9eUi6oTnVyXwQrE1"


async def test_no_secret_reaches_the_log_even_at_debug_level(hub_process: HubProcess) -> None:
    hub_process.environment |= {
        "HUB_LOG_FORMAT": "json",
        "HUB_LOG_LEVEL": "debug",
        "JWT_SECRET_KEY": KEY,
    }
    await asyncio.to_thread(hub_process.start)
    secrets = [PASSWORD, WRONG, KEY]
    account = {"email": "ada@hub.example", "password": PASSWORD}
    async with httpx.AsyncClient(base_url=hub_process.url, trust_env=False) as client:
        await client.post("/v1/auth/register", json=account)
        await client.post("/v1/auth/login", json={**account, "password": WRONG})
        session = (await client.post("/v1/auth/login", json=account)).json()
        secrets += [session["access_token"], session["refresh_token"]]
        old = {"refresh_token": session["refresh_token"]}
        session = (await client.post("/v1/auth/refresh", json=old)).json()
        token = session["access_token"]
        secrets += [token, session["refresh_token"], token.split(".")[2]]
        await client.post("/v1/auth/refresh", json={"refresh_token": "not-a-refresh-token"})
        await client.post("/v1/auth/link", json={"code": "a-code-of-a-link"})
        secrets += ["not-a-refresh-token", "a-code-of-a-link"]
        bearer = {"Authorization": f"Bearer {token}"}
        await client.get("/v1/conversations", headers=bearer)
        await client.get("/v1/conversations?access_token=" + token)
        await client.get("/v1/conversations", headers={"Authorization": "Bearer forged.by.me"})
        secrets.append("forged.by.me")
        ws_url = hub_process.url.replace("http", "ws", 1) + "/ws"
        async with open_socket(ws_url) as socket:
            with pytest.raises(Refused):
                await socket.ask("session.authenticate", {"token": token, "password": PASSWORD})
            await socket.ask("session.authenticate", {"token": token})
            await socket.ask("session.refresh", {"token": token})
            with pytest.raises(Refused):
                await socket.ask("conversation.create", {"password": PASSWORD})
        async with open_socket(ws_url, token) as socket:
            await socket.websocket.send(b'{"\xff"', text=True)
            await socket.closed()
        with pytest.raises(Exception, match="400"):
            async with open_socket(f"{ws_url}?token={token}"):
                pass
        await client.post("/v1/auth/logout", headers=bearer)
    assert await asyncio.to_thread(hub_process.stop) == 0
    written = hub_process.log
    for secret in secrets:
        assert secret not in written
    assert "$2b$" not in written, "a password hash"
    lines = [json.loads(line) for line in written.splitlines()]
    assert {"the hub is up", "the hub has ended"} <= {line["event"] for line in lines}
    assert [line for line in lines if line["level"] in ("error", "critical")] == []


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The log of a hub in this process, as JSON."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    config = structlog.get_config()
    stream = io.StringIO()
    configure_logs(form="json", level="info", stream=stream)
    yield stream
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_a_failing_handler_logs_one_error_with_the_trace_id_that_the_client_got(
    served_hub: ServedHub, written: io.StringIO
) -> None:
    async def fail(call: Any, params: Nothing) -> Any:
        raise RuntimeError("the reactor is too hot")

    dispatcher = served_hub.hub.socket._dispatcher
    failing = dataclasses.replace(ping, handler=fail)
    dispatcher.operations = {
        **dispatcher.operations,
        "session.ping": failing,
        "conversation.list": dataclasses.replace(
            dispatcher.operations["conversation.list"], handler=fail
        ),
    }
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.ping", id="my-7")
        assert refusal.value.reason == "internal_error"
        _is_told_once(written, refusal.value)
        (error,) = _lines(written, "error")
        (connection,) = served_hub.hub.socket.connections._all
        assert (error["connection"], error["request"]) == (connection.id, "my-7")
        await socket.ask("session.info")


def _lines(written: io.StringIO, *levels: str) -> list[dict[str, Any]]:
    """Of these levels, but for the letters that a hub without a mail server writes."""
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    letters = "a letter that no mail server takes"
    return [line for line in lines if line["level"] in levels and line["event"] != letters]


def _is_told_once(written: io.StringIO, refusal: Refused) -> None:
    (error,) = _lines(written, "error")
    assert error["trace_id"] == refusal.trace_id != ""
    assert error["method"] == "session.ping"
    assert "RuntimeError: the reactor is too hot" in error["exception"]
    for told in (b"reactor", b"Traceback", b"RuntimeError"):
        assert told not in refusal.bytes


async def test_a_failure_over_http_tells_its_trace_id_and_nothing_else(
    served_hub: ServedHub, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the reactor is too hot")

    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    monkeypatch.setattr("hub.operations.conversation.Listing.page", fail)
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        response = await client.get(
            "/v1/conversations",
            headers={"Authorization": f"Bearer {token}", "X-Request-Id": "my-7"},
        )
    refusal = refused(response)
    assert (response.status_code, refusal.reason) == (500, "internal_error")
    assert b"reactor" not in response.content
    (error,) = _lines(written, "error")
    assert (error["trace_id"], error["request"]) == (refusal.trace_id, "my-7")


async def test_a_failure_outside_of_an_operation_keeps_the_name_of_its_request(
    served_hub: ServedHub, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the reactor is too hot")

    monkeypatch.setattr("hub.transports.health.readiness", fail)
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        response = await client.get("/health/ready", headers={"X-Request-Id": "my-7"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "my-7")
    assert "my-7" in {line.get("request") for line in _lines(written, "error")}


async def test_a_part_that_is_away_is_one_warning_for_each_request_it_fails(
    served_hub: ServedHub, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Fault("backend_unavailable", "The database cannot be used now; try again.")

    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    monkeypatch.setattr("hub.operations.conversation.Listing.page", away)
    bearer = {"Authorization": f"Bearer {token}"}
    async with open_socket(served_hub.ws_url, token) as socket:
        with pytest.raises(Refused, match="backend_unavailable"):
            await socket.ask("conversation.list", id=7)
        with pytest.raises(Refused, match="not_found"):
            await socket.ask("conversation.get", {"conversation_id": "c_" + "0" * 26})
        (connection,) = served_hub.hub.socket.connections._all
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        response = await client.get("/v1/conversations", headers=bearer)
        assert response.status_code == 503
        assert (await client.get("/v1/conversations?limit=0", headers=bearer)).status_code == 422
    over_socket, over_http = _lines(written, "warning", "error", "critical")
    for line in (over_socket, over_http):
        assert (line["level"], line["event"]) == ("warning", "an operation failed")
        assert (line["method"], line["reason"]) == ("conversation.list", "backend_unavailable")
        assert line["trace_id"]
    assert (over_socket["connection"], over_socket["request"]) == (connection.id, 7)
    assert over_http["request"] == response.headers["x-request-id"]


async def test_every_request_is_counted_with_how_it_ended(serve_hub: ServeHub) -> None:
    async with serve_hub() as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with open_socket(hub.ws_url, token) as socket:
            await socket.ask("session.ping")
            with pytest.raises(Refused):
                await socket.ask("conversation.get", {"conversation_id": "nonsense"})
            value = hub.hub.services.metrics.registry.get_sample_value
            assert value("hub_connections") == 1
        for method, transport, reason in (
            ("session.ping", "websocket", "ok"),
            ("conversation.get", "websocket", "invalid_params"),
            ("account.login", "rest", "ok"),
        ):
            labels = {"method": method, "transport": transport, "reason": reason}
            assert value("hub_requests_total", labels) == 1
            assert value("hub_request_seconds_count", {"method": method}) == 1
        assert value("hub_logins_total", {"outcome": "accepted"}) == 1
    assert value("hub_connections") == 0
