"""Migrations: from nothing to what the tables say, once, whoever starts first."""

import asyncio
import sys

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import select

from hub.rbac.roles import BUILT_IN
from hub.settings import BadSettings
from hub.storage import schema
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Role, RolePermission


async def test_the_migrated_schema_is_what_the_tables_say(database_url: str) -> None:
    engine = create_async_engine(make_url(database_url))
    async with engine.connect() as connection:
        differences = await connection.run_sync(schema.differences)
    await engine.dispose()
    assert differences == []


async def test_a_difference_would_be_noticed(database_url: str) -> None:
    engine = create_async_engine(make_url(database_url))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DROP TABLE usage")
        differences = await connection.run_sync(schema.differences)
    await engine.dispose()
    assert {difference[0] for difference in differences} >= {"add_table"}


async def test_a_fresh_database_has_the_built_in_roles(database: Database) -> None:
    async with database.read(EVERY_TENANT) as session:
        roles = (await session.exec(select(Role))).all()
        permissions = (await session.exec(select(RolePermission))).all()
    found = {
        role.id: (
            role.name,
            role.rank,
            role.inherits,
            {item.permission for item in permissions if item.role_id == role.id},
        )
        for role in roles
    }
    expected = {
        role.id: (role.name, role.rank, role.inherits, set(role.permissions))
        for role in BUILT_IN.values()
    }
    assert found == expected, "a change of the built-in roles needs a revision of its own"


async def test_migrating_twice_changes_nothing(unmigrated_url: str) -> None:
    database = Database(unmigrated_url)
    await database.start()
    await database.migrate()
    await database.migrate()
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Role))).all()) == len(BUILT_IN)
    await database.close()


async def test_the_loop_goes_on_while_the_database_is_migrated(unmigrated_sqlite_url: str) -> None:
    database = Database(unmigrated_sqlite_url)
    await database.start()
    migrating = asyncio.create_task(database.migrate())
    turns = 0
    while not migrating.done():
        await asyncio.sleep(0)
        turns += 1
    await database.close()
    assert turns > 100


PROGRAM = """
import asyncio, sys
from hub.storage.database import Database

async def main() -> None:
    database = Database(sys.argv[1])
    sys.stdin.readline()
    await database.start()
    await database.migrate()
    await database.close()

asyncio.run(main())
"""


async def test_nodes_that_start_at_once_migrate_once(unmigrated_url: str) -> None:
    nodes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, unmigrated_url,
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    outcomes = await asyncio.gather(*(node.communicate(b"go\n") for node in nodes))
    assert [(node.returncode, error) for node, (_, error) in zip(nodes, outcomes, strict=True)] == [
        (0, b"")
    ] * 3
    database = Database(unmigrated_url)
    await database.start()
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Role))).all()) == len(BUILT_IN)
    await database.close()


async def test_a_database_of_a_newer_hub_is_left_alone(database: Database) -> None:
    async with database.write(EVERY_TENANT) as session:
        connection = await session.connection()
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BadSettings, match="9999"):
        await database.migrate()
