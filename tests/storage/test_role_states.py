"""The database gives roles another name with every change of them, whoever makes it, in whatever
way.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import select

from hub.storage import role_states, schema
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import BUILT_INS, Role, RolePermission, RoleState
from tests.identity.houses import waiting
from tests.storage.conftest import House, build
from tests.storage.test_walls import raw

Names = dict[str, str]
"""Of the states, by whose they are."""

_INTO = "INTO roles (created_at, updated_at, id, tenant_id, name, rank)"
_AT = "(CURRENT_TIMESTAMP, CURRENT_TIMESTAMP,"
_ADA, _BOB = "{ours}", "{theirs}"
DEEDS: Final[list[tuple[str, set[str]]]] = [
    (f"INSERT {_INTO} VALUES {_AT} 'ro_new', '{_ADA}', 'new', 1)", {_ADA}),
    ("UPDATE roles SET rank = 7 WHERE id = 'ro_new'", {_ADA}),
    ("UPDATE roles SET inherits = 'viewer' WHERE id = 'ro_new'", {_ADA}),
    ("INSERT INTO role_permissions VALUES ('ro_new', 'run:read')", {_ADA}),
    ("UPDATE role_permissions SET permission = 'x' WHERE role_id = 'ro_new'", {_ADA}),
    ("UPDATE role_permissions SET role_id = 'ro_theirs' WHERE role_id = 'ro_new'", {_ADA, _BOB}),
    ("DELETE FROM role_permissions WHERE role_id = 'ro_theirs' AND permission = 'x'", {_BOB}),
    ("DELETE FROM role_permissions WHERE role_id LIKE 'ro~_%' ESCAPE '~'", {_ADA, _BOB}),
    (f"UPDATE roles SET tenant_id = '{_BOB}' WHERE id = 'ro_new'", {_ADA, _BOB}),
    ("DELETE FROM roles WHERE id = 'ro_new'", {_BOB}),
    ("UPDATE roles SET rank = 11 WHERE id = 'viewer'", {BUILT_INS}),
    ("DELETE FROM role_permissions WHERE role_id = 'viewer'", {BUILT_INS}),
]
"""SQL, and whose roles are another thing after it."""

REPLACED: Final[list[tuple[str, set[str]]]] = [
    ("INSERT OR REPLACE INTO role_permissions VALUES ('ro_ours', 'run:read')", {_ADA}),
    ("INSERT OR ABORT INTO role_permissions VALUES ('ro_ours', 'x')", {_ADA}),
    (f"REPLACE {_INTO} VALUES {_AT} 'ro_empty', '{_BOB}', 'taken', 1)", {_ADA, _BOB}),
    (f"REPLACE {_INTO} VALUES {_AT} 'ro_empty', '{_ADA}', 'back', 1)", {_ADA, _BOB}),
    ("UPDATE OR REPLACE roles SET id = 'ro_empty' WHERE id = 'ro_spare'", {_ADA, _BOB}),
]
"""What SQLite does beside what it is told, and tells no trigger of."""


async def housed(database: Database) -> tuple[House, House]:
    """Two tenants with roles of their own."""
    ours, theirs = await build(database, "ours"), await build(database, "theirs")
    async with database.write(EVERY_TENANT) as session:
        for id, of in (
            ("ro_ours", ours), ("ro_empty", ours), ("ro_theirs", theirs), ("ro_spare", theirs)
        ):  # fmt: skip
            session.add(Role(id=id, tenant_id=of.tenant, name=id, rank=1))
        await session.flush()
        for id in ("ro_ours", "ro_theirs"):
            session.add(RolePermission(role_id=id, permission="run:read"))
    return ours, theirs


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """For what one of the two databases does alone."""
    database = Database(url)
    await database.start()
    yield database
    await database.close()


async def names(database: Database) -> Names:
    async with database.read(EVERY_TENANT) as session:
        rows = (await session.exec(select(RoleState))).all()
    assert all((row.tenant_id or BUILT_INS) == row.id for row in rows)
    assert all(len(row.state) >= 32 for row in rows)
    return {row.id: row.state for row in rows}


async def done(database: Database, statement: str) -> None:
    """By somebody who knows nothing of names."""
    async with database.write(EVERY_TENANT) as session:
        connection = await session.connection()
        assert (await connection.exec_driver_sql(statement)).rowcount > 0


def changed(before: Names, after: Names) -> set[str]:
    assert before.keys() <= after.keys()
    return {id for id in after if before.get(id) != after[id]}


@asynccontextmanager
async def migrating(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction as migrations are made in."""
    engine = schema._engine(database.url)
    async with engine.begin() as connection:
        if not database.embedded:
            await connection.exec_driver_sql("SELECT set_config('hub.tenant', '*', true)")
        yield connection
    await engine.dispose()


