"""Migrations: from nothing to what the tables say, once, whoever starts first."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import select

from hub.rbac.roles import BUILT_IN
from hub.settings import BadSettings
from hub.storage import schema
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Invitation, Role, RolePermission


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


def _as_before_tools(connection: sa.Connection) -> None:
    """Rows as they were at the revision before."""
    config = schema._config()
    config.attributes["connection"] = connection
    command.upgrade(config, "0011")
    at = datetime(2026, 3, 1, tzinfo=UTC)
    dated = {"created_at": at, "updated_at": at}
    rows: dict[str, dict[str, Any]] = {
        "tenants": {**dated, "id": "t_1", "name": "Ours"},
        "roles": {**dated, "id": "ro_1", "tenant_id": "t_1", "name": "filer", "rank": 1},
        "role_permissions": {"role_id": "ro_1", "permission": "run:read"},
        "invitations": {
            **dated, "tenant_id": "t_1", "code_hash": "x", "id": "iv_1", "role_id": "ro_1",
            "email": "ada@hub.example", "expires_at": at,
        },
    }  # fmt: skip
    for name, row in rows.items():
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        connection.execute(table.insert(), row)


async def test_roles_and_invitations_of_before_there_were_tools_are_kept(
    unmigrated_url: str,
) -> None:
    database = Database(unmigrated_url)
    await database.start()
    engine = schema._engine(make_url(unmigrated_url))
    async with engine.begin() as connection:
        await connection.run_sync(_as_before_tools)
    await engine.dispose()
    await database.migrate()
    longest = f"tool:call:{'s' * 128}/{'t' * 128}"
    async with database.write(EVERY_TENANT) as session:
        session.add(RolePermission(role_id="ro_1", permission=longest))
    async with database.read(EVERY_TENANT) as session:
        found = await session.exec(
            select(RolePermission.permission).where(RolePermission.role_id == "ro_1")
        )
        assert set(found.all()) == {"run:read", longest}
        invitation = await session.get_one(Invitation, "x")
    await database.close()
    assert (invitation.id, invitation.role_id) == ("iv_1", "ro_1")
    assert (invitation.email, invitation.guest_id) == ("ada@hub.example", None)


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
