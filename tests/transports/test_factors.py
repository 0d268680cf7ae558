"""Second factors over HTTP and on the socket: signing in, who must have one, who resets them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyotp
import pytest

from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import PASSWORD, ServedHub

EMAIL = "ada@hub.example"


class Api:
    """REST, as somebody."""

    def __init__(self, client: httpx.AsyncClient, session: dict[str, Any]) -> None:
        self._client = client
        self.session = session

    async def ask(self, method: str, path: str, **params: Any) -> tuple[int, dict[str, Any]]:
        headers = {"authorization": f"Bearer {self.session['access_token']}"}
        headers |= params.pop("headers", {})
        body = {"json": params} if method == "POST" else {"params": params}
        answer = await self._client.request(method, path, headers=headers, **body)  # type: ignore[arg-type]
        return answer.status_code, answer.json()

    async def enrol(self) -> str:
        """The secret of a factor in force."""
        _, enrolment = await self.ask("POST", "/v1/factor/enrol")
        code = pyotp.TOTP(enrolment["secret"]).now()
        status, _ = await self.ask("POST", "/v1/factor/confirm", code=code)
        assert status == 200
        return str(enrolment["secret"])


@pytest.fixture
async def client(served_hub: ServedHub) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served_hub.url, trust_env=False) as client:
        yield client


@pytest.fixture
async def ada(served_hub: ServedHub, client: httpx.AsyncClient) -> Api:
    """The owner of a tenant."""
    return Api(client, await served_hub.sign_up(EMAIL))


async def member(hub: ServedHub, client: httpx.AsyncClient, ada: Api, role: str) -> Api:
    """Somebody in the tenant of Ada."""
    services = hub.hub.services
    tenant_id = services.tokens.read(ada.session["access_token"]).tenant_id
    email = f"{role}@hub.example"
    await services.accounts.create_user(email, PASSWORD, tenant_id, role)
    return await signed_in(client, role)


async def signed_in(client: httpx.AsyncClient, role: str) -> Api:
    """Another session of such a member."""
    account = {"email": f"{role}@hub.example", "password": PASSWORD}
    answer = await client.post("/v1/auth/login", json=account)
    return Api(client, answer.raise_for_status().json())


def reason(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    status, body = answer
    return status, body["error"]["data"]["reason"]


def user_of(hub: ServedHub, somebody: Api) -> str:
    return hub.hub.services.tokens.read(somebody.session["access_token"]).user_id


async def test_a_sign_in_goes_on_with_the_challenge_and_a_code(
    client: httpx.AsyncClient, ada: Api
) -> None:
    secret = await ada.enrol()
    account = {"email": EMAIL, "password": PASSWORD}
    refused = await client.post("/v1/auth/login", json=account)
    assert refused.status_code == 401
    error = refused.json()["error"]
    assert (error["code"], error["data"]["reason"]) == (4013, "second_factor_required")
    challenge = error["data"]["details"]["challenge"]
    assert error["data"]["details"]["expires_in"] == 300
    wrong = await client.post("/v1/auth/factor", json={"challenge": challenge, "code": "x"})
    assert wrong.status_code == 401
    assert wrong.json()["error"]["data"]["reason"] == "unauthenticated"
    code = pyotp.TOTP(secret).at(int(time.time()) + 30)  # that of now has confirmed the enrolment
    answer = await client.post("/v1/auth/factor", json={"challenge": challenge, "code": code})
    assert answer.status_code == 200
    assert {"access_token", "refresh_token", "session_id"} <= set(answer.json())


async def test_what_is_shown_once_is_not_given_again_for_an_idempotency_key(ada: Api) -> None:
    key = {"headers": {"idempotency-key": "1"}}
    _, first = await ada.ask("POST", "/v1/factor/enrol", **key)
    assert "secret" in first
    assert reason(await ada.ask("POST", "/v1/factor/enrol", **key)) == (409, "conflict")


async def test_who_must_enrol_can_do_nothing_else_on_any_transport_until_it_is_done(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api
) -> None:
    admin = await member(served_hub, client, ada, "admin")
    _, begun = await admin.ask("POST", "/v1/conversations", model="echo")
    channel = {"channel": f"conversation:{begun['id']}"}
    async with open_socket(served_hub.ws_url, admin.session["access_token"]) as socket:
        await socket.ask("channel.subscribe", channel)
        await ada.enrol()
        assert await ada.ask("POST", "/v1/factor/policy", role="admin") == (200, {"rank": 40})
        ended = await socket.notice("subscription.ended", within=1.0)
        assert ended["reason"] == "enrolment_required"
        with pytest.raises(Refused, match="enrolment_required"):
            await socket.ask("conversation.list")
        info = await socket.ask("session.info")
        assert info["permissions"] == []
        stream = f"/v1/channels/{channel['channel']}/events"
        for path in ("/v1/conversations", "/v1/factor/policy", stream):
            assert reason(await admin.ask("GET", path)) == (403, "enrolment_required")
        disabling = admin.ask("POST", "/v1/factor/disable", code="1")
        assert reason(await disabling) == (403, "enrolment_required")
        assert (await admin.ask("GET", "/v1/factor"))[1]["required"] is True
        await admin.enrol()
        assert (await admin.ask("GET", "/v1/conversations"))[0] == 200
        await socket.ask("channel.subscribe", channel)
        assert (await socket.ask("factor.get"))["required"] is False


async def test_a_demand_is_of_a_role_and_those_above_it(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api
) -> None:
    below = await member(served_hub, client, ada, "operator")
    await ada.ask("POST", "/v1/factor/policy", role="admin")
    assert (await below.ask("GET", "/v1/conversations"))[0] == 200
    assert reason(await ada.ask("GET", "/v1/conversations")) == (403, "enrolment_required")
    await ada.enrol()
    assert await ada.ask("GET", "/v1/factor/policy") == (200, {"rank": 40})
    assert (await ada.ask("POST", "/v1/factor/policy", role="nobody"))[0] == 404
    assert await ada.ask("POST", "/v1/factor/policy") == (200, {})
    assert await ada.ask("GET", "/v1/factor/policy") == (200, {})
    assert reason(await below.ask("POST", "/v1/factor/policy", role="viewer"))[0] == 403


def later(secret: str) -> str:
    """The code of the next half minute: that of now has confirmed the enrolment."""
    return pyotp.TOTP(secret).at(int(time.time()) + 30)


async def cut_back(socket: Socket) -> None:
    """Wait, for a second, until who is on this socket must show a second factor."""
    ended = await socket.notice("subscription.ended", within=1.0)
    assert ended["reason"] == "enrolment_required"
    with pytest.raises(Refused, match="enrolment_required"):
        await socket.ask("conversation.list")
    assert (await socket.ask("factor.get"))["required"] is True


async def test_a_session_that_was_opened_without_the_factor_is_cut_back_until_it_shows_it(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api
) -> None:
    admin = await member(served_hub, client, ada, "admin")
    older = await signed_in(client, "admin")
    _, begun = await admin.ask("POST", "/v1/conversations", model="echo")
    channel = f"conversation:{begun['id']}"
    await ada.enrol()
    token = older.session["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    async with (
        open_socket(served_hub.ws_url, token) as socket,
        client.stream("GET", f"/v1/channels/{channel}/events", headers=headers) as stream,
    ):
        await socket.ask("channel.subscribe", {"channel": channel})
        secret = await admin.enrol()  # in the session that has the factor from then on
        assert (await ada.ask("POST", "/v1/factor/policy", role="admin"))[0] == 200
        await cut_back(socket)
        async with asyncio.timeout(1.0):
            said = "".join([line async for line in stream.aiter_lines()])
        assert "enrolment_required" in said
        assert (await admin.ask("GET", "/v1/conversations"))[0] == 200
        state = await socket.ask("factor.get")
        assert (state["required"], "enrolled_at" in state) == (True, True)
        assert reason(await older.ask("POST", "/v1/factor/enrol")) == (409, "conflict")
        wrong = older.ask("POST", "/v1/factor/prove", code="000000")
        assert reason(await wrong) == (403, "permission_denied")
        await socket.ask("factor.prove", {"code": later(secret)})
        await socket.ask("channel.subscribe", {"channel": channel})
        assert (await socket.ask("factor.get"))["required"] is False
        assert (await older.ask("GET", "/v1/conversations"))[0] == 200


async def test_who_is_given_a_role_that_demands_a_factor_is_cut_back_at_once(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api
) -> None:
    operator = await member(served_hub, client, ada, "operator")
    _, begun = await operator.ask("POST", "/v1/conversations", model="echo")
    channel = {"channel": f"conversation:{begun['id']}"}
    await ada.enrol()
    await ada.ask("POST", "/v1/factor/policy", role="admin")
    async with open_socket(served_hub.ws_url, operator.session["access_token"]) as socket:
        await socket.ask("channel.subscribe", channel)
        user_id = user_of(served_hub, operator)
        assert (await ada.ask("POST", "/v1/roles/admin/assign", user_id=user_id))[0] == 200
        await cut_back(socket)
        await operator.enrol()
        await socket.ask("channel.subscribe", channel)


@pytest.mark.parametrize("by", ["themselves", "a letter"])
async def test_that_a_factor_was_shown_is_worth_nothing_once_it_is_gone(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api, by: str
) -> None:
    admin = await member(served_hub, client, ada, "admin")
    _, begun = await admin.ask("POST", "/v1/conversations", model="echo")
    await ada.enrol()
    secret = await admin.enrol()
    await ada.ask("POST", "/v1/factor/policy", role="admin")
    async with open_socket(served_hub.ws_url, admin.session["access_token"]) as socket:
        await socket.ask("channel.subscribe", {"channel": f"conversation:{begun['id']}"})
        if by == "themselves":
            given = {"code": later(secret), "password": PASSWORD}
            done = await admin.ask("POST", "/v1/factor/disable", **given)
        else:
            token = await served_hub.letter(user_of(served_hub, admin), "factor")
            done = await admin.ask("POST", "/v1/auth/factor/reset", token=token)
        assert done == (200, {})
        await cut_back(socket)
        old = admin.session["refresh_token"]
        _, admin.session = await admin.ask("POST", "/v1/auth/refresh", refresh_token=old)
        assert reason(await admin.ask("GET", "/v1/conversations")) == (403, "enrolment_required")
        await admin.enrol()
        assert (await admin.ask("GET", "/v1/conversations"))[0] == 200


async def test_the_token_that_the_operator_makes_at_the_machine_needs_no_factor(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api
) -> None:
    await ada.ask("POST", "/v1/factor/policy", role="owner")
    token = await served_hub.hub.services.accounts.access_token_for(EMAIL)
    headers = {"authorization": f"Bearer {token}"}
    assert (await client.get("/v1/conversations", headers=headers)).status_code == 200


async def test_another_tenants_demand_is_its_own(
    served_hub: ServedHub, client: httpx.AsyncClient, ada: Api
) -> None:
    bob = Api(client, await served_hub.sign_up("bob@hub.example"))
    await ada.ask("POST", "/v1/factor/policy", role="viewer")
    assert (await bob.ask("GET", "/v1/conversations"))[0] == 200
