"""Persistent sessions in the database: one holder at a time, kept for a day, deleted after."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import delete, update
from sqlmodel import col, func, select

from hub.backplane.interface import Position
from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.sessions.client_sessions import ClientSessions, Replaced, Taken
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ClientSession, Tenant, User, now

TENANT, OTHER = new_id("t"), new_id("t")
USER = new_id("u")
AT = {"conversation:c_1": Position("e1", 7)}


class Lost:
    """How often a holder was told."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
async def sessions(database: Database) -> AsyncIterator[ClientSessions]:
    async with database.write(EVERY_TENANT) as session:
        session.add(Tenant(id=TENANT, name="ours"))
        session.add(Tenant(id=OTHER, name="theirs"))
        session.add(User(id=USER, email="ada@hub.example"))
    backplane = MemoryBackplane()
    await backplane.start()
    sessions = ClientSessions(database, backplane, keep_s=86_400, most=3)
    await sessions.start()
    yield sessions
    await sessions.close()
    await backplane.close()


async def _take(sessions: ClientSessions, key: str = "bot", lost: Lost | None = None) -> Taken:
    return await sessions.take(TENANT, USER, key, lost or Lost())


async def _rows(database: Database) -> int:
    async with database.read(EVERY_TENANT) as session:
        return (await session.exec(select(func.count()).select_from(ClientSession))).one()


async def _age(database: Database, seconds: float) -> None:
    """Let the sessions be this much older."""
    async with database.write(EVERY_TENANT) as session:
        for row in (await session.exec(select(ClientSession))).all():
            row.expires_at -= timedelta(seconds=seconds)


async def test_what_was_saved_is_there_when_it_is_taken_again(sessions: ClientSessions) -> None:
    first = await _take(sessions)
    assert (first.resumed, first.channels) == (False, {})
    await sessions.save(first, AT)
    again = await _take(sessions)
    assert (again.resumed, again.channels, again.id) == (True, AT, first.id)


async def test_a_key_means_a_session_of_its_user_in_its_tenant(sessions: ClientSessions) -> None:
    mine = await _take(sessions)
    await sessions.save(mine, AT)
    elsewhere = await sessions.take(OTHER, USER, "bot", Lost())
    assert (elsewhere.resumed, elsewhere.channels) == (False, {})
    await sessions.forget(OTHER, USER, "bot")
    assert (await _take(sessions)).channels == AT


async def test_who_lost_the_session_is_told_once_and_writes_nothing(
    sessions: ClientSessions,
) -> None:
    lost, kept = Lost(), Lost()
    first = await _take(sessions, lost=lost)
    await sessions.save(first, AT)
    second = await _take(sessions, lost=kept)
    with pytest.raises(Replaced):
        await sessions.save(first, {})
    assert (lost.times, kept.times) == (1, 0)
    sessions.release(first)
    assert (await _take(sessions)).channels == AT
    assert kept.times == 1
    with pytest.raises(Replaced):
        await sessions.save(second, {})


async def test_many_at_once_leave_one_that_has_it(sessions: ClientSessions) -> None:
    losers = [Lost() for _ in range(8)]
    taken = await asyncio.gather(*(_take(sessions, lost=lost) for lost in losers))
    assert {session.id for session in taken} == {taken[0].id}
    assert sorted(session.turn for session in taken) == list(range(1, 9))
    assert [lost.times for lost in losers] == [int(session.turn < 8) for session in taken]


async def test_the_word_of_an_earlier_turn_that_comes_late_ends_nobody(
    sessions: ClientSessions,
) -> None:
    await _take(sessions)
    kept = Lost()
    taken = await _take(sessions, lost=kept)
    sessions._heard(f'["{taken.id}",{taken.turn - 1}]'.encode())
    assert kept.times == 0
    sessions._heard(f'["{taken.id}",{taken.turn + 1}]'.encode())
    assert kept.times == 1


async def test_a_session_expires_a_day_after_it_was_last_connected(
    sessions: ClientSessions, database: Database
) -> None:
    taken = await _take(sessions)
    await sessions.save(taken, AT)
    sessions.release(taken)
    await _age(database, 86_400)
    await sessions.sweep()
    assert await _rows(database) == 1, "a day and not less"
    await _age(database, 601)
    again = await _take(sessions)
    assert (again.resumed, again.channels) == (False, {}), "it is not used, swept or not"
    sessions.release(again)
    await _age(database, 86_400 + 601)
    await sessions.sweep()
    assert await _rows(database) == 0


async def test_a_session_that_is_connected_does_not_expire(
    sessions: ClientSessions, database: Database
) -> None:
    taken = await _take(sessions)
    for _ in range(3):
        await _age(database, 86_000)
        await sessions.sweep()
    await sessions.save(taken, AT)
    assert (await _take(sessions)).channels == AT


async def test_a_sweep_finds_that_a_session_has_gone_elsewhere(
    sessions: ClientSessions, database: Database
) -> None:
    gone, taken_over, kept = Lost(), Lost(), Lost()
    first = await _take(sessions, "one", gone)
    second = await _take(sessions, "two", taken_over)
    await _take(sessions, "three", kept)
    async with database.write(EVERY_TENANT) as session:
        await session.exec(delete(ClientSession).where(col(ClientSession.id) == first.id))
        row = update(ClientSession).where(col(ClientSession.id) == second.id)
        await session.exec(row.values(turn=2))
    await sessions.sweep()
    await sessions.sweep()
    assert (gone.times, taken_over.times, kept.times) == (1, 1, 0)


async def test_so_many_and_no_more(sessions: ClientSessions, database: Database) -> None:
    outcomes = await asyncio.gather(
        *(_take(sessions, f"bot-{number}") for number in range(5)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert [fault.reason for fault in refused] == ["rate_limited"] * 2
    assert await _rows(database) == 3


async def test_a_forgotten_session_begins_anew_and_its_holder_is_told(
    sessions: ClientSessions,
) -> None:
    lost = Lost()
    taken = await _take(sessions, lost=lost)
    await sessions.save(taken, AT)
    await sessions.forget(TENANT, USER, "bot")
    await sessions.forget(TENANT, USER, "bot")
    assert lost.times == 1
    with pytest.raises(Replaced):
        await sessions.save(taken, AT)
    assert not (await _take(sessions)).resumed


async def test_a_user_s_sessions_go_with_the_user(
    sessions: ClientSessions, database: Database
) -> None:
    await _take(sessions)
    async with database.write(EVERY_TENANT) as session:
        await session.exec(delete(User).where(col(User.id) == USER))
    assert await _rows(database) == 0


async def test_an_expiry_is_an_instant(sessions: ClientSessions, database: Database) -> None:
    await _take(sessions)
    async with database.read(EVERY_TENANT) as session:
        row = (await session.exec(select(ClientSession))).one()
    left = (row.expires_at - now()).total_seconds()
    assert 86_400 < left <= 86_400 + 600
