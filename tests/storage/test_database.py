"""Transactions are whole, writers take turns, and a database that is away is said to be."""

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select, update

from hub.faults import Fault
from hub.ids import new_id
from hub.settings import BadSettings
from hub.storage import sqlite
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Message, Tenant, User
from tests.parts.postgres import PostgresCluster
from tests.storage.conftest import House, build, message


async def test_what_was_written_is_read(database: Database, ours: House) -> None:
    async with database.read(ours.tenant) as session:
        row = (await session.exec(select(Message))).one()
    assert (row.id, row.turn, row.complete) == (ours.message, 1, True)
    assert row.created_at.utcoffset() is not None


async def test_a_block_that_raises_leaves_nothing(database: Database, ours: House) -> None:
    async def fail() -> None:
        async with database.write(ours.tenant) as session:
            session.add(message(ours, new_id("m"), turn=2))
            await session.flush()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    async with database.read(ours.tenant) as session:
        assert (await session.exec(select(Message.id))).all() == [ours.message]


async def test_an_error_does_not_repeat_what_people_wrote(database: Database, ours: House) -> None:
    async def write_one_twice() -> None:
        async with database.write(ours.tenant) as session:
            session.add(message(ours, ours.message, turn=2, content="between us alone"))

    with pytest.raises(IntegrityError) as caught:
        await write_one_twice()
    assert "between us alone" not in str(caught.value)


async def test_a_block_that_is_cancelled_leaves_nothing_and_blocks_nobody(
    database: Database, ours: House
) -> None:
    written = asyncio.Event()

    async def write() -> None:
        async with database.write(ours.tenant) as session:
            session.add(message(ours, new_id("m"), turn=2))
            await session.flush()
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await written.wait()
    task.cancel()
    await asyncio.wait({task})
    async with asyncio.timeout(5), database.write(ours.tenant) as session:
        assert (await session.exec(select(Message.id))).all() == [ours.message]


async def test_cancelling_at_any_moment_leaves_all_or_nothing(
    database: Database, ours: House
) -> None:
    async def write(turn: int) -> None:
        async with database.write(ours.tenant) as session:
            session.add(message(ours, new_id("m"), turn=turn))
            await session.flush()
            await session.exec(update(Conversation).values(turns=Conversation.turns + 1))

    for turns in range(40):
        task = asyncio.create_task(write(turns + 2))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    async with database.read(ours.tenant) as session:
        messages = (await session.exec(select(Message.id))).all()
        conversation = (await session.exec(select(Conversation))).one()
    assert len(messages) == 1 + conversation.turns


async def test_a_clash_is_an_integrity_error(database: Database, ours: House) -> None:
    with pytest.raises(IntegrityError):
        async with database.write(ours.tenant) as session:
            session.add(message(ours, new_id("m"), turn=1))


async def test_a_reference_to_nothing_is_an_integrity_error(
    database: Database, ours: House
) -> None:
    with pytest.raises(IntegrityError):
        async with database.write(ours.tenant) as session:
            session.add(message(ours, new_id("m"), turn=2, conversation_id="c_none"))


async def test_writers_that_read_first_lose_no_update(database: Database, ours: House) -> None:
    async def count() -> None:
        async with database.write(ours.tenant) as session:
            row = (await session.exec(select(Conversation).with_for_update())).one()
            row.turns += 1

    await asyncio.gather(*(count() for _ in range(50)))
    async with database.read(ours.tenant) as session:
        assert (await session.exec(select(Conversation.turns))).one() == 50


