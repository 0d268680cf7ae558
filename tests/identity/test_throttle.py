"""Guessing is slow from wherever it comes, and nobody locks anybody out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.audit.origin import place_of
from hub.backplane.choice import open_backplane
from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.faults import Fault
from hub.identity.accounts import account_tokens, sign_in
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.delivery import LogDelivery
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.recovery import Recovery
from hub.identity.sessions import throttle as budgets
from hub.identity.sessions.throttle import Throttle, beginnings_of
from hub.identity.tokens.access_tokens import Tokens
from hub.ids import new_id
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, User, now
from hub.telemetry.metrics import Metrics
from tests.parts.redis import RedisProcess

EMAIL, PASSWORD = "ada@hub.example", "correct horse battery"
HOME, ABROAD = "192.0.2.1", "198.51.100.7"
PAIR, ACCOUNT, ADDRESS = (
    budgets.OF_PAIR[0].burst,
    budgets.OF_ACCOUNT.burst,
    budgets.OF_ADDRESS.burst,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(MemoryBackplane(MemoryShared(clock=clock)))


@pytest.fixture
def throttled(
    database: Database,
    passwords: Passwords,
    tokens: Tokens,
    settings: Settings,
    throttle: Throttle,
) -> Accounts:
    """Accounts whose sign-ins are slowed, by a clock of the test."""
    return Accounts(database, passwords, tokens, settings, throttle=throttle)


@pytest.fixture
def recovery(database: Database, passwords: Passwords, throttle: Throttle) -> Recovery:
    """Recovery of those accounts."""

    async def changed(kind: str, id: str) -> None:
        """Nobody listens."""

    mailing = Mailing(database, LogDelivery(), throttle, Metrics(), "https://hub.example")
    return Recovery(database, passwords, throttle, mailing, changed)


async def outcome(work: Awaitable[Any]) -> str:
    """``ok``, or the reason of the fault."""
    try:
        await work
    except Fault as fault:
        refusal = fault
    else:
        return "ok"
    assert refusal.reason != "rate_limited" or refusal.details["retry_after_ms"] > 0
    return refusal.reason


async def guess(accounts: Accounts, times: int, address: str, email: str = EMAIL) -> list[str]:
    return [
        await outcome(accounts.login(email, f"a wrong guess {at}", address=address))
        for at in range(times)
    ]


async def test_after_some_wrong_guesses_even_the_right_password_waits(
    throttled: Accounts, clock: Clock
) -> None:
    await throttled.register(EMAIL, PASSWORD)
    said = await guess(throttled, PAIR + 5, ABROAD)
    assert said == ["unauthenticated"] * PAIR + ["rate_limited"] * 5
    with pytest.raises(Fault) as caught:
        await throttled.login(EMAIL, PASSWORD, address=ABROAD)
    assert caught.value.reason == "rate_limited"
    clock.now += caught.value.details["retry_after_ms"] / 1000
    await throttled.login(EMAIL, PASSWORD, address=ABROAD)


async def test_the_pause_grows_for_who_goes_on_guessing(throttled: Accounts, clock: Clock) -> None:
    await throttled.register(EMAIL, PASSWORD)
    pauses, guesses = [], 0
    while guesses < budgets.OF_PAIR[1].burst + 3:
        try:
            await throttled.login(EMAIL, "a wrong guess", address=ABROAD)
        except Fault as fault:
            if fault.reason == "unauthenticated":
                guesses += 1
                continue
            pauses.append(fault.details["retry_after_ms"] / 1000)
            clock.now += pauses[-1]
    assert max(pauses[:5]) <= 6
    assert min(pauses[-2:]) > 60


async def test_who_signs_in_rightly_is_never_slowed(throttled: Accounts) -> None:
    await throttled.register(EMAIL, PASSWORD)
    for _ in range(PAIR * 2):
        await throttled.login(EMAIL, PASSWORD, address=HOME)


async def test_nothing_is_hashed_for_who_is_slowed(
    database: Database, tokens: Tokens, settings: Settings
) -> None:
    class Counting(Passwords):
        checked = 0

        async def verify(self, password: str, stored: str | None) -> Any:
            Counting.checked += 1
            return await super().verify(password, stored)

    passwords = Counting(cost=4)
    accounts = Accounts(database, passwords, tokens, settings, throttle=Throttle(MemoryBackplane()))
    outcomes = await asyncio.gather(
        *(outcome(accounts.login(EMAIL, "a wrong guess", address=ABROAD)) for _ in range(50))
    )
    passwords.close()
    assert outcomes.count("rate_limited") == 50 - PAIR
    assert Counting.checked == PAIR


async def test_many_addresses_guess_slowly_and_the_owner_at_home_comes_in(
    throttled: Accounts,
) -> None:
    await throttled.register(EMAIL, PASSWORD)
    await throttled.login(EMAIL, PASSWORD, address=HOME)
    await throttled.login(EMAIL, PASSWORD, address="2001:db8:1:2::1")
    said: list[str] = []
    for number in range(ACCOUNT // 10 + 3):
        said += await guess(throttled, 10, f"198.51.100.{number}")
    assert said.count("unauthenticated") == ACCOUNT
    assert set(said[ACCOUNT:]) == {"rate_limited"}
    for elsewhere in ("203.0.113.9", "2001:db8:1:3::1"):
        unknown = throttled.login(EMAIL, PASSWORD, address=elsewhere)
        assert await outcome(unknown) == "rate_limited"
    # Of IPv6, home is a network: the address there is another one every day.
    for home in (HOME, "2001:db8:1:2:a1b2::9"):
        assert await outcome(throttled.login(EMAIL, PASSWORD, address=home)) == "ok"


async def attacked(accounts: Accounts, email: str = EMAIL) -> None:
    """Use up the account's budget, from many addresses."""
    for number in range(ACCOUNT // 10):
        said = await guess(accounts, 10, f"198.51.100.{number}", email)
        assert set(said) == {"unauthenticated"}


async def test_the_owner_of_an_account_under_attack_resets_it_and_comes_in_at_a_new_place(
    throttled: Accounts, recovery: Recovery, clock: Clock
) -> None:
    user, _ = await throttled.register(EMAIL, PASSWORD)
    await attacked(throttled)
    new, chosen = "2001:db8:1:2::1", "a better horse and battery"
    assert await outcome(throttled.login(EMAIL, PASSWORD, address=new)) == "rate_limited"
    await recovery.reset(await recovery.reset_token(user.id), chosen, new)
    # Nobody else comes in, nor do they elsewhere, and there, too, passwords are guessed slowly.
    for elsewhere in (ABROAD, "2001:db8:1:3::1"):
        assert await outcome(throttled.login(EMAIL, chosen, address=elsewhere)) == "rate_limited"
    near = "2001:db8:1:2:a1b2::9"
    assert await guess(throttled, 1, near, "nobody@hub.example") == ["unauthenticated"]
    said = await guess(throttled, PAIR + 1, near)
    assert said == ["unauthenticated"] * PAIR + ["rate_limited"]
    clock.now += budgets.OF_PAIR[0].every_s
    assert await outcome(throttled.login(EMAIL, chosen, address=near)) == "ok"


async def test_who_has_shown_the_mailbox_is_at_home_at_that_place_for_a_while(
    throttled: Accounts, recovery: Recovery, throttle: Throttle, database: Database, clock: Clock
) -> None:
    user, _ = await throttled.register(EMAIL, PASSWORD)
    assert await outcome(recovery.verify("no such token", HOME)) == "unauthenticated"
    await attacked(throttled)
    assert await outcome(throttled.login(EMAIL, PASSWORD, address=HOME)) == "rate_limited"
    async with database.write(EVERY_TENANT) as session:
        found = await session.get(User, user.id)
        assert found is not None
        token = account_tokens.make(session, found, "verify")
    await recovery.verify(token, HOME)

    async def again() -> str:
        return await outcome(throttle.unknown_place(EMAIL, HOME, budgets.NOTHING))

    clock.now += budgets.AT_HOME_S - 1  # in which the account's budget has not become full
    assert [await again() for _ in range(ACCOUNT)] == ["ok"] * ACCOUNT
    clock.now += 1
    assert (await again(), [await again() for _ in range(ACCOUNT)][-1]) == ("ok", "rate_limited")


async def test_of_the_places_that_somebody_signed_in_from_nobody_elsewhere_learns(
    throttled: Accounts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many those are: what is not of the asker's own place is not looked at."""
    user, tenant = await throttled.register(EMAIL, PASSWORD)
    later = now() + timedelta(days=1)
    async with database.write(EVERY_TENANT) as session:
        session.add_all(
            LoginSession(
                id=new_id("s"),
                tenant_id=tenant.id,
                user_id=user.id,
                address=f"2001:db8:1:{at:x}::1",
                expires_at=later,
            )
            for at in range(100)
        )
    looked_at: list[str | None] = []

    def noted(address: str | None) -> str:
        looked_at.append(address)
        return place_of(address)

    monkeypatch.setattr(sign_in, "place_of", noted)
    for address in ("2001:db8:2:3::9", HOME):
        seen = []
        for email in (EMAIL, "nobody@hub.example"):
            looked_at.clear()
            assert await guess(throttled, 1, address, email) == ["unauthenticated"]
            seen.append(list(looked_at))
        assert seen[0] == seen[1]


async def test_an_address_guesses_slowly_whosever_passwords_and_others_are_not_slowed(
    throttled: Accounts,
) -> None:
    await throttled.register(EMAIL, PASSWORD)
    said: list[str] = []
    for number in range(ADDRESS // 10 + 2):
        said += await guess(throttled, 10, ABROAD, f"user{number}@hub.example")
    assert said.count("unauthenticated") == ADDRESS
    assert await outcome(throttled.login(EMAIL, PASSWORD, address=ABROAD)) == "rate_limited"
    assert await outcome(throttled.login(EMAIL, PASSWORD, address=HOME)) == "ok"


async def test_an_account_that_is_not_there_is_slowed_as_one_that_is(throttled: Accounts) -> None:
    await throttled.register(EMAIL, PASSWORD)
    known = await guess(throttled, PAIR + 2, ABROAD)
    assert await guess(throttled, PAIR + 2, ABROAD, "nobody@hub.example") == known


async def test_writing_an_address_otherwise_is_no_way_round(throttled: Accounts) -> None:
    await throttled.register(EMAIL, PASSWORD)
    await guess(throttled, PAIR, ABROAD)
    for email in ("Ada@Hub.Example", "ADA@HUB.EXAMPLE"):
        assert await guess(throttled, 1, ABROAD, email) == ["rate_limited"]


def test_a_network_of_one_customer_is_one_place() -> None:
    assert place_of("2001:db8:1:2::1") == place_of("2001:db8:1:2:ffff::9")
    assert place_of("2001:db8:1:2::1") != place_of("2001:db8:1:3::1")
    assert place_of("192.0.2.1") != place_of("192.0.2.2")
    assert place_of(None) == "-"
    assert beginnings_of("unix:socket") == ("unix:socket",)
    assert "fe80::1%eth0".startswith(beginnings_of("fe80::2%eth0"))


hextets = st.sampled_from([0, 0, 0, 1, 0xDB8, 0xFFFF])
addresses = st.lists(hextets, min_size=8, max_size=8).map(
    lambda parts: str(IPv6Address(sum(part << 16 * at for at, part in enumerate(parts))))
)


@given(addresses, addresses, st.integers(0, 2**64 - 1))
def test_all_addresses_of_a_place_begin_as_is_looked_for(one: str, other: str, there: int) -> None:
    network = int(IPv6Address(one)) >> 64 << 64
    near = int(IPv6Address(other)) % 2**64
    for address in (one, str(IPv6Address(network | near)), str(IPv6Address(network | there))):
        assert place_of(address) == place_of(one)
        assert address.startswith(beginnings_of(one))
    if all(network >> at & 0xFFFF for at in (64, 80, 96, 112)):  # else it may be of a few more
        same = place_of(other) == place_of(one)
        assert other.startswith(beginnings_of(one)) == same


@pytest.fixture
async def nodes(own_redis: RedisProcess) -> AsyncIterator[list[Backplane]]:
    """Two nodes on one Redis, which can be killed."""
    found: list[Backplane] = [
        open_backplane(own_redis.url, name, Metrics()) for name in ("n_one", "n_two")
    ]
    for node in found:
        await node.start()
    yield found
    for node in found:
        await node.close()


async def test_budgets_hold_across_nodes_and_on_each_while_redis_is_away(
    nodes: list[Backplane], own_redis: RedisProcess
) -> None:
    throttles = [Throttle(node) for node in nodes]
    said = [await outcome(throttles[at % 2].sign_in(EMAIL, ABROAD)) for at in range(PAIR + 4)]
    assert said == ["ok"] * PAIR + ["rate_limited"] * 4
    own_redis.kill()
    for throttle in throttles:
        said = [await outcome(throttle.sign_in(EMAIL, ABROAD)) for _ in range(PAIR + 1)]
        assert said == ["ok"] * PAIR + ["rate_limited"]


async def test_who_is_at_home_is_known_across_nodes_and_on_each_while_redis_is_away(
    nodes: list[Backplane], own_redis: RedisProcess
) -> None:
    one, two = (Throttle(node) for node in nodes)

    async def at_home(throttle: Throttle, address: str) -> bool:
        return await throttle.unknown_place(EMAIL, address, budgets.NOTHING) == budgets.NOTHING

    await one.at_home(EMAIL, HOME)
    assert [await at_home(each, HOME) for each in (one, two)] == [True, True]
    assert [await at_home(each, ABROAD) for each in (one, two)] == [False, False]
    own_redis.kill()
    await one.at_home(EMAIL, ABROAD)
    assert [await at_home(each, ABROAD) for each in (one, two)] == [True, False]
