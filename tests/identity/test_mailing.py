"""What becomes of letters that the mail server does not take, or that are too many."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.accounts.account_tokens import LIVES
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.delivery import SmtpDelivery
from hub.identity.accounts.mailing import AT_ONCE, PAUSES_S, Mailing
from hub.identity.sessions.throttle import Throttle
from hub.storage.database import Database
from hub.telemetry.metrics import Metrics
from tests.interaction.drivers import eventually
from tests.parts.mail import MailServer

ADA, BOB = "ada@hub.example", "bob@hub.example"
PASSWORD = "correct horse battery"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def mailing(
    database: Database, accounts: Accounts, metrics: Metrics, mail: MailServer
) -> AsyncIterator[Mailing]:
    """One that sends to two people, once it is started."""
    for email in (ADA, BOB):
        await accounts.register(email, PASSWORD)
    backplane = MemoryBackplane()
    await backplane.start()
    delivery = SmtpDelivery(mail.url, "hub@hub.example")
    mailing = Mailing(database, delivery, Throttle(backplane), metrics, "https://hub.example")
    yield mailing
    await mailing.close()
    await backplane.close()


async def until(true: Callable[[], bool]) -> None:
    async def asked() -> bool:
        return true()

    await eventually(asked)


def counted(metrics: Metrics) -> dict[str, float]:
    outcomes = ("sent", "retried", "failed", "dropped")
    read = metrics.registry.get_sample_value
    found = {each: read("hub_letters_total", {"outcome": each}) or 0.0 for each in outcomes}
    return {each: count for each, count in found.items() if count}


async def test_a_letter_that_is_not_taken_is_tried_again(
    mailing: Mailing, mail: MailServer, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.identity.accounts.mailing.PAUSES_S", (0.01, 0.01))
    mail.refuse = 2
    await mailing.start()
    mailing.want("reset", ADA)
    await mail.token_to(ADA, "reset")
    await mailing.sent()
    assert counted(metrics) == {"sent": 1, "retried": 2}


async def test_those_that_wait_to_be_tried_again_hold_up_no_other_and_are_not_without_end(
    mailing: Mailing, mail: MailServer, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.identity.accounts.mailing.PAUSES_S", (600.0,))
    monkeypatch.setattr("hub.identity.accounts.mailing.WAITING", AT_ONCE + 1)
    mail.refuse = AT_ONCE
    await mailing.start()
    for _ in range(AT_ONCE):
        mailing.want("reset", ADA)
    await until(lambda: counted(metrics) == {"retried": AT_ONCE})
    mailing.want("reset", BOB)
    with pytest.raises(Fault) as caught:
        mailing.want("reset", BOB)
    assert caught.value.reason == "rate_limited"
    await mail.letter_to(BOB)
    await until(lambda: counted(metrics).get("sent") == 1)
    with capture_logs() as lines:
        await mailing.close()
    assert [(line["event"], line["letters"]) for line in lines] == [
        ("letters that waited are lost", AT_ONCE)
    ]
    assert counted(metrics) == {"retried": AT_ONCE, "sent": 1, "dropped": 1 + AT_ONCE}
    async with asyncio.timeout(1):
        await mailing.sent()


async def test_it_is_given_up_after_the_last_attempt_and_said_to_the_operator(
    mailing: Mailing, mail: MailServer, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.identity.accounts.mailing.PAUSES_S", (0.0, 0.0))
    mail.refuse = 3
    with capture_logs() as lines:
        await mailing.start()
        mailing.want("reset", ADA)
        await mailing.sent()
    assert counted(metrics) == {"retried": 2, "failed": 1}
    assert [line["event"] for line in lines] == ["a letter was not delivered"]
    assert mail.letters == []


async def test_what_the_server_will_never_take_is_not_tried_again(
    mailing: Mailing, mail: MailServer, metrics: Metrics
) -> None:
    mail.refuse, mail.refusal = 1, "550 no such mailbox"
    await mailing.start()
    mailing.want("reset", ADA)
    await mailing.sent()
    assert counted(metrics) == {"failed": 1}


def test_a_link_is_good_for_longer_than_its_letter_is_tried() -> None:
    assert sum(PAUSES_S) < min(life.total_seconds() for life in LIVES.values()) / 2
