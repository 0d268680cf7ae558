"""Refresh tokens: one use, one living child, and an end when a token is in two hands."""

import asyncio
import base64
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select, update

from hub.faults import Fault
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.passwords import Passwords
from hub.identity.sessions.login_sessions import TokenPair, digest
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.keyring import KeyRing, make
from hub.settings import Settings, read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, Membership, RefreshToken, Tenant, User, now
from tests.identity.conftest import key_of, ring_of

EMAIL = "ada@hub.example"
PASSWORD = "correct horse battery"


@pytest.fixture
async def pair(accounts: Accounts) -> TokenPair:
    await accounts.register(EMAIL, PASSWORD)
    return await accounts.login(EMAIL, PASSWORD)


async def is_refused(accounts: Accounts, token: str) -> bool:
    with pytest.raises(Fault) as caught:
        await accounts.refresh(token)
    return caught.value.reason == "unauthenticated"


async def is_revoked(database: Database, session_id: str) -> bool:
    async with database.read(EVERY_TENANT) as session:
        row = await session.get(LoginSession, session_id)
    assert row is not None
    return row.revoked_at is not None


async def living(database: Database) -> list[str]:
    async with database.read(EVERY_TENANT) as session:
        statement = select(RefreshToken.token_hash).where(col(RefreshToken.used_at).is_(None))
        return list((await session.exec(statement)).all())


async def use_long_ago(database: Database, token: str, seconds: float = 11.0) -> None:
    async with database.write(EVERY_TENANT) as session:
        await session.exec(
            update(RefreshToken)
            .where(col(RefreshToken.token_hash) == digest(token))
            .values(used_at=now() - timedelta(seconds=seconds))
        )


async def test_a_token_gives_the_next_of_the_same_session(
    accounts: Accounts, tokens: Tokens, pair: TokenPair, database: Database
) -> None:
    following = await accounts.refresh(pair.refresh_token)
    assert following.session_id == pair.session_id
    assert following.refresh_token != pair.refresh_token
    assert tokens.read(following.access_token).session_id == pair.session_id
    last = await accounts.refresh(following.refresh_token)
    assert await living(database) == [digest(last.refresh_token)]


