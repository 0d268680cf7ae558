"""The operations of the trail, through every transport, and what operations leave in it (G7)."""

import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final

import httpx
import pyotp
import pytest
import pytest_asyncio
from sqlmodel import col, select, update
from websockets.exceptions import ConnectionClosed

from hub.identity.accounts.accounts import Accounts
from hub.ids import new_id
from hub.operations.operation import Streamed, sensitive
from hub.operations.table import OPERATIONS
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Conversation, LoginSession, RefreshToken, now
from tests.audit.chains import verify_export
from tests.audit.faults import meddle, refuse_entries
from tests.interaction.drivers import Refused, RestCaller, eventually, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub, serving
from tests.parts.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NUMBERS: Final = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> AsyncIterator[ServedHub]:
    """A hub for all tests of this module, whose people keep to tenants of their own."""
    folder = tmp_path_factory.mktemp("hub")
    async with serving(folder / ".hub", OLLAMA_HOST=scripted_model.host) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(hub: ServedHub) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        yield client


@dataclass(frozen=True)
class Someone:
    """The owner of a tenant of their own, who asks over REST."""

    hub: ServedHub
    email: str
    session: dict[str, Any]
    user_id: str
    tenant_id: str
    ask: Callable[..., Awaitable[dict[str, Any]]]
    respond: Callable[..., Awaitable[httpx.Response]]

    async def trail(self, **wanted: Any) -> list[AuditEntry]:
        """The entries of the tenant that are so, the oldest first."""
        services = self.hub.hub.services
        await services.audit.denials.written()
        async with services.database.read(self.tenant_id) as session:
            rows = (await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq)))).all()
        return [r for r in rows if all(getattr(r, n) == value for n, value in wanted.items())]

    async def meddle(self, statement: str, **values: Any) -> None:
        """Run SQL, on the rows of the tenant alone."""
        database = self.hub.hub.services.database
        await meddle(database, f"{statement} AND tenant_id = :own", own=self.tenant_id, **values)


async def someone(hub: ServedHub, client: httpx.AsyncClient, password: str = PASSWORD) -> Someone:
    email = f"someone-{next(_NUMBERS)}@hub.example"
    session = await hub.sign_up(email, password)
    caller = RestCaller(client, session["access_token"])
    who = await caller.ask("session.info")
    return Someone(
        hub, email, session, who["user_id"], who["tenant_id"], caller.ask, caller.respond
    )


@pytest_asyncio.fixture(loop_scope="module")
async def ada(hub: ServedHub, client: httpx.AsyncClient) -> Someone:
    return await someone(hub, client)


# --- which operations are in it ---


