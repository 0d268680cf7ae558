"""Writing the trail: with the deed or not at all, in one order, however many write at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from hub.audit.origin import Origin, acting, acting_as, watched
from hub.audit.trail import LONGEST, record
from hub.audit.verification import verify
from hub.faults import Fault
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, OutOfScope
from hub.storage.tables import Tenant, User
from tests.audit.conftest import entries, make_tenant, write
from tests.audit.faults import refuse_entries


async def _user(database: Database, user_id: str) -> User | None:
    async with database.read(EVERY_TENANT) as session:
        return await session.get(User, user_id)


def _new_user() -> User:
    id = new_id("u")
    return User(id=id, email=f"{id.lower()}@hub.example")


async def test_an_entry_says_who_did_what_to_what_and_whence(
    database: Database, tenant: str
) -> None:
    origin = Origin("u_1", "s_1", "websocket", "192.0.2.1", "4bf92f3577b34da6a3ce929d0e0e4736")
    with acting(origin):
        async with database.write(tenant) as session:
            noted = await record(
                session,
                tenant,
                "user.disable",
                resource=("user", "u_2"),
                details={"b": [" ", "ü"], "a": None, "n": 1},
            )
    (entry,) = await entries(database, tenant)
    assert entry == {
        "id": noted.id,
        "tenant_id": tenant,
        "seq": 1,
        "at": entry["at"],
        "action": "user.disable",
        "outcome": "done",
        "actor_id": "u_1",
        "session_id": "s_1",
        "resource_kind": "user",
        "resource_id": "u_2",
        "transport": "websocket",
        "address": "192.0.2.1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "details": {"b": [" ", "ü"], "n": 1},
        "previous_hash": "0" * 64,
        "hash": noted.hash,
    }
    assert noted.seq == 1


async def test_a_deed_that_fails_leaves_no_entry(database: Database, tenant: str) -> None:
    user = _new_user()

    async def fail() -> None:
        async with database.write(EVERY_TENANT) as session:
            session.add(user)
            await record(session, tenant, "user.create")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await write(database, tenant, 1)
    assert await _user(database, user.id) is None
    assert [entry["action"] for entry in await entries(database, tenant)] == ["user.do"]


async def test_a_deed_whose_commit_fails_leaves_no_entry(database: Database, tenant: str) -> None:
    user = _new_user()

    async def create() -> None:
        async with database.write(EVERY_TENANT) as session:
            await record(session, tenant, "user.create")
            session.add(User(id=user.id, email=user.email))

    await create()
    with pytest.raises(IntegrityError):
        await create()
    assert len(await entries(database, tenant)) == 1


async def test_a_deed_whose_entry_cannot_be_written_is_not_done(
    database: Database, tenant: str
) -> None:
    user = _new_user()
    await refuse_entries(database)

    async def create() -> None:
        async with database.write(EVERY_TENANT) as session:
            session.add(user)
            await record(session, tenant, "user.create")

    with pytest.raises(Fault, match="audit trail cannot be written") as caught:
        await create()
    assert caught.value.reason == "internal_error"
    assert await _user(database, user.id) is None
    assert await entries(database, tenant) == []


async def test_what_a_savepoint_takes_back_leaves_no_entry(database: Database, tenant: str) -> None:
    async with database.write(tenant) as session:
        await record(session, tenant, "one")
        kept = await session.begin_nested()
        await record(session, tenant, "two")
        await kept.commit()
        undone = await session.begin_nested()
        await record(session, tenant, "three")
        inner = await session.begin_nested()
        await record(session, tenant, "four")
        await inner.commit()
        await undone.rollback()
        await record(session, tenant, "five")
    found = [entry["action"] for entry in await entries(database, tenant)]
    assert found == ["one", "two", "five"]


async def test_what_is_rolled_back_leaves_no_entry_though_the_session_goes_on(
    database: Database, tenant: str
) -> None:
    async with database.write(tenant) as session:
        await record(session, tenant, "one")
        await session.rollback()
        await record(session, tenant, "two")
    assert [entry["action"] for entry in await entries(database, tenant)] == ["two"]


async def test_where_nothing_can_be_written_no_entry_can(database: Database, tenant: str) -> None:
    other = await make_tenant(database, "other")
    with pytest.raises(OutOfScope):
        async with database.read(tenant) as session:
            await record(session, tenant, "user.do")
    with pytest.raises(OutOfScope):
        async with database.write(tenant) as session:
            await record(session, other, "user.do")


async def test_each_tenant_has_a_chain_of_its_own(database: Database, tenant: str) -> None:
    other = await make_tenant(database, "other")
    for _ in range(3):
        async with database.write(EVERY_TENANT) as session:
            await record(session, tenant, "user.do")
            await record(session, other, "user.do")
            await record(session, tenant, "user.do")
    for place, count in ((tenant, 6), (other, 3)):
        assert [entry["seq"] for entry in await entries(database, place)] == [*range(1, count + 1)]
        assert (await verify(database, place)).report.ok


async def test_secrets_by_form_or_name_are_not_told_and_long_texts_are_cut(
    database: Database, tenant: str
) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    async with database.write(tenant) as session:
        await record(
            session,
            tenant,
            "user.do",
            details={"why": f"Bearer {token}", "password": "open sesame", "long": "x" * 9_999},
        )
    (details,) = [entry["details"] for entry in await entries(database, tenant)]
    assert token not in str(details)
    assert "sesame" not in str(details)
    assert details["long"] == "x" * LONGEST


# --- many at once ---


@asynccontextmanager
async def _second(database: Database) -> AsyncIterator[Database]:
    """Another node on the same database."""
    other = Database(database.url.render_as_string(hide_password=False))
    await other.start()
    yield other
    await other.close()


async def test_writers_that_are_first_at_once_make_one_chain(database: Database) -> None:
    async with _second(database) as other:
        for name in ("a", "b", "c"):
            tenant = await make_tenant(database, name)
            nodes = [database, other] * 5
            await asyncio.gather(*(write(node, tenant, 1) for node in nodes))
            seqs = [entry["seq"] for entry in await entries(database, tenant)]
            assert seqs == [*range(1, 11)]
            assert (await verify(database, tenant)).report.ok


async def test_many_writers_of_two_nodes_leave_no_hole(database: Database, tenant: str) -> None:
    async with _second(database) as other:
        await asyncio.gather(*(write(node, tenant, 6) for node in [database, other] * 10))
    found = await entries(database, tenant)
    assert [entry["seq"] for entry in found] == [*range(1, 121)]
    assert (await verify(database, tenant)).report.ok


async def test_writers_that_lock_other_rows_in_any_order_do_not_wait_in_a_circle(
    database: Database,
) -> None:
    """One notes its entry before it locks what the other has locked before it notes its own."""
    tenants = [await make_tenant(database, name) for name in ("a", "b")]
    locked = select(Tenant.id).where(col(Tenant.id) == tenants[0]).with_for_update()

    async def early(number: int) -> None:
        async with database.write(EVERY_TENANT) as session:
            for place in tenants[:: 1 if number % 2 else -1]:
                await record(session, place, "user.early")
            await session.exec(locked)

    async def late(number: int) -> None:
        async with database.write(EVERY_TENANT) as session:
            await session.exec(locked)
            for place in tenants[:: -1 if number % 2 else 1]:
                await record(session, place, "user.late")

    await asyncio.gather(*(step(number) for number in range(8) for step in (early, late)))
    for place in tenants:
        assert len(await entries(database, place)) == 16
        assert (await verify(database, place)).report.ok


# --- what an operation has come to ---


async def test_a_deed_knows_whether_it_wrote_and_whether_it_left_an_entry(
    database: Database, tenant: str
) -> None:
    with watched() as read:
        async with database.read(tenant) as session:
            await session.exec(select(Tenant.id))
    with watched() as silent:
        async with database.write(EVERY_TENANT) as session:
            session.add(_new_user())
    with watched() as told:
        async with database.write(EVERY_TENANT) as session:
            session.add(_new_user())
            await record(session, tenant, "user.create")
    assert [(deed.wrote, deed.recorded) for deed in (read, silent, told)] == [
        (False, 0),
        (True, 0),
        (True, 1),
    ]


async def test_who_signs_in_acts_from_then_on(database: Database, tenant: str) -> None:
    with acting(Origin(transport="rest", address="192.0.2.1")), acting_as("u_1", "s_1"):
        async with database.write(tenant) as session:
            await record(session, tenant, "account.login")
    (entry,) = await entries(database, tenant)
    assert (entry["actor_id"], entry["session_id"]) == ("u_1", "s_1")
    assert (entry["transport"], entry["address"]) == ("rest", "192.0.2.1")


async def test_no_trail_names_a_session_that_its_user_has_in_another_tenant(
    database: Database, tenant: str
) -> None:
    for where, named in ((tenant, "s_1"), ("t_another", None)):
        with acting(Origin(actor_id="u_1", session_id="s_1", tenant_id=where)):
            async with database.write(EVERY_TENANT) as session:
                await record(session, tenant, "account.change_password")
        entry = (await entries(database, tenant))[-1]
        assert (entry["actor_id"], entry.get("session_id")) == ("u_1", named)
