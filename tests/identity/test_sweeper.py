"""What has expired is deleted, by one node at a time; who was seen is written now and then."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import col, func, select, update

from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.identity.accounts.accounts import Accounts
from hub.identity.sessions import sweeper as sweeping
from hub.identity.sessions.sightings import Sightings
from hub.identity.sessions.sweeper import Sweeper
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    Invitation,
    LoginChallenge,
    LoginLink,
    LoginSession,
    RefreshToken,
    now,
)

EMAIL, PASSWORD = "ada@hub.example", "correct horse battery"
KINDS: tuple[Any, ...] = (RefreshToken, LoginSession, LoginLink, Invitation, LoginChallenge)


async def count(database: Database) -> list[int]:
    async with database.read(EVERY_TENANT) as session:
        return [
            (await session.exec(select(func.count()).select_from(kind))).one() for kind in KINDS
        ]


async def age(database: Database, days: float, *kinds: Any) -> None:
    """Have all of them expired so many days ago."""
    async with database.write(EVERY_TENANT) as session:
        for kind in kinds:
            await session.exec(update(kind).values(expires_at=now() - timedelta(days=days)))


@pytest.fixture
async def peopled(accounts: Accounts, database: Database) -> Accounts:
    """Three sessions with two refresh tokens each, a link, an invitation, and a sign-in that waits
    for its second factor.
    """
    user, tenant = await accounts.register(EMAIL, PASSWORD)
    for _ in range(3):
        await accounts.refresh((await accounts.login(EMAIL, PASSWORD)).refresh_token)
    await accounts.login_link(user.id, tenant.id)
    await accounts.invite(tenant.id, "member")
    soon = now() + timedelta(minutes=5)
    waits = LoginChallenge(code_hash="waits", tenant_id=tenant.id, user_id=user.id, expires_at=soon)
    async with database.write(EVERY_TENANT) as session:
        session.add(waits)
    return accounts


async def test_what_is_alive_stays(peopled: Accounts, database: Database) -> None:
    assert await Sweeper(database, MemoryBackplane()).sweep() == 0
    assert await count(database) == [6, 3, 1, 1, 1]


async def test_what_has_expired_goes_in_batches_and_sessions_after_a_while(
    peopled: Accounts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 2)
    monkeypatch.setattr(sweeping, "PAUSE_S", 0.0)
    sweeper = Sweeper(database, MemoryBackplane())
    await age(database, 2, *KINDS)
    assert await sweeper.sweep() == 8
    assert await count(database) == [0, 3, 0, 1, 0]
    await age(database, 31, LoginSession, Invitation)
    assert await sweeper.sweep() == 4
    assert await count(database) == [0, 0, 0, 0, 0]


async def test_a_used_refresh_token_stays_while_its_reuse_can_be_told(
    peopled: Accounts, database: Database
) -> None:
    pair = await peopled.login(EMAIL, PASSWORD)
    await peopled.refresh(pair.refresh_token)
    await Sweeper(database, MemoryBackplane()).sweep()
    async with database.read(EVERY_TENANT) as session:
        used = select(func.count()).where(col(RefreshToken.used_at).is_not(None))
        assert (await session.exec(used)).one() == 4


async def test_one_node_sweeps_at_a_time(peopled: Accounts, database: Database) -> None:
    shared = MemoryShared()
    nodes = [Sweeper(database, MemoryBackplane(shared)) for _ in range(2)]
    lease = await MemoryBackplane(shared).acquire(sweeping.CHORE, 30)
    assert lease is not None
    assert await nodes[0].sweep() is None
    await MemoryBackplane(shared).release(lease)
    assert await nodes[0].sweep() == 0
    assert await nodes[1].sweep() == 0, "the lease was given back"


async def test_it_sweeps_by_itself_until_it_is_closed(
    peopled: Accounts, database: Database
) -> None:
    await age(database, 2, RefreshToken)
    sweeper = Sweeper(database, MemoryBackplane(), sweep_s=0.01)
    await sweeper.start()
    async with asyncio.timeout(8):
        while (await count(database))[0]:  # noqa: ASYNC110  # a row has no event to wait for
            await asyncio.sleep(0.01)
    await sweeper.close()


# --- last seen ------------------------------------------------------------------------------------


async def seen_at(database: Database, session_id: str) -> Any:
    async with database.read(EVERY_TENANT) as session:
        row = await session.get(LoginSession, session_id)
    assert row is not None
    return row.last_seen_at


async def test_who_was_seen_is_written_once_in_a_minute_by_whichever_node(
    accounts: Accounts, database: Database
) -> None:
    await accounts.register(EMAIL, PASSWORD)
    session_id = (await accounts.login(EMAIL, PASSWORD)).session_id
    long_ago = now() - timedelta(minutes=10)
    async with database.write(EVERY_TENANT) as session:
        await session.exec(update(LoginSession).values(last_seen_at=long_ago))
    here, there = Sightings(database), Sightings(database)
    for sightings in (here, here, there):
        sightings.seen(session_id)
    await here.write()
    first = await seen_at(database, session_id)
    assert now() - first < timedelta(seconds=10)
    await there.write()
    assert await seen_at(database, session_id) == first
    here.seen(session_id)
    assert not here._due, "noted already"
    await here.write()
    assert await seen_at(database, session_id) == first


async def test_nothing_is_written_for_who_was_not_seen(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    statements: list[str] = []
    event.listen(
        database._writer.sync_engine,
        "before_cursor_execute",
        lambda *given: statements.append(given[2]),
    )
    sightings = Sightings(database)
    sightings.seen("")
    await sightings.write()
    assert statements == []
    await database.close()


async def test_what_is_noted_is_forgotten_in_its_time(database: Database) -> None:
    sightings = Sightings(database, every_s=0.0)
    for number in range(1_000):
        sightings.seen(f"s_{number}")
    await sightings.write()
    assert not sightings._noted
