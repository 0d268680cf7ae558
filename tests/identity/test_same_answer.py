"""Who does not come in learns nothing from how long the answer takes."""

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlmodel import col, update

from hub.faults import Fault
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.passwords import Passwords
from hub.identity.tokens.access_tokens import Tokens
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import User, now
from tests.parts.rank_sum import ALPHA, rank_sum

PASSWORD: Final = "correct horse battery"
TRIALS: Final = 200
COST: Final = 6


def test_the_test_sees_a_difference_and_no_difference() -> None:
    even = [float(at % 100) + at * 1e-6 for at in range(TRIALS)]
    assert rank_sum(even, [value + 1e-7 for value in even]) > 0.9
    assert rank_sum(even, [value + 30 for value in even]) < ALPHA


async def measured(
    ways: dict[str, Callable[[], Awaitable[Any]]], trials: int
) -> dict[str, list[float]]:
    """Seconds that each took, in turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(trials):
        for name, way in ways.items():
            began = time.perf_counter()
            with pytest.raises(Fault, match="Wrong e-mail address or password"):
                await way()
            took[name].append(time.perf_counter() - began)
    return took


@pytest.fixture
async def accounts(sqlite_url: str, tokens: Tokens, settings: Settings) -> Any:
    database = Database(sqlite_url)
    await database.start()
    passwords = Passwords(COST, concurrency=1)
    strict = settings.model_copy(update={"require_verified": True})
    accounts = Accounts(database, passwords, tokens, strict)
    for name in ("known", "disabled", "unverified"):
        await accounts.create_user(f"{name}@hub.example", PASSWORD, "main", "member")
    async with database.write(EVERY_TENANT) as session:
        for name, values in (
            ("disabled", {"disabled_at": now()}),
            ("unverified", {"verified_at": None}),
        ):
            await session.exec(
                update(User).where(col(User.email) == f"{name}@hub.example").values(**values)
            )
    yield accounts
    passwords.close()
    await database.close()


async def test_an_unknown_user_a_wrong_password_a_disabled_and_an_unverified_user_take_as_long(
    accounts: Accounts,
) -> None:
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "unknown": lambda: accounts.login("nobody@hub.example", PASSWORD),
        "wrong": lambda: accounts.login("known@hub.example", "wrong horse battery"),
        "disabled": lambda: accounts.login("disabled@hub.example", PASSWORD),
        "unverified": lambda: accounts.login("unverified@hub.example", PASSWORD),
    }
    await measured(ways, 5)  # what is made once is made
    for attempt in (1, 2):
        took = await measured(ways, TRIALS)
        medians = {name: statistics.median(times) for name, times in took.items()}
        p = {name: rank_sum(took["unknown"], took[name]) for name in ways if name != "unknown"}
        print({name: f"{median * 1e3:.3f} ms" for name, median in medians.items()}, p)
        # Many small samples find any difference significant: one that no network shows is none.
        close = all(
            abs(median - medians["unknown"]) < 0.05 * medians["unknown"]
            for median in medians.values()
        )
        if close or all(value > ALPHA for value in p.values()):
            return
        assert attempt == 1, (medians, p)
