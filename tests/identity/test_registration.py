"""Where addresses are verified, registering tells nobody who has an account, but its owner."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlmodel import col, select

from hub.identity.accounts import passwords, registration
from hub.identity.sessions import throttle
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, Invitation, Membership, Tenant, User
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.mail import MailServer

EMAIL, NOBODY = "ada@hub.example", "nobody@hub.example"
OTHER = "what somebody else typed"
NEW = "a better horse and battery"


@pytest.fixture
async def hub(serve_hub: ServeHub, mail: MailServer) -> AsyncIterator[ServedHub]:
    """A hub that mails, and wants verified addresses, as one does that is for real."""
    async with serve_hub(
        HUB_SMTP_URL=mail.url, HUB_REQUIRE_VERIFIED="true", HUB_REGISTRATION="open"
    ) as served:
        yield served


@pytest.fixture
async def client(hub: ServedHub) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{hub.url}/v1/auth/", trust_env=False) as client:
        yield client


async def status(client: httpx.AsyncClient, path: str, /, **body: Any) -> int:
    return (await client.post(path, json=body)).status_code


async def signed_up(client: httpx.AsyncClient, mail: MailServer) -> None:
    assert await status(client, "register", email=EMAIL, password=PASSWORD) == 201
    assert await status(client, "verify", token=await mail.token_to(EMAIL, "verify")) == 200


async def kept(hub: ServedHub, table: Any) -> list[Any]:
    async with hub.hub.services.database.read(EVERY_TENANT) as session:
        return list((await session.exec(select(table))).all())


def shape(answer: httpx.Response) -> tuple[int, str, list[str]]:
    """All of an answer but what is another each time."""
    text = re.sub(r"(u|t)_[0-9A-Z]{26}", r"\1_id", answer.text).replace(NOBODY, EMAIL)
    several = ("content-length", "date", "x-trace-id", "x-request-id")
    return answer.status_code, text, sorted(set(answer.headers) - set(several))


async def test_a_known_address_is_answered_as_a_new_one_and_its_owner_gets_a_letter(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    await signed_up(client, mail)
    wanted = {"password": OTHER, "name": "Eve"}
    known = await client.post("register", json={"email": "Ada@Hub.Example", **wanted})
    new = await client.post("register", json={"email": NOBODY, **wanted})
    assert shape(known) == shape(new)
    assert known.status_code == 201
    there = {row.id for table in (User, Tenant) for row in await kept(hub, table)}
    assert known.json()["user"]["id"] not in there
    assert known.json()["tenant"]["id"] not in there
    assert {new.json()["user"]["id"], new.json()["tenant"]["id"]} <= there
    # The account is as it was, and neither password opens anything more than before.
    assert await status(client, "login", email=EMAIL, password=PASSWORD) == 200
    for email in (EMAIL, NOBODY):
        assert await status(client, "login", email=email, password=OTHER) == 401
    letter = await mail.letter_to(EMAIL, "/#reset=")
    assert letter["Subject"] == "You have an account already"
    assert OTHER not in letter.get_content()
    await mail.token_to(NOBODY, "verify")


async def test_the_answer_to_a_known_address_comes_after_the_same_work_and_time(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_up(client, mail)
    hashed, hash_ = [], passwords._hash

    def counted(password: str, cost: int) -> str:
        hashed.append(cost)
        return hash_(password, cost)

    monkeypatch.setattr(passwords, "_hash", counted)
    monkeypatch.setattr(registration, "EVEN_S", 0.25)
    took = []
    for email in (EMAIL, NOBODY):
        began = time.perf_counter()
        assert await status(client, "register", email=email, password=OTHER) == 201
        took.append(time.perf_counter() - began)
    assert hashed == [4, 4]
    # What is written after the hash, or not, is within a time that passes in both cases.
    assert min(took) >= 0.25


async def test_one_that_registers_many_times_at_once_is_one_user_and_nobody_is_told(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = throttle.Budget("free", 10_000, 0.001)
    monkeypatch.setattr(throttle, "OF_REQUESTS", (free, free))
    asked = [status(client, "register", email=EMAIL, password=PASSWORD) for _ in range(8)]
    assert await asyncio.gather(*asked) == [201] * 8
    assert [row.email for row in await kept(hub, User)].count(EMAIL) == 1


async def test_who_asks_too_often_is_told_so_whether_the_address_has_an_account_or_not(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    await signed_up(client, mail)
    most = throttle.OF_REQUESTS[1].burst
    for email, before in ((EMAIL, 1), (NOBODY, 0)):
        said = [await status(client, "register", email=email, password=OTHER) for _ in range(7)]
        assert said == [201] * (most - before) + [429] * (7 - most + before)


async def test_whoever_took_an_address_before_its_owner_loses_it_to_them(
    client: httpx.AsyncClient, mail: MailServer
) -> None:
    assert await status(client, "register", email=EMAIL, password=OTHER) == 201
    assert await status(client, "register", email=EMAIL, password=PASSWORD) == 201
    # No letter about the second registration verifies the password of the first.
    token = await mail.token_to(EMAIL, "reset")
    assert await status(client, "reset", token=token, password=NEW) == 200
    assert await status(client, "login", email=EMAIL, password=NEW) == 200
    assert await status(client, "login", email=EMAIL, password=OTHER) == 401


async def test_an_invitation_is_used_up_all_the_same_and_its_address_gets_another(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    await signed_up(client, mail)
    accounts = hub.hub.services.accounts
    _, tenant = await accounts.create_user("boss@hub.example", PASSWORD, "house", "owner")
    codes = [await accounts.invite(tenant.id, "operator") for _ in range(2)]
    answers = [
        await client.post("register", json={"email": email, "password": OTHER, "invitation": code})
        for email, code in zip((EMAIL, NOBODY), codes, strict=True)
    ]
    assert shape(answers[0]) == shape(answers[1])
    assert answers[0].json()["tenant"] == {"id": tenant.id, "name": "house"}
    for code in codes:
        again = await status(
            client, "register", email="third@hub.example", password=OTHER, invitation=code
        )
        assert again == 403
    letter = (await mail.letter_to(EMAIL, "invitation")).get_content()
    found = re.search(r"Its code:\n\n([\w-]{43})\n", letter)
    assert found is not None
    stolen = {"email": NOBODY, "password": OTHER, "invitation": found.group(1)}
    assert await status(client, "login", **stolen) == 403, "for another address"
    account = {"email": EMAIL, "password": PASSWORD}
    entered = await client.post("login", json={**account, "invitation": found.group(1)})
    assert hub.hub.services.tokens.read(entered.json()["access_token"]).tenant_id == tenant.id
    (left,) = [row for row in await kept(hub, Invitation) if row.email == EMAIL]
    (first, *_) = [row for row in await kept(hub, Invitation) if row.email is None]
    assert (left.role_id, left.invited_by) == (first.role_id, first.invited_by)
    assert left.expires_at <= first.expires_at


async def test_the_tenant_that_invited_sees_the_same_whether_the_guest_had_an_account(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    await signed_up(client, mail)
    accounts = hub.hub.services.accounts
    _, tenant = await accounts.create_user("boss@hub.example", PASSWORD, "house", "owner")
    boss = (await accounts.login("boss@hub.example", PASSWORD)).access_token

    async def seen(what: str) -> dict[str, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {boss}"}
        answer = await client.get(f"{hub.url}/v1/{what}?limit=200", headers=headers)
        items = answer.raise_for_status().json()["items"]
        return {item.get("id") or item["user_id"]: item for item in items}

    shown = []
    for guest in (EMAIL, NOBODY):
        code = await accounts.invite(tenant.id, "operator")
        lists = ("invitations", "members", "users", "audit")
        before = {each: await seen(each) for each in lists}
        assert await status(client, "register", email=guest, password=OTHER, invitation=code) == 201
        await hub.hub.services.audit.denials.written()
        news = [
            (each, item)
            for each in lists
            for id, item in (await seen(each)).items()
            if id not in before[each] and item.get("action") != "audit.query"  # what is done here
        ]
        text = re.sub(r"\b[a-z]+_[0-9A-Z]{26}\b", "id", repr(news)).replace(guest, "guest")
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "at", text)
        shown.append(re.sub(r"'(\w*hash|trace_id)': '\w+'|'seq': \d+", "", text))
        assert [each for each, _ in news] == ["invitations", "audit"]
    assert shown[0] == shown[1]
    # They come in when it is theirs to say so: by the letter, or with the account.
    assert await status(client, "verify", token=await mail.token_to(NOBODY, "verify")) == 200
    assert await status(client, "login", email=NOBODY, password=OTHER) == 200
    letter = (await mail.letter_to(EMAIL, "invitation")).get_content()
    (code,) = re.findall(r"Its code:\n\n([\w-]{43})\n", letter)
    account = {"email": EMAIL, "password": PASSWORD, "invitation": code}
    assert await status(client, "login", **account) == 200
    members = {item["email"]: item["roles"] for item in (await seen("members")).values()}
    assert members == {
        "boss@hub.example": ["owner"], EMAIL: ["operator"], NOBODY: ["operator"],
    }  # fmt: skip
    assert await seen("invitations") == {}


async def test_a_guest_who_has_forgotten_the_password_before_it_was_of_use_comes_in(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    accounts = hub.hub.services.accounts
    _, tenant = await accounts.create_user("boss@hub.example", PASSWORD, "house", "owner")
    code = await accounts.invite(tenant.id, "operator")
    assert await status(client, "register", email=NOBODY, password=OTHER, invitation=code) == 201
    assert await status(client, "recover", email=NOBODY) == 200
    token = await mail.token_to(NOBODY, "reset")
    assert await status(client, "reset", token=token, password=NEW) == 200
    entered = await client.post("login", json={"email": NOBODY, "password": NEW})
    assert hub.hub.services.tokens.read(entered.json()["access_token"]).tenant_id == tenant.id


async def test_the_owner_finds_it_in_the_trail(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    await signed_up(client, mail)
    (user,) = [row for row in await kept(hub, User) if row.email == EMAIL]
    (home,) = [row.tenant_id for row in await kept(hub, Membership) if row.user_id == user.id]
    await status(client, "register", email=EMAIL, password=OTHER)
    await hub.hub.services.audit.denials.written()
    async with hub.hub.services.database.read(home) as session:
        rows = await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq).desc()))
        entry = next(row for row in rows.all() if row.action == "account.register")
    assert (entry.outcome, entry.resource_id, entry.address) == ("denied", user.id, "127.0.0.1")
    assert "conflict" in entry.details


async def test_a_disabled_owner_is_written_nothing_and_the_answer_is_the_same(
    hub: ServedHub, client: httpx.AsyncClient, mail: MailServer
) -> None:
    await signed_up(client, mail)
    users = hub.hub.services.users
    await users.set_disabled((await users.find(EMAIL)).id, True)
    assert await status(client, "register", email=EMAIL, password=OTHER) == 201
    await hub.hub.services.recovery._mailing.sent()
    assert mail.letters == []
