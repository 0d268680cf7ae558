"""REST beside the table of operations: bodies, methods, Idempotency-Key (contract 9)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import update
from sqlmodel import col

from hub.ids import is_id
from hub.operations.operation import Streamed
from hub.operations.table import OPERATIONS
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership
from tests.interaction.drivers import RestCaller, refused
from tests.parts.hub import PASSWORD, ServedHub

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(hub: ServedHub, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who is signed in."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=hub.url, headers=headers, trust_env=False) as one:
        yield one


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "parse_error"),
        (b"title=Sky", "parse_error"),
        (b'{"title":"a","title":"b"}', "parse_error"),
        (b'{"title":NaN}', "parse_error"),
        (b'{"title":1e400}', "parse_error"),
        (b'{"title":"\\ud800"}', "parse_error"),
        (b'{"title":"\xff"}', "parse_error"),
        (b"\xef\xbb\xbf{}", "parse_error"),
        (b"[" * 40 + b"]" * 40, "parse_error"),
        (b'{"title":' + b"9" * 5_000 + b"}", "parse_error"),
        (b"[]", "invalid_params"),
        (b"null", "invalid_params"),
        (b'"title"', "invalid_params"),
        (b'{"title":"' + b"x" * 65_536 + b'"}', "invalid_request"),
    ],
)
async def test_a_body_is_read_as_strictly_as_a_frame(
    client: httpx.AsyncClient, body: bytes, reason: str
) -> None:
    answer = refused(await client.post("/v1/conversations", content=body, headers=JSON))
    assert answer.reason == reason


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_of_another_content_type_is_refused(
    client: httpx.AsyncClient, kind: str
) -> None:
    response = await client.post(
        "/v1/conversations", content=b'{"title":"Sky"}', headers={"Content-Type": kind}
    )
    assert refused(response).reason == "invalid_request"


async def test_a_charset_beside_the_content_type_is_fine(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    response = await client.post("/v1/conversations", content=b"{}", headers=headers)
    assert response.status_code == 201


async def test_no_body_is_no_parameters(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/conversations")).status_code == 201


async def test_a_parameter_is_given_in_one_place(client: httpx.AsyncClient) -> None:
    made = (await client.post("/v1/conversations")).json()["id"]
    for response in (
        await client.get("/v1/conversations?limit=1&limit=2"),
        await client.post("/v1/conversations?title=Sky"),
        await client.get(f"/v1/conversations/{made}?conversation_id={made}"),
        await client.patch(f"/v1/conversations/{made}", json={"conversation_id": made}),
    ):
        assert refused(response).reason == "invalid_params"


async def test_an_unknown_path_answers_in_our_form(client: httpx.AsyncClient) -> None:
    for path in ("/v1/nothing", "/v1/auth/login/x", "/ws/x", "/v1/conversations/", "/ws/"):
        answer = refused(await client.get(path))
        assert answer.reason == "method_not_found"


async def test_a_method_that_a_path_does_not_take_names_all_that_it_does(
    client: httpx.AsyncClient,
) -> None:
    paths: dict[str, set[str]] = {}
    for operation in OPERATIONS.values():
        if operation.http is not None:
            paths.setdefault(operation.http.path, set()).add(operation.http.method)
    for path, methods in paths.items():
        response = await client.put(path.replace("{", "").replace("}", ""))
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) - {"HEAD"} == methods
        error = response.json()["error"]
        assert error["data"]["reason"] == "method_not_found"
        assert error["data"]["trace_id"] == response.headers["x-trace-id"]


async def test_a_head_request_answers_as_get_without_the_body(client: httpx.AsyncClient) -> None:
    response = await client.head("/v1/conversations")
    assert (response.status_code, response.content) == (200, b"")


async def test_who_has_no_valid_credentials_is_told_how_to_show_them(hub: ServedHub) -> None:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as stranger:
        for value in ("", "Bearer", "Bearer a b", "Basic YTpi", "Bearer nonsense"):
            response = await stranger.get("/v1/conversations", headers={"Authorization": value})
            assert refused(response).reason == "unauthenticated"
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_who_signs_in_again_may_still_show_the_old_token(hub: ServedHub) -> None:
    await hub.sign_up("again@hub.example")
    account = {"email": "again@hub.example", "password": PASSWORD}
    old = {"Authorization": "Bearer nonsense"}
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as stranger:
        response = await stranger.post("/v1/auth/login", json=account, headers=old)
    assert response.is_success


async def test_a_token_in_the_query_is_no_credential(hub: ServedHub, token: str) -> None:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as stranger:
        response = await stranger.get(f"/v1/conversations?access_token={token}")
    assert refused(response).reason == "unauthenticated"


async def test_answers_are_not_kept_by_caches(client: httpx.AsyncClient) -> None:
    for path in ("/v1/conversations", "/v1/nothing"):
        assert (await client.get(path)).headers["cache-control"] == "no-store"


async def test_the_callers_trace_goes_on_in_the_answer(client: httpx.AsyncClient) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    for path in ("/v1/conversations", "/v1/conversations?limit=0", "/v1/nothing"):
        assert (await client.get(path, headers=headers)).headers["x-trace-id"] == trace_id


@pytest.mark.parametrize("given", ["q-1", "~" * 128, "!", "00-ab:cd/ef"])
async def test_the_callers_request_id_comes_back_with_every_answer(
    client: httpx.AsyncClient, given: str
) -> None:
    for path in ("/v1/conversations", "/v1/conversations?limit=0", "/v1/nothing", "/health/live"):
        response = await client.get(path, headers={"X-Request-Id": given})
        assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", b"a\tb", "ü".encode()])
async def test_a_request_without_a_name_of_good_form_gets_one_of_its_own(
    client: httpx.AsyncClient, given: bytes | None
) -> None:
    headers = {} if given is None else {b"X-Request-Id": given}
    answers = [
        await client.request(method, path, headers=headers)
        for method in ("GET", "POST")
        for path in ("/v1/conversations", "/v1/nothing")
    ]
    names = [response.headers["x-request-id"] for response in answers]
    assert all(is_id(name, "q") for name in names)
    assert len(set(names)) == len(names)


async def _create(client: httpx.AsyncClient, key: str, **params: Any) -> httpx.Response:
    return await client.post("/v1/conversations", json=params, headers={"Idempotency-Key": key})


async def test_the_same_idempotency_key_gives_the_same_answer_and_does_it_once(
    client: httpx.AsyncClient,
) -> None:
    first = await _create(client, "once", title="Sky")
    again = await _create(client, "once", title="Sky")
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert len((await client.get("/v1/conversations")).json()["items"]) == 1


async def test_an_idempotency_key_for_another_request_is_a_conflict(
    client: httpx.AsyncClient,
) -> None:
    await _create(client, "once", title="Sky")
    assert refused(await _create(client, "once", title="Sea")).reason == "conflict"


async def test_of_requests_with_one_key_at_once_one_is_done(client: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(_create(client, "once", title="Sky") for _ in range(8)))
    done = {response.content for response in responses if response.status_code == 201}
    assert len(done) == 1
    for response in responses:
        assert response.status_code == 201 or refused(response).reason == "conflict"
    assert len((await client.get("/v1/conversations")).json()["items"]) == 1


async def test_a_request_that_failed_can_be_made_again_with_its_key(
    client: httpx.AsyncClient,
) -> None:
    assert refused(await _create(client, "twice", title="")).reason == "invalid_params"
    assert (await _create(client, "twice", title="")).status_code == 422
    assert (await _create(client, "twice", title="Sky")).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "ü"])
async def test_a_key_of_another_form_is_refused(client: httpx.AsyncClient, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode("latin-1")}
    response = await client.post("/v1/conversations", headers=headers)
    assert refused(response).reason == "invalid_request"


async def test_keys_of_two_people_and_of_two_operations_do_not_meet(
    hub: ServedHub, client: httpx.AsyncClient, token: str
) -> None:
    other = await hub.sign_up(f"other-of-{token[-9:].lower().strip('-_')}@hub.example")
    mine = await _create(client, "k", title="Sky")
    headers = {"Authorization": f"Bearer {other['access_token']}"}
    async with httpx.AsyncClient(base_url=hub.url, headers=headers, trust_env=False) as theirs:
        assert (await _create(theirs, "k", title="Sea")).status_code == 201
    logout = await client.post("/v1/auth/logout", headers={"Idempotency-Key": "k"})
    assert (mine.status_code, logout.status_code) == (201, 200)


async def test_a_key_stands_for_the_client_message_id_however_long_it_is(
    client: httpx.AsyncClient,
) -> None:
    conversation = (await client.post("/v1/conversations", json={"model": "echo"})).json()["id"]
    path = f"/v1/conversations/{conversation}/messages"
    answers = []
    for key in ("x" * 200 + "1", "x" * 200 + "2", "x" * 200 + "1"):
        response = await client.post(
            path, json={"content": "Hello."}, headers={"Idempotency-Key": key}
        )
        assert response.status_code == 202
        answers.append(response.json()["message_id"])
    assert answers[0] != answers[1]
    assert answers[0] == answers[2]


async def test_a_known_answer_is_not_given_to_who_may_not_ask_any_more(
    hub: ServedHub, client: httpx.AsyncClient, token: str
) -> None:
    assert (await _create(client, "before", title="Sky")).status_code == 201
    services = hub.hub.services
    user_id = services.tokens.read(token).user_id
    async with services.database.write(EVERY_TENANT) as session:
        await session.exec(
            update(Membership).where(col(Membership.user_id) == user_id).values(role_id="viewer")
        )
    await services.authority.changed("user", user_id)
    assert refused(await _create(client, "before", title="Sky")).reason == "permission_denied"


async def test_who_may_not_come_in_any_more_learns_nothing_of_keys_that_were_used(
    hub: ServedHub, client: httpx.AsyncClient, token: str
) -> None:
    services = hub.hub.services
    assert (await _create(client, "known", title="Sky")).status_code == 201
    await services.accounts.logout(services.tokens.read(token).session_id)
    for title in ("Sky", "Sea"):
        refusal = refused(await _create(client, "known", title=title))
        assert refusal.reason == "unauthenticated"


async def test_a_key_counts_for_post_alone(client: httpx.AsyncClient) -> None:
    path = f"/v1/conversations/{(await client.post('/v1/conversations')).json()['id']}"
    key = {"Idempotency-Key": "same"}
    assert (await client.patch(path, json={"title": "a"}, headers=key)).status_code == 200
    assert (await client.patch(path, json={"title": "b"}, headers=key)).json()["title"] == "b"


async def test_every_operation_of_http_is_served_at_its_path(client: httpx.AsyncClient) -> None:
    for operation in OPERATIONS.values():
        if operation.http is None or operation.name == "account.logout":
            continue
        path = operation.http.path.format(
            **dict.fromkeys(operation.http.path_parameters, "nothing")
        )
        response = await RestCaller(client, None)._client.request(operation.http.method, path)
        if issubclass(operation.result, Streamed) and response.status_code == 200:
            continue
        body = json.loads(response.content)
        reason = body.get("error", {}).get("data", {}).get("reason")
        assert reason != "method_not_found", operation.name