async def test_an_operation_that_leaves_no_entry_is_noticed(
    ada: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = ada.hub.hub.services

    async def silent(self: Accounts, session_id: str) -> None:
        async with services.database.write(EVERY_TENANT) as session:
            of = col(LoginSession.id) == session_id
            await session.exec(update(LoginSession).where(of).values(revoked_at=now()))

    monkeypatch.setattr(Accounts, "logout", silent)
    await ada.ask("account.logout")
    missing = services.metrics.audit_missing
    assert missing.labels("account.logout")._value.get() == 1
    missing.clear()  # or the end of the hub would fail this test as it does any other


# --- an operation and its entry, or neither ---


async def test_when_the_entry_cannot_be_written_the_operation_is_refused(
    serve_hub: ServeHub, database_url: str
) -> None:
    async with serve_hub(HUB_DATABASE_URL=database_url) as hub:
        session = await hub.sign_up("ada@hub.example")
        database = hub.hub.services.database
        async with (
            httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
            open_socket(hub.ws_url, session["access_token"]) as socket,
        ):
            conversation = (await socket.ask("conversation.create"))["id"]
            await refuse_entries(database)
            account = {"email": "ada@hub.example", "password": PASSWORD}
            stranger = {"email": "eve@hub.example", "password": PASSWORD}
            caller = RestCaller(client, session["access_token"])
            for ask, method, params in (
                (caller.ask, "account.login", account),
                (caller.ask, "account.register", stranger),
                (caller.ask, "account.logout", {}),
                (socket.ask, "conversation.delete", {"conversation_id": conversation}),
            ):
                with pytest.raises(Refused) as refusal:
                    await ask(method, params)
                assert refusal.value.reason == "internal_error", method
            assert (await socket.ask("conversation.get", {"conversation_id": conversation}))["id"]
            async with database.read(EVERY_TENANT) as reading:
                logins = (await reading.exec(select(LoginSession))).all()
                assert [login.revoked_at for login in logins] == [None]
                assert len((await reading.exec(select(Conversation))).all()) == 1
            assert await hub.hub.services.accounts.ensure_administrator() is None


async def test_what_people_do_is_in_the_trail_with_who_and_whence(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    accounts = ada.hub.hub.services.accounts
    conversation = (await ada.ask("conversation.create"))["id"]
    await ada.ask("conversation.delete", {"conversation_id": conversation})
    code = await accounts.login_link(ada.user_id, ada.tenant_id)
    other = await RestCaller(client, None).ask("account.redeem", {"code": code})
    invited = await accounts.invite(ada.tenant_id, "member")
    bob = {"email": f"bob-of-{ada.email}", "password": PASSWORD, "invitation": invited}
    user = (await RestCaller(client, None).ask("account.register", bob))["user"]["id"]
    await ada.ask("account.logout")
    found = [
        (one.action, one.actor_id, one.resource_kind, one.resource_id, one.transport)
        for one in await ada.trail()
    ]
    me, session = ada.user_id, ada.session["session_id"]
    assert found == [
        ("account.register", me, "user", me, "rest"),
        ("account.login", me, "session", session, "rest"),
        ("conversation.delete", me, "conversation", conversation, "rest"),
        ("account.link", None, "user", me, "hub"),
        ("account.redeem", me, "session", other["session_id"], "rest"),
        ("invitation.create", None, None, None, "hub"),
        ("account.register", user, "user", user, "rest"),
        ("account.logout", me, "session", session, "rest"),
    ]
    assert {one.address for one in await ada.trail(transport="rest")} == {"127.0.0.1"}
    report = (await ada.hub.hub.services.audit.verify(ada.tenant_id)).report
    assert (report.ok, report.entries) == (True, 8)


async def test_a_refresh_token_that_comes_back_is_in_the_trail_with_what_was_ended(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    stranger = RestCaller(client, None)
    token = {"refresh_token": ada.session["refresh_token"]}
    await stranger.ask("account.refresh", token)
    async with ada.hub.hub.services.database.write(ada.tenant_id) as session:
        long_ago = now().replace(year=2020)
        await session.exec(update(RefreshToken).values(used_at=long_ago))
    with pytest.raises(Refused):
        await stranger.ask("account.refresh", token)
    (entry,) = await ada.trail(action="account.refresh")
    assert (entry.outcome, entry.resource_id) == ("denied", ada.session["session_id"])
    assert json.loads(entry.details)["reason"] == "reused"


# --- refusals ---


async def test_who_is_refused_a_sensitive_operation_is_in_the_trail(ada: Someone) -> None:
    foreign = new_id("c")
    for _ in range(2):
        with pytest.raises(Refused, match="not_found"):
            await ada.ask("conversation.delete", {"conversation_id": foreign})
    denied = await ada.trail(outcome="denied")
    twice = [("conversation.delete", foreign, ada.user_id)] * 2
    assert [(one.action, one.resource_id, one.actor_id) for one in denied] == twice


async def test_who_is_refused_what_is_no_sensitive_operation_is_in_the_trail_of_their_tenant(
    ada: Someone, hub: ServedHub, client: httpx.AsyncClient
) -> None:
    """And of what they named no more than they were told: not whether another tenant has it."""
    eve = await someone(hub, client)
    bob, token = await member_of(ada)
    cleo, others = await member_of(ada, "cleo")
    hidden = (await ada.ask("conversation.create"))["id"]
    abroad = (await eve.ask("conversation.create"))["id"]
    nowhere = new_id("c")
    rest = RestCaller(client, token)
    async with open_socket(hub.ws_url, token) as socket:
        for ask, method, params, reason in (
            (rest.ask, "conversation.get", {"conversation_id": hidden}, "not_found"),
            (rest.ask, "conversation.get", {"conversation_id": abroad}, "not_found"),
            (rest.ask, "conversation.get", {"conversation_id": nowhere}, "not_found"),
            (socket.ask, "channel.subscribe", {"channel": f"conversation:{hidden}"}, "not_found"),
            (rest.ask, "user.list", {}, "permission_denied"),
            (rest.ask, "model.list", {"unknown": 1}, "invalid_params"),
        ):
            with pytest.raises(Refused, match=reason):
                await ask(method, params)
    with pytest.raises(Refused, match="not_found"):
        await RestCaller(client, others).ask("usage.get", {"subject": f"user:{ada.user_id}"})
    for there in (f"conversation:{hidden}", f"conversation:{abroad}", f"user:{eve.user_id}"):
        path = f"/v1/channels/{there}/events"
        answer = await client.get(path, headers={"Authorization": f"Bearer {others}"})
        assert answer.status_code == 404
    denied = await ada.trail(outcome="denied")
    assert [one.actor_id for one in denied] == [bob] * 5 + [cleo] * 4
    told = [(one.action, one.resource_id, json.loads(one.details)) for one in denied]
    assert told == [
        ("conversation.get", hidden, {"reason": "not_found"}),
        ("conversation.get", abroad, {"reason": "not_found"}),
        ("conversation.get", nowhere, {"reason": "not_found"}),
        ("channel.subscribe", f"conversation:{hidden}", {"reason": "not_found"}),
        ("user.list", None, {"reason": "permission_denied"}),
        ("usage.get", f"user:{ada.user_id}", {"reason": "not_found"}),
        ("channel.subscribe", f"conversation:{hidden}", {"reason": "not_found"}),
        ("channel.subscribe", f"conversation:{abroad}", {"reason": "not_found"}),
        ("channel.subscribe", f"user:{eve.user_id}", {"reason": "not_found"}),
    ]
    assert await eve.trail(outcome="denied") == []


async def test_failed_sign_ins_are_in_the_trail_and_a_stranger_does_not_fill_it(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    stranger = RestCaller(client, None)
    for number in range(15):
        account = {"email": ada.email, "password": f"wrong horse {number:04}"}
        with pytest.raises(Refused, match="unauthenticated"):
            await stranger.ask("account.login", account)
    failed = await ada.trail(outcome="failed")
    assert 0 < len(failed) <= 10
    assert {one.action for one in failed} == {"account.login"}
    assert {(one.resource_id, one.actor_id) for one in failed} == {(ada.user_id, None)}


async def test_a_wrong_second_factor_is_in_the_trail_of_the_tenant_that_it_would_have_opened(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    secret = (await ada.ask("factor.enrol"))["secret"]
    await ada.ask("factor.confirm", {"code": pyotp.TOTP(secret).now()})
    stranger = RestCaller(client, None)
    account = {"email": ada.email, "password": PASSWORD}
    answer = await client.post("/v1/auth/login", json=account)
    challenge = answer.json()["error"]["data"]["details"]["challenge"]
    wrong = {"challenge": challenge, "code": "AAAAAAAAAAAAAAAA"}
    for _ in range(2):
        with pytest.raises(Refused, match="unauthenticated"):
            await stranger.ask("account.second_factor", wrong)
    failed = await ada.trail(outcome="failed", action="account.second_factor")
    assert [(one.resource_kind, one.resource_id, one.actor_id) for one in failed] == [
        ("user", ada.user_id, None)
    ] * 2


async def test_an_answer_does_not_wait_for_the_note_of_its_refusal(serve_hub: ServeHub) -> None:
    async with serve_hub() as hub:
        denials = hub.hub.services.audit.denials
        await denials.close()  # nothing is written any more
        async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
            for _ in range(3):
                with pytest.raises(Refused, match="unauthenticated"):
                    await RestCaller(client, None).ask(
                        "account.login", {"email": "ada@hub.example", "password": PASSWORD}
                    )
        assert [one.action for one in denials._queue] == ["account.login"] * 3


# --- no secrets ---


def _secrets(answer: Any) -> list[str]:
    """What an answer gives away once: texts by such names, of such length."""
    if isinstance(answer, list):
        return [secret for item in answer for secret in _secrets(item)]
    if not isinstance(answer, dict):
        return []
    found = [secret for item in answer.values() for secret in _secrets(item)]
    named = ("key", "secret", "code", "token", "access_token", "refresh_token")
    told = [text for name in named if isinstance(text := answer.get(name), str)]
    return found + [text for text in told if len(text) > 20]


async def test_no_secret_and_nothing_that_was_said_is_in_the_trail(
    hub: ServedHub, client: httpx.AsyncClient
) -> None:
    """Every operation is called, with everything in it marked that nobody should read there."""
    mark = "MARKED-9f4c"
    password = f"{mark} correct horse"
    secrets = [mark, password]
    services = hub.hub.services

    async def answered(ask: Any, name: str, params: dict[str, Any]) -> bool:
        try:
            secrets.extend(_secrets(await ask(name, params)))
        except Refused as refusal:
            return refusal.reason != "conversation_busy"
        except ConnectionClosed:
            pass  # it was one that ends the session
        return True

    families = {declared.family for declared in OPERATIONS.values()}
    for family in sorted(families):
        # Somebody new for each, since some of them end what others need.
        ada = await someone(hub, client, password)
        begun = {"title": mark, "instructions": mark, "model": "echo"}
        conversation = (await ada.ask("conversation.create", begun))["id"]
        code = await services.accounts.login_link(ada.user_id, ada.tenant_id)
        secrets += [ada.session["access_token"], ada.session["refresh_token"], code]
        given: dict[str, Any] = {
            "email": f"friend-of-{ada.email}",  # an invitation says for whom it is
            "password": password,
            "name": "no secret",
            "role": "member",
            "code": code,
            "refresh_token": ada.session["refresh_token"],
            "token": ada.session["access_token"],
            "session_key": mark,
            "title": mark,
            "instructions": mark,
            "content": mark,
            "client_message_id": mark,
            "conversation_id": conversation,
            "user_id": ada.user_id,
            "tenant_id": ada.tenant_id,
            "channel": f"conversation:{conversation}",
            "typing": True,
        }
        async with open_socket(hub.ws_url, ada.session["access_token"]) as socket:
            theirs = [name for name, one in OPERATIONS.items() if one.family == family]
            for name in sorted(theirs, key=lambda name: (sensitive(name, "write"), name)):
                declared = OPERATIONS[name]
                if issubclass(declared.result, Streamed):
                    continue
                params = {
                    field: given.get(field, new_id("u") if field.endswith("_id") else mark)
                    for field, about in declared.params.model_fields.items()
                    if field in given or about.is_required()
                }
                ask = ada.ask if declared.http else socket.ask
                await eventually(partial(answered, ask, name, params))
        if family == "conversation":
            assert await ada.trail(action="conversation.delete", resource_id=conversation)
    await services.audit.denials.written()
    async with services.database.read(EVERY_TENANT) as session:
        rows = (await session.exec(select(AuditEntry))).all()
    entries = [json.dumps(row.model_dump(mode="json")).lower() for row in rows]
    for secret in secrets:
        assert [entry for entry in entries if secret.lower() in entry] == []


# --- look into it, verify it, export it ---


@dataclass(frozen=True)
class Auditor:
    """Somebody with some entries, on a transport."""

    ada: Someone
    ask: Callable[..., Awaitable[dict[str, Any]]]


@pytest_asyncio.fixture(params=["websocket", "rest"], loop_scope="module")
async def auditor(request: pytest.FixtureRequest, ada: Someone) -> AsyncIterator[Auditor]:
    for _ in range(3):
        made = await ada.ask("conversation.create")
        await ada.ask("conversation.delete", {"conversation_id": made["id"]})
    if request.param == "rest":
        yield Auditor(ada, ada.ask)
    else:
        async with open_socket(ada.hub.ws_url, ada.session["access_token"]) as socket:
            yield Auditor(ada, socket.ask)


async def test_the_trail_is_read_page_by_page_the_newest_first(auditor: Auditor) -> None:
    cursor, seqs = None, []
    while True:
        page = await auditor.ask(
            "audit.query", {"limit": 2} | ({"cursor": cursor} if cursor else {})
        )
        seqs += [item["seq"] for item in page["items"]]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert seqs == [5, 4, 3, 2, 1]


async def test_the_trail_is_filtered(auditor: Auditor) -> None:
    async def seqs(**filters: Any) -> list[int]:
        return [item["seq"] for item in (await auditor.ask("audit.query", filters))["items"]]

    (third,) = (await auditor.ask("audit.query", {"cursor": "4", "limit": 1}))["items"]
    assert await seqs(action="account.") == [2, 1]
    assert await seqs(action="account.log") == [2]
    assert await seqs(action="account%") == []
    assert await seqs(outcome="failed") == []
    assert await seqs(resource="conversation") == [5, 4, 3]
    assert await seqs(resource=f"conversation:{third['resource_id']}") == [3]
    assert await seqs(actor=third["actor_id"]) == [6, 5, 4, 3, 2, 1], "who looks is in it, once"
    assert await seqs(actor=new_id("u")) == []
    assert await seqs(since=third["at"]) == [6, 5, 4, 3]
    assert await seqs(until=third["at"], action="account.login") == [2]
    for wrong in ({"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"outcome": "well"},
                  {"resource": "A B"}, {"cursor": "x"}, {"actor": "ada"}):  # fmt: skip
        with pytest.raises(Refused, match="invalid_params"):
            await seqs(**wrong)


async def test_what_is_read_is_what_was_hashed(auditor: Auditor) -> None:
    page = await auditor.ask("audit.query")
    verify_export(json.dumps(item) for item in reversed(page["items"]))


async def test_it_is_verified_and_what_is_wrong_is_named(auditor: Auditor) -> None:
    well = await auditor.ask("audit.verify")
    assert (well["ok"], well["complete"], well["entries"], well["findings"]) == (True, True, 5, [])
    known = {"known": f"{well['last']}:{well['hash']}"}
    assert (await auditor.ask("audit.verify", known))["ok"]
    assert (await auditor.ask("audit.verify", {"after": 3}))["entries"] == 3
    outcomes = auditor.ada.hub.hub.services.metrics.audit_verifications
    tampered, disputed = outcomes.labels("tampered"), outcomes.labels("disputed")
    before = tampered._value.get(), disputed._value.get()
    wrong = await auditor.ask("audit.verify", {"known": f"5:{'f' * 64}"})
    assert [one["kind"] for one in wrong["findings"]] == ["rewritten"]
    for params, reason in (({"known": "5"}, "invalid_params"), ({"after": 99}, "conflict")):
        with pytest.raises(Refused, match=reason):
            await auditor.ask("audit.verify", params)
    await auditor.ada.meddle("DELETE FROM audit_entries WHERE seq = 4")
    bad = await auditor.ask("audit.verify")
    assert (bad["ok"], bad["found"]) == (False, 1)
    assert bad["findings"] == [
        {"kind": "removed", "seq": 4, "last": 4, "message": "Entry 4 was removed."}
    ]
    assert (tampered._value.get(), disputed._value.get()) == (before[0] + 1, before[1] + 1)
    # What a caller says to know, rightly or wrongly, hides nothing of what was done.
    for more in (known, {"known": f"5:{'f' * 64}"}):
        assert not (await auditor.ask("audit.verify", more))["ok"]
    assert (tampered._value.get(), disputed._value.get()) == (before[0] + 3, before[1] + 1)
    told = [json.loads(one.details) for one in await auditor.ada.trail(action="audit.verify")]
    assert told == [{"findings": 0}, {"findings": 1}], "each outcome once"


async def test_an_export_verifies_without_us_and_is_itself_in_the_trail(ada: Someone) -> None:
    response = await ada.respond("audit.export")
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert 'filename="audit.jsonl"' in response.headers["content-disposition"]
    lines = response.text.splitlines()
    verify_export(lines)
    assert json.loads(lines[-1])["action"] == "audit.export"
    as_csv = await ada.respond("audit.export", {"format": "csv", "action": "account."})
    assert as_csv.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert [row["action"] for row in rows] == ["account.register", "account.login"]
    assert rows[0]["hash"] == json.loads(lines[0])["hash"]


async def test_a_formula_in_an_export_is_none_for_a_spreadsheet(ada: Someone) -> None:
    formula = "=cmd|'/c calc'!A1"
    await ada.meddle(
        "UPDATE audit_entries SET resource_id = :formula WHERE seq = 1", formula=formula
    )
    as_csv = await ada.respond("audit.export", {"format": "csv"})
    cells = [row["resource_id"] for row in csv.DictReader(io.StringIO(as_csv.text))]
    assert cells[0] == "'" + formula


async def test_an_export_is_cut_off_when_the_permission_goes(
    ada: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.transports.rest.RECHECK_S", 0.0)
    monkeypatch.setattr("hub.audit.reading.PAGE", 1)
    services = ada.hub.hub.services
    pages = 0

    async def authenticate(operation: Any, call: Any) -> None:
        nonlocal pages
        pages += 1
        if pages == 2:
            await services.accounts.logout(ada.session["session_id"])
        call.actor = await services.authority.actor(call.claims)

    monkeypatch.setattr("hub.transports.rest.authenticate", authenticate)
    with pytest.raises(httpx.RemoteProtocolError):
        await ada.respond("audit.export")


# --- whoever follows it, or reads it back, by whichever door ---


async def member_of(ada: Someone, name: str = "member") -> tuple[str, str]:
    """The id and an access token of somebody in the tenant who may not read its trail."""
    accounts = ada.hub.hub.services.accounts
    email = f"{name}-of-{ada.email}"
    user, _ = await accounts.create_user(email, PASSWORD, ada.tenant_id, "member")
    return user.id, (await accounts.login(email, PASSWORD)).access_token


async def looked_at(ada: Someone, action: str) -> list[tuple[str, str | None, str]]:
    """Who has looked at the channel of the trail, as the trail has it."""
    found = await ada.trail(action=action)
    assert {(one.resource_kind, one.resource_id) for one in found} == {("channel", "audit")}
    return [(one.outcome, one.actor_id, one.transport) for one in found]


async def test_who_follows_the_trail_on_a_socket_is_in_it_once_and_who_may_not_too(
    ada: Someone,
) -> None:
    bob, token = await member_of(ada)
    trail = {"channel": "audit"}
    other = (await ada.ask("conversation.create"))["id"]
    async with (
        open_socket(ada.hub.ws_url, ada.session["access_token"]) as socket,
        open_socket(ada.hub.ws_url, token) as refused,
    ):
        await socket.ask("channel.subscribe", trail)
        await socket.ask("channel.subscribe", {"channel": f"conversation:{other}"})
        made = await ada.ask("conversation.create")
        await ada.ask("conversation.delete", {"conversation_id": made["id"]})
        event = await socket.event()
        assert event["event"]["value"]["action"] == "conversation.delete"
        with pytest.raises(Refused, match="permission_denied"):
            await refused.ask("channel.subscribe", trail)
    assert await looked_at(ada, "channel.subscribe") == [
        ("done", ada.user_id, "websocket"),
        ("denied", bob, "websocket"),
    ]


async def test_who_follows_the_trail_as_server_sent_events_is_in_it_and_who_may_not_too(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    bob, token = await member_of(ada)
    path = "/v1/channels/audit/events"
    mine = {"Authorization": f"Bearer {ada.session['access_token']}"}
    assert (await client.head(path, headers=mine)).status_code == 200, "begins nothing"
    async with client.stream("GET", path, headers=mine) as response:
        assert await anext(response.aiter_lines()) == ": following audit"
    answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert await looked_at(ada, "channel.subscribe") == [
        ("done", ada.user_id, "rest"),
        ("denied", bob, "rest"),
    ]


async def test_who_reads_the_trail_back_is_in_it_once_a_session_and_who_may_not_too(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    bob, token = await member_of(ada)
    trail = {"channel": "audit"}
    for _ in range(3):
        await ada.ask("channel.history", trail)
    again = await ada.hub.hub.services.accounts.login(ada.email, PASSWORD)
    await RestCaller(client, again.access_token).ask("channel.history", trail)
    with pytest.raises(Refused, match="permission_denied"):
        await RestCaller(client, token).ask("channel.history", trail)
    assert await looked_at(ada, "channel.history") == [
        ("done", ada.user_id, "rest"),
        ("done", ada.user_id, "rest"),
        ("denied", bob, "rest"),
    ]


async def test_who_looks_into_the_trail_and_has_it_verified_is_in_it_once_a_session(
    ada: Someone, client: httpx.AsyncClient
) -> None:
    first = await ada.ask("audit.query", {"limit": 1})
    assert [one["action"] for one in first["items"]] == ["account.login"], "it comes after"
    again = await ada.hub.hub.services.accounts.login(ada.email, PASSWORD)
    other = RestCaller(client, again.access_token)
    async with open_socket(ada.hub.ws_url, ada.session["access_token"]) as socket:
        for ask in (ada.ask, socket.ask, other.ask):
            for params in ({}, {"action": "account."}, {"limit": 1}, {"cursor": "2"}):
                await ask("audit.query", params)
            for _ in range(3):
                assert (await ask("audit.verify"))["ok"]
    for action in ("audit.query", "audit.verify"):
        found = [(one.actor_id, one.session_id) for one in await ada.trail(action=action)]
        sessions = (ada.session["session_id"], again.session_id)
        assert found == [(ada.user_id, session) for session in sessions], action


async def test_what_cannot_be_noted_is_not_shown_but_verified_all_the_same(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub() as hub, httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        session = await hub.sign_up("ada@hub.example")
        await refuse_entries(hub.hub.services.database)
        ask = RestCaller(client, session["access_token"]).ask
        with pytest.raises(Refused, match="internal_error"):
            await ask("audit.query")
        assert (await ask("audit.verify"))["ok"]


@pytest.mark.parametrize("role", ["member", "operator", "service"])
async def test_who_is_no_administrator_learns_nothing_of_it(
    ada: Someone, client: httpx.AsyncClient, role: str
) -> None:
    accounts = ada.hub.hub.services.accounts
    email = f"{role}-of-{ada.email}"
    await accounts.create_user(email, PASSWORD, ada.tenant_id, role)
    bob = await accounts.login(email, PASSWORD)
    caller = RestCaller(client, bob.access_token)
    for method in ("audit.query", "audit.verify", "audit.export"):
        with pytest.raises(Refused, match="permission_denied"):
            await caller.ask(method)
    assert len(await ada.trail(outcome="denied")) == 3
