"""Second factors: enrolled by a code, asked for at every way in, guessed by nobody."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import pyotp
import pytest
from sqlmodel import select, update

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.accounts import account_tokens
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.passwords import Passwords
from hub.identity.factors.resets import FactorResets
from hub.identity.factors.second_factors import BURST, MOST_FAILURES, RECOVERY_CODES, Factors
from hub.identity.sessions.login_sessions import TokenPair
from hub.identity.sessions.throttle import Throttle
from hub.identity.tokens.seal import Seal
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    AuditEntry,
    LoginChallenge,
    LoginSession,
    RecoveryCode,
    TotpFactor,
    User,
    now,
)
from tests.identity.houses import waiting
from tests.interaction.drivers import eventually

EMAIL, PASSWORD = "ada@hub.example", "correct horse battery"
OLD, NEW = b"an old key of more than 32 bytes!", b"another key of more than 32 bytes"
BEGIN = 1_800_000_000.0


@dataclass
class Ada:
    """A user, her authenticator, and a clock that a test moves."""

    accounts: Accounts
    factors: Factors
    database: Database
    user: User
    tenant: str
    secret: str = ""
    recovery: list[str] = field(default_factory=list)
    moment: float = BEGIN
    changes: list[tuple[str, str]] = field(default_factory=list)

    def code(self, steps: int = 0) -> str:
        return pyotp.HOTP(self.secret).at(int(self.moment) // 30 + steps)

    def wrong(self) -> str:
        near = {self.code(steps) for steps in (-1, 0, 1)}
        return next(code for code in ("111111", "222222", "333333", "444444") if code not in near)

    async def enrol(self) -> None:
        self.secret = (await self.factors.enrol(self.user.id, self.tenant)).secret
        self.recovery = await self.factors.confirm(self.user.id, self.tenant, self.code())
        self.moment += 60

    async def challenge(self) -> str:
        with pytest.raises(Fault) as caught:
            await self.accounts.login(EMAIL, PASSWORD)
        assert caught.value.reason == "second_factor_required"
        return str(caught.value.details["challenge"])

    async def sign_in(self, code: str) -> TokenPair:
        return await self.factors.continue_login(await self.challenge(), code)

    async def changed(self, kind: str, id: str) -> None:
        self.changes.append((kind, id))

    async def audited(self) -> list[tuple[str, str | None]]:
        async with self.database.read(self.tenant) as session:
            rows = (await session.exec(select(AuditEntry).order_by("seq"))).all()
        ours = [row for row in rows if "factor" in row.action]
        return [(row.action, row.actor_id) for row in ours]


@pytest.fixture
async def backplane() -> AsyncIterator[MemoryBackplane]:
    backplane = MemoryBackplane()
    await backplane.start()
    yield backplane
    await backplane.close()


@pytest.fixture
async def ada(
    accounts: Accounts, database: Database, passwords: Passwords, backplane: MemoryBackplane
) -> Ada:
    user, tenant = await accounts.register(EMAIL, PASSWORD)

    async def changed(kind: str, id: str) -> None:
        await somebody.changed(kind, id)

    factors = Factors(
        database, passwords, Seal(OLD), backplane, accounts.login_sessions,
        changed=changed, clock=lambda: somebody.moment,
    )  # fmt: skip
    somebody = Ada(accounts, factors, database, user, tenant.id)
    return somebody


async def reason(work: Awaitable[Any]) -> str:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.reason


# --- enrolling ------------------------------------------------------------------------------------


async def test_a_factor_is_in_force_once_a_code_has_confirmed_it(ada: Ada) -> None:
    ada.secret = (await ada.factors.enrol(ada.user.id, ada.tenant)).secret
    assert isinstance(await ada.accounts.login(EMAIL, PASSWORD), TokenPair)
    confirming = ada.factors.confirm(ada.user.id, ada.tenant, ada.wrong())
    assert await reason(confirming) == "permission_denied"
    assert isinstance(await ada.accounts.login(EMAIL, PASSWORD), TokenPair)
    codes = await ada.factors.confirm(ada.user.id, ada.tenant, ada.code())
    assert len(set(codes)) == RECOVERY_CODES
    await ada.challenge()
    assert ada.changes == [("user", ada.user.id)]
    state = await ada.factors.state(ada.user.id)
    assert state.confirmed_at is not None
    assert state.recovery_codes_left == RECOVERY_CODES
    assert await ada.audited() == [("factor.enrol", None), ("factor.confirm", None)]


async def test_a_new_enrolment_before_the_first_code_replaces_the_secret(ada: Ada) -> None:
    first = (await ada.factors.enrol(ada.user.id, ada.tenant)).secret
    ada.secret = (await ada.factors.enrol(ada.user.id, ada.tenant)).secret
    assert first != ada.secret
    stale = pyotp.HOTP(first).at(int(ada.moment) // 30)
    assert await reason(ada.factors.confirm(ada.user.id, ada.tenant, stale)) == "permission_denied"
    await ada.factors.confirm(ada.user.id, ada.tenant, ada.code())


async def test_what_is_in_force_is_not_replaced(ada: Ada) -> None:
    await ada.enrol()
    assert await reason(ada.factors.enrol(ada.user.id, ada.tenant)) == "conflict"
    assert await reason(ada.factors.confirm(ada.user.id, ada.tenant, ada.code())) == "conflict"


async def test_neither_the_secret_nor_a_recovery_code_is_in_the_database(ada: Ada) -> None:
    await ada.enrol()
    async with ada.database.read(EVERY_TENANT) as session:
        factor = (await session.exec(select(TotpFactor))).one()
        kept = (await session.exec(select(RecoveryCode))).all()
    assert ada.secret not in factor.secret
    assert not {row.code_hash for row in kept} & set(ada.recovery)
    assert all(len(row.code_hash) == 64 for row in kept)


# --- signing in -----------------------------------------------------------------------------------


async def test_a_code_finishes_the_sign_in_and_the_session_says_so(ada: Ada) -> None:
    await ada.enrol()
    challenge = await ada.challenge()
    pair = await ada.factors.continue_login(challenge, ada.code(), "a device", "192.0.2.1")
    async with ada.database.read(EVERY_TENANT) as session:
        login = await session.get(LoginSession, pair.session_id)
    assert login is not None
    assert (login.second_factor, login.device, login.address) == ("totp", "a device", "192.0.2.1")
    assert await reason(ada.factors.continue_login(challenge, ada.code(1))) == "unauthenticated"


async def test_the_first_step_tells_no_more_than_that_the_password_is_right(ada: Ada) -> None:
    await ada.enrol()
    assert await reason(ada.accounts.login(EMAIL, "a wrong password")) == "unauthenticated"
    assert await reason(ada.accounts.login(EMAIL, PASSWORD, "t_other")) == "unauthenticated"
    async with ada.database.write(EVERY_TENANT) as session:
        await session.exec(update(User).values(disabled_at=now()))
    assert await reason(ada.accounts.login(EMAIL, PASSWORD)) == "unauthenticated"


@pytest.mark.parametrize("steps", [-1, 0, 1])
async def test_a_clock_may_be_a_step_early_or_late(ada: Ada, steps: int) -> None:
    await ada.enrol()
    await ada.sign_in(ada.code(steps))


@pytest.mark.parametrize("steps", [-2, 2])
async def test_a_clock_may_not_be_further_off(ada: Ada, steps: int) -> None:
    await ada.enrol()
    assert await reason(ada.sign_in(ada.code(steps))) == "unauthenticated"


async def test_a_code_is_good_once_also_within_its_step(ada: Ada) -> None:
    await ada.enrol()
    await ada.sign_in(ada.code())
    assert await reason(ada.sign_in(ada.code())) == "unauthenticated"
    assert await reason(ada.sign_in(ada.code(-1))) == "unauthenticated"
    await ada.sign_in(ada.code(1))


async def test_a_code_that_comes_many_times_at_once_is_good_once(ada: Ada) -> None:
    await ada.enrol()
    challenges = [await ada.challenge() for _ in range(BURST)]
    code = ada.code()
    outcomes = await asyncio.gather(
        *(ada.factors.continue_login(each, code) for each in challenges), return_exceptions=True
    )
    assert sum(isinstance(outcome, TokenPair) for outcome in outcomes) == 1
    assert {o.reason for o in outcomes if isinstance(o, Fault)} == {"unauthenticated"}


async def test_a_challenge_is_over_after_five_minutes(ada: Ada) -> None:
    await ada.enrol()
    challenge = await ada.challenge()
    async with ada.database.write(EVERY_TENANT) as session:
        await session.exec(update(LoginChallenge).values(expires_at=now()))
    assert await reason(ada.factors.continue_login(challenge, ada.code())) == "unauthenticated"
    assert await reason(ada.factors.continue_login("made up", ada.code())) == "unauthenticated"


async def test_who_was_disabled_meanwhile_does_not_get_in(ada: Ada) -> None:
    await ada.enrol()
    challenge = await ada.challenge()
    async with ada.database.write(EVERY_TENANT) as session:
        await session.exec(update(User).values(disabled_at=now()))
    assert await reason(ada.factors.continue_login(challenge, ada.code())) == "unauthenticated"


async def test_a_login_link_asks_for_the_factor_too_and_is_used_up(ada: Ada) -> None:
    await ada.enrol()
    link = await ada.accounts.login_link(ada.user.id, ada.tenant)
    with pytest.raises(Fault) as caught:
        await ada.accounts.redeem(link)
    assert caught.value.reason == "second_factor_required"
    assert await reason(ada.accounts.redeem(link)) == "unauthenticated"
    challenge = caught.value.details["challenge"]
    assert isinstance(await ada.factors.continue_login(challenge, ada.code()), TokenPair)


# --- guessing -------------------------------------------------------------------------------------


async def test_a_challenge_takes_few_wrong_codes(ada: Ada, backplane: MemoryBackplane) -> None:
    await ada.enrol()
    challenge = await ada.challenge()
    for _ in range(MOST_FAILURES):
        refused = ada.factors.continue_login(challenge, ada.wrong())
        assert await reason(refused) == "unauthenticated"
    backplane._shared.buckets.clear()
    assert await reason(ada.factors.continue_login(challenge, ada.code())) == "unauthenticated"


async def test_attempts_are_bounded_over_all_challenges(ada: Ada) -> None:
    await ada.enrol()
    for _ in range(BURST):
        assert await reason(ada.sign_in(ada.wrong())) == "unauthenticated"
    with pytest.raises(Fault) as caught:
        await ada.sign_in(ada.code())
    assert caught.value.reason == "rate_limited"
    assert 500_000 < caught.value.details["retry_after_ms"] <= 600_000


async def test_the_owner_still_gets_in_by_a_recovery_code_while_somebody_guesses(
    ada: Ada,
) -> None:
    await ada.enrol()
    for _ in range(BURST):
        await reason(ada.sign_in(ada.wrong()))
    assert await reason(ada.sign_in(ada.code())) == "rate_limited"
    await ada.sign_in(ada.recovery[0])


async def test_a_right_code_gives_all_attempts_back(ada: Ada) -> None:
    await ada.enrol()
    for _ in range(3):
        for _ in range(BURST - 1):
            assert await reason(ada.sign_in(ada.wrong())) == "unauthenticated"
        await ada.sign_in(ada.code())
        ada.moment += 60


# --- recovery codes -------------------------------------------------------------------------------


async def test_a_recovery_code_works_once_however_it_is_typed(ada: Ada) -> None:
    await ada.enrol()
    pair = await ada.sign_in(ada.recovery[0].upper().replace("-", " "))
    assert await reason(ada.sign_in(ada.recovery[0])) == "unauthenticated"
    assert (await ada.factors.state(ada.user.id)).recovery_codes_left == RECOVERY_CODES - 1
    async with ada.database.read(EVERY_TENANT) as session:
        login = await session.get(LoginSession, pair.session_id)
    assert login is not None
    assert login.second_factor == "recovery"
    assert (await ada.audited())[2:] == [
        ("account.second_factor", ada.user.id), ("factor.recover", ada.user.id),
    ]  # fmt: skip


async def test_another_users_recovery_code_is_none(ada: Ada) -> None:
    await ada.enrol()
    other, tenant = await ada.accounts.register("bob@hub.example", PASSWORD)
    secret = (await ada.factors.enrol(other.id, tenant.id)).secret
    code = pyotp.HOTP(secret).at(int(ada.moment) // 30)
    theirs = await ada.factors.confirm(other.id, tenant.id, code)
    assert await reason(ada.sign_in(theirs[0])) == "unauthenticated"


async def test_new_recovery_codes_take_a_code_and_void_the_old(ada: Ada) -> None:
    await ada.enrol()
    renewing = ada.factors.renew(ada.user.id, ada.tenant, ada.wrong())
    assert await reason(renewing) == "permission_denied"
    renewed = await ada.factors.renew(ada.user.id, ada.tenant, ada.code())
    assert len(renewed) == RECOVERY_CODES
    assert not set(renewed) & set(ada.recovery)
    assert await reason(ada.sign_in(ada.recovery[0])) == "unauthenticated"
    await ada.sign_in(renewed[0])
    assert ("factor.renew", None) in await ada.audited()


# --- doing without --------------------------------------------------------------------------------


async def test_doing_without_takes_the_password_and_a_code(ada: Ada) -> None:
    await ada.enrol()
    who = (ada.user.id, ada.tenant)
    for password, code in (
        (PASSWORD, ada.wrong()), ("a wrong password", ada.code()), (None, ada.code()),
    ):  # fmt: skip
        refused = ada.factors.disable(*who, password, code)
        assert await reason(refused) == "permission_denied"
    await ada.factors.disable(*who, PASSWORD, ada.code())
    assert isinstance(await ada.accounts.login(EMAIL, PASSWORD), TokenPair)
    assert (await ada.factors.state(ada.user.id)).confirmed_at is None
    assert (await ada.audited())[-1][0] == "factor.disable"
    assert await reason(ada.factors.disable(*who, PASSWORD, ada.code())) == "conflict"


@pytest.mark.parametrize("how", ["by the operator", "by a letter"])
async def test_a_factor_that_is_taken_away_as_it_is_shown_was_shown_in_no_session(
    ada: Ada, backplane: MemoryBackplane, how: str
) -> None:
    await ada.enrol()
    resets = FactorResets(ada.database, Throttle(backplane), ada.changed)
    async with ada.database.write(EVERY_TENANT) as session:
        token = account_tokens.make(session, ada.user, "factor")

    async def taken() -> None:
        if how == "by a letter":
            await resets.by_letter(token, None)
        else:
            assert await resets.by_operator(ada.user.id)

    async with ada.database.write(EVERY_TENANT) as session:
        await session.get(TotpFactor, ada.user.id, with_for_update=True)  # as who shows a code
        taking = asyncio.create_task(taken())

        async def waits() -> bool:
            return ada.database.embedded or await waiting(ada.database) > 0

        await eventually(waits)
        sessions = ada.accounts.login_sessions
        await sessions.open(session, ada.user.id, ada.tenant, second_factor="totp")
    await taking
    async with ada.database.read(ada.tenant) as session:
        assert (await session.exec(select(LoginSession.second_factor))).all() == [None]
    assert ada.changes[-1] == ("user", ada.user.id)


async def test_a_hijacked_session_guesses_no_code_either(ada: Ada) -> None:
    await ada.enrol()
    for _ in range(BURST):
        await reason(ada.factors.disable(ada.user.id, ada.tenant, PASSWORD, ada.wrong()))
    limited = ada.factors.disable(ada.user.id, ada.tenant, PASSWORD, ada.code())
    assert await reason(limited) == "rate_limited"


# --- the key --------------------------------------------------------------------------------------


async def test_another_encryption_key_reads_what_the_old_one_sealed_and_seals_it_anew(
    ada: Ada, passwords: Passwords, backplane: MemoryBackplane
) -> None:
    await ada.enrol()

    async def changed(kind: str, id: str) -> None:
        return None

    def holding(*keys: bytes) -> Factors:
        return Factors(
            ada.database, passwords, Seal(*keys), backplane, ada.accounts.login_sessions,
            changed=changed, clock=lambda: ada.moment,
        )  # fmt: skip

    ada.factors = holding(NEW)
    assert await reason(ada.sign_in(ada.code())) == "unauthenticated"
    await ada.sign_in(ada.recovery[0])  # which needs no key
    ada.factors = holding(NEW, OLD)
    await ada.sign_in(ada.code())
    ada.factors, ada.moment = holding(NEW), ada.moment + 60
    await ada.sign_in(ada.code())