async def test_fifty_at_once_all_get_the_one_living_child(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    pairs = await asyncio.gather(*(accounts.refresh(pair.refresh_token) for _ in range(50)))
    (child,) = {each.refresh_token for each in pairs}
    assert await living(database) == [digest(child)]
    assert not await is_revoked(database, pair.session_id)
    await accounts.refresh(child)


async def test_fifty_at_once_on_two_nodes_all_get_the_one_living_child(
    accounts: Accounts, pair: TokenPair, database: Database, tokens: Tokens, settings: Settings
) -> None:
    elsewhere = Database(database.url.render_as_string(hide_password=False))
    await elsewhere.start()
    passwords = Passwords(cost=4)
    nodes = [accounts, Accounts(elsewhere, passwords, tokens, settings)]
    pairs = await asyncio.gather(
        *(nodes[number % 2].refresh(pair.refresh_token) for number in range(50))
    )
    await elsewhere.close()
    passwords.close()
    (child,) = {each.refresh_token for each in pairs}
    assert await living(database) == [digest(child)]


async def test_an_answer_that_was_lost_is_given_again_for_ten_seconds(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    lost = await accounts.refresh(pair.refresh_token)
    assert (await accounts.refresh(pair.refresh_token)).refresh_token == lost.refresh_token
    await use_long_ago(database, pair.refresh_token, 5.0)
    assert (await accounts.refresh(pair.refresh_token)).refresh_token == lost.refresh_token


async def test_a_token_used_again_after_the_grace_ends_the_session(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    following = await accounts.refresh(pair.refresh_token)
    await use_long_ago(database, pair.refresh_token)
    assert await is_refused(accounts, pair.refresh_token)
    assert await is_revoked(database, pair.session_id)
    assert await is_refused(accounts, following.refresh_token)


async def test_a_grandparent_used_again_ends_the_session_even_within_the_grace(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    following = await accounts.refresh(pair.refresh_token)
    last = await accounts.refresh(following.refresh_token)
    assert await is_refused(accounts, pair.refresh_token)
    assert await is_revoked(database, pair.session_id)
    assert await is_refused(accounts, last.refresh_token)


async def test_ending_one_session_leaves_the_users_others(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    other = await accounts.login(EMAIL, PASSWORD)
    await accounts.refresh(pair.refresh_token)
    await use_long_ago(database, pair.refresh_token)
    assert await is_refused(accounts, pair.refresh_token)
    await accounts.refresh(other.refresh_token)


async def test_logging_out_ends_the_session(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    await accounts.logout(pair.session_id)
    await accounts.logout(pair.session_id)
    await accounts.logout("s_unknown")
    assert await is_revoked(database, pair.session_id)
    assert await is_refused(accounts, pair.refresh_token)


@pytest.mark.parametrize("what", ["token", "session", "user", "tenant", "membership"])
async def test_nothing_is_refreshed_once_its_ground_is_gone(
    accounts: Accounts, pair: TokenPair, database: Database, what: str
) -> None:
    async with database.write(EVERY_TENANT) as session:
        match what:
            case "token":
                await session.exec(update(RefreshToken).values(expires_at=now()))
            case "session":
                await session.exec(update(LoginSession).values(expires_at=now()))
            case "user":
                await session.exec(update(User).values(disabled_at=now()))
            case "tenant":
                await session.exec(update(Tenant).values(suspended_at=now()))
            case "membership":
                await session.delete((await session.exec(select(Membership))).one())
    assert await is_refused(accounts, pair.refresh_token)


async def test_only_hashes_are_stored(
    accounts: Accounts, pair: TokenPair, database: Database
) -> None:
    following = await accounts.refresh(pair.refresh_token)
    async with database.read(EVERY_TENANT) as session:
        rows = (await session.exec(select(RefreshToken))).all()
    assert {row.token_hash for row in rows} == {
        digest(pair.refresh_token),
        digest(following.refresh_token),
    }
    assert pair.refresh_token not in repr(rows)


@pytest.mark.parametrize("token", ["", "x", "\0", "\ud800", "x" * 100_000])
async def test_what_is_no_token_is_refused(accounts: Accounts, token: str) -> None:
    assert await is_refused(accounts, token)


async def test_who_must_know_is_told_of_each_end(
    database: Database, passwords: Passwords, tokens: Tokens, settings: Settings
) -> None:
    told: list[tuple[str, str]] = []

    async def changed(kind: str, id: str) -> None:
        assert await is_revoked(database, id)  # told only after it is so
        told.append((kind, id))
        raise Fault("backend_unavailable")  # the backplane is away: the session has ended anyway

    accounts = Accounts(database, passwords, tokens, settings, changed=changed)
    await accounts.register(EMAIL, PASSWORD)
    out = await accounts.login(EMAIL, PASSWORD)
    await accounts.logout(out.session_id)
    reused = await accounts.login(EMAIL, PASSWORD)
    await accounts.refresh(reused.refresh_token)
    await use_long_ago(database, reused.refresh_token)
    assert await is_refused(accounts, reused.refresh_token)
    assert told == [("session", out.session_id), ("session", reused.session_id)]


async def test_an_answer_that_was_lost_is_given_again_through_a_rotation_of_the_keys(
    database: Database, passwords: Passwords, settings: Settings, tmp_path: Path
) -> None:
    make(tmp_path, "HS256", now() - timedelta(seconds=60))
    ring = KeyRing("HS256", directory=tmp_path, life_s=60)
    accounts = Accounts(database, passwords, Tokens(ring, 1), settings)
    await accounts.register(EMAIL, PASSWORD)
    pair = await accounts.login(EMAIL, PASSWORD)
    lost = await accounts.refresh(pair.refresh_token)
    make(tmp_path, "HS256", now())
    renewed = Accounts(
        database,
        passwords,
        Tokens(KeyRing("HS256", directory=tmp_path, life_s=60), 1),
        settings,
    )
    assert (await renewed.refresh(pair.refresh_token)).refresh_token == lost.refresh_token


async def test_a_node_that_lacks_the_key_of_the_next_token_ends_nothing(
    database: Database, passwords: Passwords, settings: Settings, accounts: Accounts
) -> None:
    await accounts.register(EMAIL, PASSWORD)
    pair = await accounts.login(EMAIL, PASSWORD)
    lost = await accounts.refresh(pair.refresh_token)
    other = Tokens(ring_of(key_of(b"another-key-of-more-than-32-bytes!")), 1)
    elsewhere = Accounts(database, passwords, other, settings)
    with pytest.raises(Fault) as caught:
        await elsewhere.refresh(pair.refresh_token)
    assert (caught.value.reason, caught.value.kind.retryable) == ("backend_unavailable", True)
    assert not await is_revoked(database, pair.session_id)
    assert (await accounts.refresh(pair.refresh_token)).refresh_token == lost.refresh_token


async def test_a_refresh_token_holds_256_bits(pair: TokenPair, accounts: Accounts) -> None:
    following = await accounts.refresh(pair.refresh_token)
    for token in (pair.refresh_token, following.refresh_token):
        assert len(base64.urlsafe_b64decode(token + "=")) == 32


# --- how long a session lives at most -------------------------------------------------------------


async def bounded(
    database: Database, passwords: Passwords, tokens: Tokens, tmp_path: Path, days: int
) -> Accounts:
    settings = read_settings(
        HUB_DATA_DIR=str(tmp_path), HUB_REGISTRATION="open", HUB_BCRYPT_COST=4,
        JWT_REFRESH_TOKEN_EXPIRE_DAYS=7, HUB_SESSION_MAX_DAYS=days,
    )  # fmt: skip
    accounts = Accounts(database, passwords, tokens, settings)
    await accounts.register(EMAIL, PASSWORD)
    return accounts


async def began(database: Database, session_id: str, ago: timedelta) -> None:
    async with database.write(EVERY_TENANT) as session:
        of = col(LoginSession.id) == session_id
        await session.exec(update(LoginSession).where(of).values(created_at=now() - ago))


async def ends(database: Database, token: str) -> tuple[timedelta, timedelta]:
    """In how long the session ends, and its refresh token."""
    async with database.read(EVERY_TENANT) as session:
        row = await session.get(RefreshToken, digest(token))
        assert row is not None
        login = await session.get(LoginSession, row.session_id)
        assert login is not None
        return login.expires_at - now(), row.expires_at - now()


async def test_a_session_that_is_refreshed_for_ever_ends_when_it_is_said(
    database: Database, passwords: Passwords, tokens: Tokens, tmp_path: Path
) -> None:
    accounts = await bounded(database, passwords, tokens, tmp_path, 10)
    pair = await accounts.login(EMAIL, PASSWORD)
    week = timedelta(days=7)
    assert all(
        week - timedelta(minutes=1) < end <= week
        for end in await ends(database, pair.refresh_token)
    )
    await began(database, pair.session_id, timedelta(days=8))
    pair = await accounts.refresh(pair.refresh_token)
    rest = timedelta(days=2)
    assert all(
        rest - timedelta(minutes=1) < end <= rest
        for end in await ends(database, pair.refresh_token)
    )
    # As time goes on; and also if the bound was set while the session was under way.
    await began(database, pair.session_id, timedelta(days=10))
    with pytest.raises(Fault, match="Sign in again") as caught:
        await accounts.refresh(pair.refresh_token)
    assert caught.value.reason == "unauthenticated"


async def test_a_bound_that_is_shorter_than_a_refresh_token_bounds_the_first_one(
    database: Database, passwords: Passwords, tokens: Tokens, tmp_path: Path
) -> None:
    accounts = await bounded(database, passwords, tokens, tmp_path, 1)
    pair = await accounts.login(EMAIL, PASSWORD)
    assert all(end <= timedelta(days=1) for end in await ends(database, pair.refresh_token))


async def test_without_a_bound_a_session_goes_on(
    accounts: Accounts, database: Database, pair: TokenPair
) -> None:
    await began(database, pair.session_id, timedelta(days=3_000))
    pair = await accounts.refresh(pair.refresh_token)
    assert all(end > timedelta(days=6) for end in await ends(database, pair.refresh_token))
