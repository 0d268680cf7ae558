"""Accounts that go to another e-mail address, by letters that a real mail server takes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlmodel import col, select, update

from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AccountToken, AuditEntry, now
from tests.interaction.drivers import Refused, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.mail import MailServer

ADA, LOVELACE = "ada@hub.example", "lovelace@hub.example"


@pytest.fixture
async def hub(serve_hub: ServeHub, mail: MailServer) -> AsyncIterator[ServedHub]:
    """A hub that mails, where one signs in before an address is verified."""
    async with serve_hub(HUB_SMTP_URL=mail.url) as served:
        yield served


async def post(hub: ServedHub, path: str, **body: Any) -> int:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        return (await client.post(f"/v1/auth/{path}", json=body)).status_code


async def asks(hub: ServedHub, token: str, email: str, password: str = PASSWORD) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.ask("account.change_email", {"email": email, "password": password})


async def moves(hub: ServedHub) -> list[str]:
    wanted = select(AuditEntry.action).where(col(AuditEntry.action) == "account.change_email")
    wanted = wanted.where(AuditEntry.outcome == "done")
    async with hub.hub.services.database.read(EVERY_TENANT) as session:
        return list((await session.exec(wanted)).all())


async def test_an_account_moves_once_its_new_mailbox_is_read_and_the_old_one_is_told(
    hub: ServedHub, mail: MailServer
) -> None:
    token = (await hub.sign_up(ADA))["access_token"]
    await post(hub, "recover", email=ADA)
    old = await mail.token_to(ADA, "reset")
    async with open_socket(hub.ws_url, token) as socket:
        params = {"email": "Lovelace@Hub.Example", "password": PASSWORD}
        assert await socket.ask("account.change_email", params) == {}
        proof = await mail.token_to(LOVELACE, "verify")
        assert (await socket.ask("account.get"))["email"] == ADA, "nothing has changed"
        assert await post(hub, "verify", token=proof) == 200
        account = await socket.ask("account.get")
        assert (account["email"], "verified_at" in account) == (LOVELACE, True)
    await mail.letter_to(ADA, "another e-mail address")
    assert await post(hub, "verify", token=proof) == 401, "it works once"
    assert await post(hub, "reset", token=old, password=PASSWORD + "!") == 401
    assert await post(hub, "login", email=ADA, password=PASSWORD) == 401
    assert await post(hub, "login", email=LOVELACE, password=PASSWORD) == 200
    assert await moves(hub) == ["account.change_email"]
    assert await post(hub, "register", email=ADA, password=PASSWORD) == 201, "it is free again"


async def test_who_has_no_password_to_give_moves_nothing(hub: ServedHub, mail: MailServer) -> None:
    token = (await hub.sign_up(ADA))["access_token"]
    await mail.letter_to(ADA)
    for email, password, reason in (
        (LOVELACE, "not her password", "permission_denied"),
        (ADA, PASSWORD, "invalid_params"),
        ("nowhere", PASSWORD, "invalid_params"),
    ):
        with pytest.raises(Refused) as caught:
            await asks(hub, token, email, password)
        assert caught.value.reason == reason
    await hub.hub.services.recovery._mailing.sent()
    assert mail.letters == []


async def test_an_address_that_has_an_account_is_answered_alike_and_its_owner_is_told(
    hub: ServedHub, mail: MailServer
) -> None:
    token = (await hub.sign_up(ADA))["access_token"]
    await hub.sign_up(LOVELACE)
    await mail.letter_to(LOVELACE)
    await asks(hub, token, LOVELACE)
    letter = (await mail.letter_to(LOVELACE)).get_content()
    assert "for another account" in letter
    assert "#verify=" not in letter
    assert ADA not in letter
    assert await moves(hub) == []


async def test_of_two_accounts_that_would_have_an_address_one_gets_it(
    hub: ServedHub, mail: MailServer
) -> None:
    for email in (ADA, "eve@hub.example"):
        await asks(hub, (await hub.sign_up(email))["access_token"], LOVELACE)
    proofs = [await mail.token_to(LOVELACE, "verify") for _ in range(2)]
    outcomes = await asyncio.gather(*(post(hub, "verify", token=proof) for proof in proofs))
    assert sorted(outcomes) == [200, 409]
    assert await moves(hub) == ["account.change_email"]


async def test_of_two_moves_the_first_that_is_read_voids_the_other_and_an_old_one_is_void(
    hub: ServedHub, mail: MailServer
) -> None:
    token = (await hub.sign_up(ADA))["access_token"]
    await asks(hub, token, "third@hub.example")
    await asks(hub, token, LOVELACE)
    first = await mail.token_to("third@hub.example", "verify")
    second = await mail.token_to(LOVELACE, "verify")
    assert await post(hub, "verify", token=second) == 200
    assert await post(hub, "verify", token=first) == 401
    await asks(hub, token, ADA)
    await mail.letter_to(ADA)
    old = await mail.token_to(ADA, "verify")
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(update(AccountToken).values(expires_at=now()))
    assert await post(hub, "verify", token=old) == 401


async def test_a_token_of_a_move_sets_no_password(hub: ServedHub, mail: MailServer) -> None:
    await asks(hub, (await hub.sign_up(ADA))["access_token"], LOVELACE)
    proof = await mail.token_to(LOVELACE, "verify")
    assert await post(hub, "reset", token=proof, password=PASSWORD + "!") == 401
    assert await post(hub, "verify", token=proof) == 200
