"""Tokens that are sent by letter, when several of one account are used at once."""

import asyncio

import pytest

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.accounts import account_tokens
from hub.identity.accounts.delivery import open_delivery
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.recovery import Recovery
from hub.identity.sessions.throttle import Throttle
from hub.ids import new_id
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import User
from hub.telemetry.metrics import Metrics
from tests.identity.houses import waiting
from tests.interaction.drivers import eventually

ROUNDS = 20


@pytest.fixture
def recovery(database: Database, passwords: Passwords, settings: Settings) -> Recovery:
    throttle = Throttle(MemoryBackplane())
    mailing = Mailing(database, open_delivery(settings), throttle, Metrics(), settings.url)

    async def changed(kind: str, id: str) -> None:
        return None

    return Recovery(database, passwords, throttle, mailing, changed)


async def test_of_a_reset_and_a_move_at_the_same_moment_the_first_holds_and_voids_the_other(
    database: Database, recovery: Recovery
) -> None:
    for number in range(ROUNDS):
        async with database.write(EVERY_TENANT) as session:
            user = User(id=new_id("u"), email=f"ada-{number}@hub.example")
            session.add(user)
            await session.flush()
            reset = account_tokens.make(session, user, "reset")
            address = f"lovelace-{number}@hub.example"
            move = account_tokens.make(session, user, "move", address=address)
        works = [recovery.reset(reset, "a better horse and battery", None)]
        works.insert(number % 2, recovery.verify(move, None))
        begun: list[asyncio.Task[None]] = []
        async with database.write(EVERY_TENANT) as session:
            await session.get(User, user.id, with_for_update=True)
            for work in works:
                begun.append(asyncio.create_task(work))

                async def wait() -> bool:
                    return database.embedded or await waiting(database) == len(begun)  # noqa: B023

                await eventually(wait)
        first, second = await asyncio.gather(*begun, return_exceptions=True)
        ends = (first, second) if first is None else (second, first)
        assert ends[0] is None
        assert isinstance(ends[1], Fault)
        assert ends[1].reason == "unauthenticated"
        assert database.embedded or first is None