async def test_a_crowd_of_writers_all_get_their_turn_in_order(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    ours = await build(database, "ours")

    async def write(turn: int) -> int:
        async with database.write(ours.tenant) as session:
            await session.exec(update(Conversation).values(turns=Conversation.turns + 1))
            count = (await session.exec(select(Conversation.turns))).one()
        assert count is not None
        return turn - count

    assert set(await asyncio.gather(*(write(number) for number in range(500)))) == {-1}
    await database.close()


async def test_a_writer_that_never_ends_does_not_hang_the_others(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()

    async def write(name: str) -> None:
        async with database.write(EVERY_TENANT) as session:
            session.add(Tenant(id=new_id("t"), name=name))
            await session.flush()
            if name == "outer":
                await write("inner")  # waits for the connection that it holds itself

    await expect_away(write("outer"), within_s=7)
    await write("alone")
    await database.close()


async def test_writers_of_two_processes_lose_no_update(database_url: str) -> None:
    nodes = [Database(database_url), Database(database_url)]
    for node in nodes:
        await node.start()
    ours = await build(nodes[0], "ours")

    async def count(node: Database) -> None:
        async with node.write(ours.tenant) as session:
            row = (await session.exec(select(Conversation).with_for_update())).one()
            row.turns += 1

    await asyncio.gather(*(count(nodes[number % 2]) for number in range(40)))
    async with nodes[0].read(ours.tenant) as session:
        assert (await session.exec(select(Conversation.turns))).one() == 40
    for node in nodes:
        await node.close()


async def test_readers_do_not_wait_for_a_writer(database: Database, ours: House) -> None:
    async with database.write(ours.tenant) as writer:
        await writer.exec(update(Message).values(content="not yet"))
        async with asyncio.timeout(2), database.read(ours.tenant) as reader:
            content = (await reader.exec(select(Message.content))).one()
    assert content != "not yet"


async def test_more_readers_than_connections_all_get_their_turn(
    database: Database, ours: House
) -> None:
    async def read() -> str:
        async with database.read(ours.tenant) as session:
            return (await session.exec(select(Message.id))).one()

    assert set(await asyncio.gather(*(read() for _ in range(100)))) == {ours.message}


async def test_text_that_a_database_cannot_hold_is_the_callers_fault(
    database: Database, ours: House
) -> None:
    for text in ("a lone \ud800", *(() if database.embedded else ("a \0",))):
        with pytest.raises(Fault) as caught:
            async with database.write(ours.tenant) as session:
                session.add(message(ours, new_id("m"), turn=2, content=text))
        assert caught.value.reason == "invalid_params"


async def test_sqlite_is_set_up_for_many_readers_and_one_writer(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    for scope in (database.read(EVERY_TENANT), database.write(EVERY_TENANT)):
        async with scope as session:
            connection = await session.connection()
            found = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        assert found == ["wal", 1, 1]
    await database.close()


async def test_a_lock_of_another_program_is_awaited_without_holding_up_the_loop(
    sqlite_url: str,
) -> None:
    database = Database(sqlite_url)
    await database.start()
    await database.migrate()
    path = database.url.database
    assert path is not None
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        async with database.write(EVERY_TENANT) as session:
            session.add(Tenant(id=new_id("t"), name="waited"))

    writing = asyncio.create_task(write())
    loop = asyncio.get_running_loop()
    longest = 0.0
    for _ in range(50):  # the loop turns while the writer waits
        began = loop.time()
        await asyncio.sleep(0.005)
        longest = max(longest, loop.time() - began)
    assert not writing.done()
    assert longest < 1.0
    other.rollback()
    other.close()
    await asyncio.wait_for(writing, 5)
    async with database.read(EVERY_TENANT) as session:
        assert (await session.exec(select(Tenant.name))).all() == ["waited"]
    await database.close()


async def test_a_long_transaction_lets_others_have_their_turn_between_its_statements(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "TURN_S", 0.0)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    database = Database(sqlite_url)
    await database.start()
    async with database.write(EVERY_TENANT) as session:
        await session.exec(select(1))  # connecting has turns of its own
        others = asyncio.create_task(take_turns())
        for _ in range(10):
            await session.exec(select(1))
        others.cancel()
    await database.close()
    assert turns >= 10


async def test_the_write_ahead_log_does_not_grow_for_ever(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.storage.sqlite.CHECKPOINT_COMMITS", 20)
    database = Database(sqlite_url)
    await database.start()
    await database.migrate()
    log_file = Path(f"{database.url.database}-wal")

    def size() -> int:
        return log_file.stat().st_size

    sizes = []
    for _ in range(15):
        for _ in range(20):
            async with database.write(EVERY_TENANT) as session:
                session.add(Tenant(id=new_id("t"), name="x" * 200))
        await database.ping()
        sizes.append(size())
    assert sizes[-1] < 3 * sizes[2], sizes
    await database.close()


async def test_the_directory_of_an_embedded_database_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a/b/hub.db")
    await database.start()
    await database.migrate()
    await database.ping()
    await database.close()
    await database.close()
    assert (tmp_path / "a" / "b" / "hub.db").exists()


@pytest.mark.parametrize(
    "url", ["mysql://localhost/hub", "nonsense", "sqlite://", "sqlite+aiosqlite:///:memory:"]
)
def test_a_url_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match="HUB_DATABASE_URL"):
        Database(url)


def test_a_refusal_does_not_repeat_the_password() -> None:
    with pytest.raises(BadSettings) as caught:
        Database("mysql://hub:hunter2hunter2@localhost/hub")
    assert "hunter2" not in str(caught.value)


async def test_a_place_that_cannot_be_written_is_said_to_be_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    database = Database(f"sqlite:///{tmp_path}/file/hub.db")
    await expect_away(database.start(), place=str(database.file))
    await database.close()


async def test_a_file_that_is_no_database_is_said_to_be_away(tmp_path: Path) -> None:
    (tmp_path / "hub.db").write_bytes(b"not a database at all" * 100)
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    await expect_away(database.start(), place=str(database.file))
    await database.close()


async def test_a_full_disk_is_said_to_be_away_and_leaves_nothing(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    ours = await build(database, "ours")
    async with database.write(EVERY_TENANT) as session:
        connection = await session.connection()
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    async def write() -> None:
        async with database.write(ours.tenant) as session:
            session.add(message(ours, new_id("m"), turn=2))
            session.add(message(ours, new_id("m"), turn=3, content="x" * 1_000_000))

    await expect_away(write())
    async with database.read(ours.tenant) as session:
        assert (await session.exec(select(Message.id))).all() == [ours.message]
    await database.close()


async def test_a_database_that_another_program_locks_is_said_to_be_away(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        async with database.write(EVERY_TENANT) as session:
            session.add(Tenant(id=new_id("t"), name="late"))

    await expect_away(write(), within_s=8)
    other.execute("ROLLBACK")
    other.close()
    await write()
    await database.close()


@pytest.fixture
def own_postgres(postgres_programs: Path) -> Iterator[PostgresCluster]:
    """A server that a test may pause and end."""
    cluster = PostgresCluster(postgres_programs)
    cluster.start()
    try:
        yield cluster
    finally:
        if cluster.running:
            cluster.stop()
        cluster.remove()


async def test_postgres_that_pauses_dies_and_returns(own_postgres: PostgresCluster) -> None:
    database = Database(f"postgresql://hub@127.0.0.1:{own_postgres.port}/postgres")
    await database.start()
    await database.migrate()
    ours = await build(database, "ours")

    paused = own_postgres.processes
    for process in paused:
        os.kill(process, signal.SIGSTOP)
    try:
        await expect_away(database.ping(), within_s=2.5)
    finally:
        for process in paused:
            os.kill(process, signal.SIGCONT)

    own_postgres.stop("fast")
    await expect_away(database.ping(), within_s=2.5)

    async def read() -> str:
        async with database.read(ours.tenant) as session:
            return (await session.exec(select(Message.id))).one()

    await expect_away(read())
    own_postgres.start()
    assert await read() == ours.message
    await database.close()


async def expect_away(work: object, within_s: float = 6.0, place: str | None = None) -> None:
    """``place``: it is an operator who is told, and told where; others are not."""
    began = time.monotonic()
    with pytest.raises(Fault) as caught:
        await work  # type: ignore[misc]
    assert caught.value.reason == "backend_unavailable"
    if place is not None:
        assert caught.value.message.startswith(f"HUB_DATABASE_URL: the database at {place} ")
    else:
        assert "/" not in caught.value.message
    assert time.monotonic() - began < within_s


WRITER = """
import asyncio, sys
from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.tables import Conversation, Message
from sqlmodel import update

async def main() -> None:
    url, tenant, conversation = sys.argv[1:]
    database = Database(url)
    await database.start()
    turn = 1
    while True:
        turn += 1
        async with database.write(tenant) as session:
            session.add(Message(
                id=new_id("m"), tenant_id=tenant, conversation_id=conversation,
                turn=turn, step=0, role="user", content="x" * 3000,
            ))
            await session.flush()
            await session.exec(update(Conversation).values(turns=turn))
        print(turn, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [3, 17, 40])
async def test_a_killed_writer_leaves_what_it_acknowledged_and_nothing_half(
    database_url: str, acknowledged: int
) -> None:
    database = Database(database_url)
    await database.start()
    ours = await build(database, "ours")
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, database_url, ours.tenant, ours.conversation,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None
    said = 0
    async with asyncio.timeout(30):
        while said < acknowledged:
            said = int(await writer.stdout.readline())
        writer.kill()
        rest = await writer.stdout.read()
        await writer.wait()
    said = max([said, *map(int, rest.split())])
    # A write of ours waits until the database has let go of the dead one's transaction.
    async with database.write(ours.tenant) as session:
        turns = (
            await session.exec(select(Conversation.turns).where(col(Conversation.turns) > 0))
        ).one()
        found = (await session.exec(select(Message.turn).order_by(col(Message.turn)))).all()
    assert found == list(range(1, turns + 1))
    assert turns in (said, said + 1)
    async with database.write(EVERY_TENANT) as session:
        session.add(User(id=new_id("u"), email="after@hub.example"))
    await database.close()
