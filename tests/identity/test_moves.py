"""Accounts that go to another e-mail address, by letters that a real mail server takes."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from sqlmodel import col, select, update

from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AccountToken, AuditEntry, User, now
from tests.interaction.drivers import Refused, open_socket
from tests.parts.hub import PASSWORD, ServedHub, serving
from tests.parts.mail import MailServer, mail_serving
from tests.parts.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

_NUMBERS = count(1)


class Names(NamedTuple):
    """The addresses of one test: of an account, and where it is to go."""

    ada: str
    lovelace: str


@pytest.fixture
def names() -> Names:
    number = next(_NUMBERS)
    return Names(f"ada-{number}@hub.example", f"lovelace-{number}@hub.example")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mail() -> AsyncIterator[MailServer]:
    async with mail_serving(MailServer()) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel, mail: MailServer
) -> AsyncIterator[ServedHub]:
    """A hub that mails, where one signs in before an address is verified."""
    folder = tmp_path_factory.mktemp("hub") / ".hub"
    async with serving(
        folder, worker=False, OLLAMA_HOST=scripted_model.host, HUB_SMTP_URL=mail.url
    ) as served:
        yield served


async def post(hub: ServedHub, path: str, **body: Any) -> int:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        return (await client.post(f"/v1/auth/{path}", json=body)).status_code


async def asks(hub: ServedHub, token: str, email: str, password: str = PASSWORD) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.ask("account.change_email", {"email": email, "password": password})


async def moves(hub: ServedHub, email: str) -> list[str]:
    """What the trails say of moves of who has this address now."""
    wanted = select(AuditEntry.action).where(
        AuditEntry.action == "account.change_email", AuditEntry.outcome == "done"
    )
    wanted = wanted.join(User, col(User.id) == AuditEntry.resource_id).where(User.email == email)
    async with hub.hub.services.database.read(EVERY_TENANT) as session:
        return list((await session.exec(wanted)).all())


async def test_an_account_moves_once_its_new_mailbox_is_read_and_the_old_one_is_told(
    hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = (await hub.sign_up(names.ada))["access_token"]
    await post(hub, "recover", email=names.ada)
    old = await mail.token_to(names.ada, "reset")
    async with open_socket(hub.ws_url, token) as socket:
        params = {"email": names.lovelace.title(), "password": PASSWORD}
        assert await socket.ask("account.change_email", params) == {}
        proof = await mail.token_to(names.lovelace, "verify")
        assert (await socket.ask("account.get"))["email"] == names.ada, "nothing has changed"
        assert await post(hub, "verify", token=proof) == 200
        account = await socket.ask("account.get")
        assert (account["email"], "verified_at" in account) == (names.lovelace, True)
    await mail.letter_to(names.ada, "another e-mail address")
    assert await post(hub, "verify", token=proof) == 401, "it works once"
    assert await post(hub, "reset", token=old, password=PASSWORD + "!") == 401
    assert await post(hub, "login", email=names.ada, password=PASSWORD) == 401
    assert await post(hub, "login", email=names.lovelace, password=PASSWORD) == 200
    assert await moves(hub, names.lovelace) == ["account.change_email"]
    assert await post(hub, "register", email=names.ada, password=PASSWORD) == 201, (
        "it is free again"
    )


async def test_who_has_no_password_to_give_moves_nothing(
    hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = (await hub.sign_up(names.ada))["access_token"]
    await mail.letter_to(names.ada)
    for email, password, reason in (
        (names.lovelace, "not her password", "permission_denied"),
        (names.ada, PASSWORD, "invalid_params"),
        ("nowhere", PASSWORD, "invalid_params"),
    ):
        with pytest.raises(Refused) as caught:
            await asks(hub, token, email, password)
        assert caught.value.reason == reason
    await hub.hub.services.recovery._mailing.sent()
    assert names.lovelace not in {letter["To"] for letter in mail.letters}


async def test_an_address_that_has_an_account_is_answered_alike_and_its_owner_is_told(
    hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = (await hub.sign_up(names.ada))["access_token"]
    await hub.sign_up(names.lovelace)
    await mail.letter_to(names.lovelace)
    await asks(hub, token, names.lovelace)
    letter = (await mail.letter_to(names.lovelace)).get_content()
    assert "for another account" in letter
    assert "#verify=" not in letter
    assert names.ada not in letter
    assert await moves(hub, names.lovelace) == []


async def test_of_two_accounts_that_would_have_an_address_one_gets_it(
    hub: ServedHub, mail: MailServer, names: Names
) -> None:
    for email in (names.ada, f"eve-{names.ada}"):
        await asks(hub, (await hub.sign_up(email))["access_token"], names.lovelace)
    proofs = [await mail.token_to(names.lovelace, "verify") for _ in range(2)]
    outcomes = await asyncio.gather(*(post(hub, "verify", token=proof) for proof in proofs))
    assert sorted(outcomes) == [200, 409]
    assert await moves(hub, names.lovelace) == ["account.change_email"]


async def test_of_two_moves_the_first_that_is_read_voids_the_other_and_an_old_one_is_void(
    hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = (await hub.sign_up(names.ada))["access_token"]
    await asks(hub, token, f"third-{names.ada}")
    await asks(hub, token, names.lovelace)
    first = await mail.token_to(f"third-{names.ada}", "verify")
    second = await mail.token_to(names.lovelace, "verify")
    assert await post(hub, "verify", token=second) == 200
    assert await post(hub, "verify", token=first) == 401
    await asks(hub, token, names.ada)
    await mail.letter_to(names.ada)
    old = await mail.token_to(names.ada, "verify")
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(update(AccountToken).values(expires_at=now()))
    assert await post(hub, "verify", token=old) == 401


async def test_a_token_of_a_move_sets_no_password(
    hub: ServedHub, mail: MailServer, names: Names
) -> None:
    await asks(hub, (await hub.sign_up(names.ada))["access_token"], names.lovelace)
    proof = await mail.token_to(names.lovelace, "verify")
    assert await post(hub, "reset", token=proof, password=PASSWORD + "!") == 401
    assert await post(hub, "verify", token=proof) == 200
