"""Verified addresses and new passwords, by letters that a real mail server takes."""

import asyncio
import re
import statistics
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlmodel import col, select, update
from structlog.testing import capture_logs

from hub.faults import Fault
from hub.identity.accounts.account_tokens import LIVES
from hub.identity.sessions import throttle
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AccountToken, AuditEntry, User, now
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.mail import MailServer

EMAIL = "ada@hub.example"
NEW = "a better horse and battery"


@pytest.fixture
async def hub(serve_hub: ServeHub, mail: MailServer) -> AsyncIterator[ServedHub]:
    """A hub that mails, and wants verified addresses, as one does that is for real."""
    async with serve_hub(
        HUB_SMTP_URL=mail.url,
        HUB_REQUIRE_VERIFIED="true",
        HUB_REGISTRATION="open",
        HUB_PUBLIC_URL="https://hub.example",
    ) as served:
        yield served


async def asked(hub: ServedHub, path: str, /, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        return await client.post(f"/v1/auth/{path}", json=body)


async def status(hub: ServedHub, path: str, /, **body: Any) -> int:
    return (await asked(hub, path, **body)).status_code


async def signed_up(hub: ServedHub, mail: MailServer) -> str:
    """Register and verify; an access token."""
    assert await status(hub, "register", email=EMAIL, password=PASSWORD) == 201
    assert await status(hub, "verify", token=await mail.token_to(EMAIL, "verify")) == 200
    answer = await asked(hub, "login", email=EMAIL, password=PASSWORD)
    return str(answer.raise_for_status().json()["access_token"])


async def test_who_registers_comes_in_once_the_address_is_verified(
    hub: ServedHub, mail: MailServer
) -> None:
    assert await status(hub, "register", email=EMAIL, password=PASSWORD) == 201
    refused = await asked(hub, "login", email=EMAIL, password=PASSWORD)
    wrong = await asked(hub, "login", email=EMAIL, password="wrong horse battery")
    assert refused.status_code == wrong.status_code == 401
    assert refused.json()["error"]["message"] == wrong.json()["error"]["message"]
    letter = await mail.letter_to(EMAIL)
    found = re.search(r"https://hub\.example/#verify=([\w-]{43})\n", letter.get_content())
    assert found is not None
    assert await status(hub, "verify", token=found.group(1)) == 200
    assert await status(hub, "login", email=EMAIL, password=PASSWORD) == 200
    assert await status(hub, "verify", token=found.group(1)) == 401


async def test_the_letter_comes_again_for_who_asks_and_is_not_verified(
    hub: ServedHub, mail: MailServer
) -> None:
    await status(hub, "register", email=EMAIL, password=PASSWORD)
    await mail.letter_to(EMAIL)
    assert await status(hub, "resend", email="Ada@Hub.Example") == 200
    assert await status(hub, "verify", token=await mail.token_to(EMAIL, "verify")) == 200
    assert await status(hub, "resend", email=EMAIL) == 200
    await hub.hub.services.recovery._mailing.sent()
    assert mail.letters == []


async def test_a_forgotten_password_is_chosen_anew_once_and_all_sessions_end(
    hub: ServedHub, mail: MailServer
) -> None:
    token = await signed_up(hub, mail)
    assert await status(hub, "recover", email=EMAIL) == 200
    proof = await mail.token_to(EMAIL, "reset")
    async with open_socket(hub.ws_url, token) as socket:
        # A password that cannot be leaves the token as it was.
        assert await status(hub, "reset", token=proof, password="short") == 422
        assert await status(hub, "reset", token=proof, password="ada@hub.example!!") == 422
        assert await status(hub, "reset", token=proof, password=NEW) == 200
        assert (await socket.notice("session.revoked"))["reason"] == "session_revoked"
        assert (await socket.closed())[0] == 4503
    assert await status(hub, "reset", token=proof, password=NEW + "!") == 401
    assert await status(hub, "login", email=EMAIL, password=PASSWORD) == 401
    assert await status(hub, "login", email=EMAIL, password=NEW) == 200


async def test_a_reset_verifies_the_address_too(hub: ServedHub, mail: MailServer) -> None:
    await status(hub, "register", email=EMAIL, password=PASSWORD)
    await status(hub, "recover", email=EMAIL)
    proof = await mail.token_to(EMAIL, "verify")
    assert await status(hub, "reset", token=proof, password=NEW) == 401, "for another purpose"
    proof = await mail.token_to(EMAIL, "reset")
    assert await status(hub, "verify", token=proof) == 401, "for another purpose"
    assert await status(hub, "reset", token=proof, password=NEW) == 200
    assert await status(hub, "login", email=EMAIL, password=NEW) == 200


async def test_a_reset_leaves_no_other_link_behind(hub: ServedHub, mail: MailServer) -> None:
    await signed_up(hub, mail)
    for _ in range(2):
        await status(hub, "recover", email=EMAIL)
    first, second = [await mail.token_to(EMAIL, "reset") for _ in range(2)]
    assert await status(hub, "reset", token=second, password=NEW) == 200
    assert await status(hub, "reset", token=first, password=PASSWORD) == 401


async def test_a_token_that_many_show_at_once_is_good_once(
    hub: ServedHub, mail: MailServer
) -> None:
    await signed_up(hub, mail)
    await status(hub, "recover", email=EMAIL)
    proof = await mail.token_to(EMAIL, "reset")
    outcomes = await asyncio.gather(
        *(status(hub, "reset", token=proof, password=f"{NEW} {at}") for at in range(8))
    )
    assert sorted(outcomes) == [200] + [401] * 7


async def test_a_token_is_good_for_its_time_and_for_the_address_it_was_sent_to(
    hub: ServedHub, mail: MailServer
) -> None:
    await signed_up(hub, mail)
    database = hub.hub.services.database
    await status(hub, "recover", email=EMAIL)
    old = await mail.token_to(EMAIL, "reset")
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(AccountToken).values(expires_at=now()))
    assert await status(hub, "reset", token=old, password=NEW) == 401
    await status(hub, "recover", email=EMAIL)
    moved = await mail.token_to(EMAIL, "reset")
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(User).values(email="lovelace@hub.example"))
    assert await status(hub, "reset", token=moved, password=NEW) == 401
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(User).values(email=EMAIL))
    assert await status(hub, "reset", token=moved, password=NEW) == 200