async def renamed(database: Database, deeds: list[tuple[str, set[str]]], *both: House) -> None:
    """Assert that each of the deeds renames what it should, and nothing else, and to no name that
    was there before.
    """
    tenants = dict(zip(("ours", "theirs"), (house.tenant for house in both), strict=True))
    now = await names(database)
    seen = set(now.values())
    for statement, whose in deeds:
        before = now
        await done(database, statement.format(**tenants))
        now = await names(database)
        expected = {each.format(**tenants) for each in whose}
        assert changed(before, now) == expected, statement
        assert seen.isdisjoint(now[id] for id in expected)
        seen |= set(now.values())


async def test_each_change_renames_the_roles_that_it_is_of_and_no_others(
    database: Database,
) -> None:
    await renamed(database, DEEDS, *await housed(database))


async def test_what_sqlite_puts_in_the_place_of_a_row_renames_the_roles_of_both(
    sqlite_url: str,
) -> None:
    async with opened(sqlite_url) as database:
        await renamed(database, REPLACED, *await housed(database))


async def test_what_postgresql_empties_renames_all_whoever_does_it(postgres_url: str) -> None:
    async with opened(postgres_url) as database:
        await housed(database)
        before = await names(database)
        async with raw(database) as connection:  # of no tenant
            await connection.execute("TRUNCATE role_permissions")
            assert await connection.fetchval("SELECT current_setting('hub.tenant', true)") in (
                None,
                "",
            )
        assert changed(before, await names(database)) == set(before)


async def test_what_changes_nothing_renames_nothing_where_that_can_be_seen(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as database:
        await housed(database)
        before = await names(database)
        await done(database, "UPDATE roles SET rank = rank")
        assert await names(database) == before


async def test_the_names_are_the_same_when_a_hub_starts_again(database: Database) -> None:
    await housed(database)
    before = await names(database)
    await database.migrate()
    assert await names(database) == before


async def test_a_tenant_writes_its_own_name_and_sees_that_of_the_roles_of_all(
    database: Database,
) -> None:
    ours, _ = await housed(database)
    before = await names(database)
    async with database.write(ours.tenant) as session:
        session.add(Role(id="ro_1", tenant_id=ours.tenant, name="first", rank=1))
    assert changed(before, await names(database)) == {ours.tenant}
    async with database.read(ours.tenant) as session:
        assert set((await session.exec(select(RoleState.id))).all()) == {ours.tenant, BUILT_INS}


async def test_of_two_who_write_roles_of_a_tenant_at_once_each_leaves_a_name(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as database:
        ours, _ = await housed(database)
        first = await names(database)

        async def second() -> None:
            await done(database, "UPDATE roles SET rank = 3 WHERE id = 'ro_empty'")

        async with database.write(EVERY_TENANT) as session:
            connection = await session.connection()
            await connection.exec_driver_sql("UPDATE roles SET rank = 2 WHERE id = 'ro_ours'")
            writing = asyncio.create_task(second())
            while not await waiting(database):  # noqa: ASYNC110  # a lock has no event
                await asyncio.sleep(0.005)
            found = await connection.exec_driver_sql(
                f"SELECT state FROM role_states WHERE id = '{ours.tenant}'"
            )
            between = found.scalar_one()
        await writing
        last = await names(database)
        assert len({first[ours.tenant], between, last[ours.tenant]}) == 3


OFF: Final = {
    True: ("DROP TRIGGER hub_role_state_1_role_permissions_delete",),
    False: ("ALTER TABLE role_permissions DISABLE TRIGGER USER",),
}


async def test_who_finds_a_trigger_off_when_a_hub_starts_names_everything_anew(
    database: Database,
) -> None:
    """Rows may have been written meanwhile of which no name tells."""
    both = await housed(database)
    before = await names(database)
    async with migrating(database) as connection:
        for statement in OFF[database.embedded]:
            await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql(
            "DELETE FROM role_permissions WHERE role_id = 'viewer' AND permission = 'run:read'"
        )
        await connection.exec_driver_sql(f"DELETE FROM role_states WHERE id = '{both[1].tenant}'")
    assert (await names(database)).items() < before.items()
    await database.migrate()
    after = await names(database)
    assert after.keys() == before.keys()
    assert changed(before, after) == set(before)
    await renamed(database, DEEDS, *both)


async def test_a_revision_may_rebuild_the_tables_of_sqlite(sqlite_url: str) -> None:
    def rebuild(connection: Connection) -> None:
        role_states.take_down_triggers(connection)
        operations = Operations(MigrationContext.configure(connection))
        for table in ("role_permissions", "role_states"):
            with operations.batch_alter_table(table, recreate="always"):
                pass
        role_states.raise_triggers(connection)

    async with opened(sqlite_url) as database:
        both = await housed(database)
        async with migrating(database) as connection:
            await connection.run_sync(rebuild)
        await renamed(database, DEEDS, *both)