async def test_tokens_are_kept_as_hashes_alone(hub: ServedHub, mail: MailServer) -> None:
    await signed_up(hub, mail)
    await status(hub, "recover", email=EMAIL)
    proof = await mail.token_to(EMAIL, "reset")
    async with hub.hub.services.database.read(EVERY_TENANT) as session:
        kept = (await session.exec(select(AccountToken))).all()
    assert len(kept) == 2
    assert all(proof not in repr(row) for row in kept)
    reset = next(row for row in kept if row.purpose == "reset")
    assert timedelta(minutes=29) < reset.expires_at - now() <= LIVES["reset"]


async def test_the_answer_and_its_time_are_the_same_for_a_known_and_an_unknown_address(
    hub: ServedHub, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_up(hub, mail)
    free = throttle.Budget("free", 10_000, 0.001)
    monkeypatch.setattr(throttle, "OF_REQUESTS", (free, free))
    took: dict[str, list[float]] = {EMAIL: [], "nobody@hub.example": []}
    answers = set()
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        for _ in range(60):
            for email, times in took.items():
                # So that neither finds a hub, or a processor, that has just had more to do.
                await client.get("/health/live")
                began = time.perf_counter()
                answer = await client.post("/v1/auth/recover", json={"email": email})
                times.append(time.perf_counter() - began)
                answers.add((answer.status_code, answer.content))
                # What goes on after an answer is not to be in the time of the next.
                await hub.hub.services.recovery._mailing.sent()
    assert answers == {(200, b"{}")}
    # What a busy machine adds, it adds to some: a tenth are of what the hub does alone.
    known, unknown = (statistics.quantiles(times, n=10)[0] for times in took.values())
    assert abs(known - unknown) < 0.2 * unknown


async def test_a_disabled_user_is_sent_nothing(hub: ServedHub, mail: MailServer) -> None:
    await signed_up(hub, mail)
    user = await hub.hub.services.users.find(EMAIL)
    await hub.hub.services.users.set_disabled(user.id, True)
    assert await status(hub, "recover", email=EMAIL) == 200
    await hub.hub.services.recovery._mailing.sent()
    assert mail.letters == []


async def test_who_asks_too_often_is_told_and_the_mailbox_is_not_flooded(
    hub: ServedHub, mail: MailServer
) -> None:
    await signed_up(hub, mail)
    recovery = hub.hub.services.recovery
    most = throttle.OF_REQUESTS[1].burst
    # One was asked for by registering, which whether there is an account makes no difference to.
    for email, before in ((EMAIL, 1), ("nobody@hub.example", 0)):
        said = [await status(hub, "recover", email=email) for _ in range(7)]
        assert said == [200] * (most - before) + [429] * (7 - most + before)
    for number in range(20):  # from everywhere
        await recovery.ask("reset", EMAIL, f"198.51.100.{number}")
    await recovery._mailing.sent()
    letters = [letter for letter in mail.letters if letter["To"] == EMAIL]
    assert len(letters) == throttle.OF_LETTERS.burst - 1  # one was for the verification


async def test_a_letter_that_the_mail_server_does_not_take_at_first_comes_all_the_same(
    hub: ServedHub, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.identity.accounts.mailing.PAUSES_S", (0.01, 0.01))
    mail.refuse = 2
    await signed_up(hub, mail)


async def test_no_token_is_in_the_log_where_letters_are_mailed(
    hub: ServedHub, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.identity.accounts.mailing.PAUSES_S", ())
    with capture_logs() as lines:
        await signed_up(hub, mail)
        mail.refuse = 1
        await status(hub, "recover", email=EMAIL)
        await hub.hub.services.recovery._mailing.sent()
    assert [line["event"] for line in lines] == ["a letter was not delivered"]
    assert "451" in lines[0]["why"]
    assert EMAIL not in repr(lines)


async def test_on_a_laptop_the_letter_is_in_the_log(served_hub: ServedHub) -> None:
    with capture_logs() as lines:
        await served_hub.sign_up(EMAIL)  # and nothing has to be verified
        await served_hub.hub.services.recovery._mailing.sent()
    (text,) = [line["text"] for line in lines if line.get("to") == EMAIL]
    found = re.search(rf"{served_hub.url}/#verify=([\w-]+)", text)
    assert found is not None
    assert await status(served_hub, "verify", token=found.group(1)) == 200


# --- while signed in ------------------------------------------------------------------------------


async def test_a_changed_password_ends_the_other_sessions(hub: ServedHub, mail: MailServer) -> None:
    token = await signed_up(hub, mail)
    other = (await asked(hub, "login", email=EMAIL, password=PASSWORD)).json()
    async with (
        open_socket(hub.ws_url, token) as here,
        open_socket(hub.ws_url, other["access_token"]) as there,
    ):
        change = {"current": PASSWORD, "password": NEW}
        assert await here.ask("account.change_password", change) == {}
        assert (await there.closed())[0] == 4503
        await here.ask("conversation.list")
    assert await status(hub, "refresh", refresh_token=other["refresh_token"]) == 401
    assert await status(hub, "login", email=EMAIL, password=NEW) == 200


async def test_a_stolen_session_is_no_way_to_guess_the_password(
    hub: ServedHub, mail: MailServer
) -> None:
    token = await signed_up(hub, mail)
    user_id = hub.hub.services.tokens.read(token).user_id
    recovery = hub.hub.services.recovery
    said = []
    for number in range(throttle.OF_PASSWORD.burst + 2):
        with pytest.raises(Fault) as caught:
            await recovery.change(user_id, "", f"a wrong guess {number}", NEW)
        said.append(caught.value.reason)
    assert said == ["permission_denied"] * throttle.OF_PASSWORD.burst + ["rate_limited"] * 2


async def test_a_password_that_is_changed_twice_at_once_is_changed_once(
    hub: ServedHub, mail: MailServer
) -> None:
    token = await signed_up(hub, mail)
    claims = hub.hub.services.tokens.read(token)
    recovery = hub.hub.services.recovery
    outcomes = await asyncio.gather(
        *(
            recovery.change(claims.user_id, claims.session_id, PASSWORD, f"{NEW} {at}")
            for at in range(4)
        ),
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 1


async def test_what_is_done_with_an_account_is_in_the_trail(
    hub: ServedHub, mail: MailServer
) -> None:
    token = await signed_up(hub, mail)
    claims = hub.hub.services.tokens.read(token)
    await status(hub, "recover", email=EMAIL)
    await status(hub, "reset", token=await mail.token_to(EMAIL, "reset"), password=NEW)
    async with hub.hub.services.database.read(claims.tenant_id) as session:
        rows = await session.exec(select(AuditEntry).order_by(col(AuditEntry.seq)))
        entries = [row for row in rows.all() if row.action.startswith("account.")]
    told = [entry.action for entry in entries if entry.outcome == "done"]
    told.remove("account.login")
    assert told == ["account.register", "account.verify", "account.reset"]
    of_user = [entry for entry in entries if entry.action != "account.login"]
    assert all(entry.resource_id == claims.user_id for entry in of_user)
    assert all(PASSWORD not in entry.details and NEW not in entry.details for entry in entries)
