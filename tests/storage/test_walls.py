"""PostgreSQL itself keeps a transaction inside its tenant, whatever is asked of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, Scope
from hub.storage.tables import Role
from tests.parts.postgres import SUPERUSER, PostgresServer
from tests.storage.conftest import House, build

MESSAGES = "SELECT id FROM messages ORDER BY id"


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Walls are PostgreSQL's alone."""
    return postgres_url


@asynccontextmanager
async def raw(database: Database) -> AsyncIterator["asyncpg.Connection"]:
    """A connection of the hub's role that knows nothing of the hub."""
    url = database.url
    connection = await asyncpg.connect(
        host=url.host, port=url.port, user=url.username, database=url.database
    )
    try:
        yield connection
    finally:
        await connection.close()


async def asked(database: Database, scope: Scope, statement: str) -> list[Any]:
    """What SQL finds that goes round the scope's own conditions."""
    async with database.write(scope) as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(statement)
        return list(found.scalars().all()) if found.returns_rows else []


async def test_every_table_of_tenants_has_a_wall(database: Database) -> None:
    # Asked of PostgreSQL, not of the module that raises them.
    async with raw(database) as connection:
        rows = await connection.fetch(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced,"
            " (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid AND polcmd = '*') AS policies"
            " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE a.attname = 'tenant_id' AND c.relkind = 'r' OR c.relname = 'tenants'"
            " GROUP BY c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity"
        )
    assert len(rows) > 10
    assert [row["relname"] for row in rows if (row["forced"], row["policies"]) != (True, 1)] == []


async def test_without_a_tenant_nothing_is_seen(
    database: Database, ours: House, theirs: House
) -> None:
    async with raw(database) as connection:
        for table in ("messages", "conversations", "tenants"):
            assert await connection.fetch(f"SELECT * FROM {table}") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(
                "INSERT INTO tenants (created_at, updated_at, id, name)"
                " VALUES (now(), now(), 't_1', 'new')"
            )


async def test_with_a_tenant_its_own_alone_is_seen_and_changed(
    database: Database, ours: House, theirs: House
) -> None:
    async with raw(database) as connection, connection.transaction():
        await connection.execute(f"SET LOCAL hub.tenant = '{ours.tenant}'")
        assert [row["id"] for row in await connection.fetch(MESSAGES)] == [ours.message]
        found = await connection.fetch("SELECT id FROM tenants")
        assert [row["id"] for row in found] == [ours.tenant]
        assert await connection.execute("UPDATE messages SET content = 'x'") == "UPDATE 1"
        assert await connection.execute("DELETE FROM messages") == "DELETE 1"
    assert await asked(database, EVERY_TENANT, MESSAGES) == [theirs.message]


@pytest.mark.parametrize("how", ["insert", "move"])
async def test_nothing_is_put_into_another_tenant(
    database: Database, ours: House, theirs: House, how: str
) -> None:
    statements = {
        "insert": "INSERT INTO client_sessions (created_at, updated_at, tenant_id, id, user_id,"
        f" key, turn, channels, expires_at) VALUES (now(), now(), '{theirs.tenant}', 'p_1',"
        f" '{ours.user}', 'k', 1, '{{}}', now())",
        "move": f"UPDATE messages SET tenant_id = '{theirs.tenant}'",
    }
    with pytest.raises(DBAPIError, match="row-level security"):
        await asked(database, ours.tenant, statements[how])


async def test_what_goes_round_the_scope_meets_the_wall(
    database: Database, ours: House, theirs: House
) -> None:
    assert await asked(database, ours.tenant, MESSAGES) == [ours.message]
    assert await asked(database, theirs.tenant, MESSAGES) == [theirs.message]
    both = sorted([ours.message, theirs.message])
    assert await asked(database, EVERY_TENANT, MESSAGES) == both
    await asked(database, ours.tenant, "UPDATE messages SET content = 'taken'")
    contents = await asked(database, EVERY_TENANT, "SELECT content FROM messages ORDER BY 1")
    assert contents == ["hello", "taken"]


async def test_a_savepoint_stays_inside(database: Database, ours: House, theirs: House) -> None:
    async with database.write(ours.tenant) as session:
        async with session.begin_nested():
            connection = await session.connection()
            found = await connection.execute(text(MESSAGES))
            assert found.scalars().all() == [ours.message]
        found = await connection.execute(text(MESSAGES))
        assert found.scalars().all() == [ours.message]


async def test_the_tenant_is_forgotten_with_the_transaction(
    database: Database, ours: House
) -> None:
    assert await asked(database, ours.tenant, MESSAGES) == [ours.message]
    async with database._reader.connect() as connection:  # the same one, from the pool
        assert (await connection.execute(text(MESSAGES))).scalars().all() == []
        setting = text("SELECT current_setting('hub.tenant', true)")
        assert not (await connection.execute(setting)).scalar()


async def test_connections_that_tenants_share_mix_nothing_up(
    database: Database, ours: House, theirs: House
) -> None:
    async def look(house: House) -> bool:
        return await asked(database, house.tenant, MESSAGES) == [house.message]

    assert all(await asyncio.gather(*(look((ours, theirs)[n % 2]) for n in range(100))))


async def test_the_roles_of_all_are_everybodys_to_read_and_nobodys_to_change(
    database: Database, ours: House, theirs: House
) -> None:
    own = Role(id=new_id("ro"), tenant_id=theirs.tenant, name="theirs", rank=5)
    async with database.write(theirs.tenant) as session:
        session.add(own)
    found = await asked(database, ours.tenant, "SELECT id FROM roles")
    assert "owner" in found
    assert own.id not in found
    await asked(database, ours.tenant, "UPDATE roles SET rank = 99")
    assert 99 not in await asked(database, EVERY_TENANT, "SELECT rank FROM roles")


async def test_what_is_no_identifier_is_no_scope(database: Database) -> None:
    with pytest.raises(ValueError, match="letters"):
        await asked(database, "t_1'; SET LOCAL hub.tenant = '*", MESSAGES)


async def test_a_wall_that_is_missing_is_said_and_raised_again(
    database: Database, ours: House, theirs: House
) -> None:
    assert await database.unwalled() is None
    async with raw(database) as connection:
        await connection.execute("ALTER TABLE usage NO FORCE ROW LEVEL SECURITY")
        await connection.execute("DROP POLICY hub_tenant_1 ON messages")
        await connection.execute("CREATE POLICY hub_tenant_0 ON messages USING (true)")
    why = await database.unwalled()
    assert why is not None
    assert sorted(why.removeprefix("finds none around ").split(", ")) == ["messages", "usage"]
    await database.migrate()
    assert await database.unwalled() is None
    assert await asked(database, ours.tenant, MESSAGES) == [ours.message]


@pytest.mark.parametrize(("power", "said"), [("SUPERUSER", "superuser"), ("BYPASSRLS", "BYPASS")])
async def test_a_role_that_no_wall_holds_is_said(
    postgres: PostgresServer, postgres_url: str, power: str, said: str
) -> None:
    admin = await postgres.admin()
    name = f"hub_{power.lower()}"
    await admin.execute(f"CREATE ROLE {name} LOGIN {power}")
    try:
        database = Database(str(make_url(postgres_url).set(username=name)))
        why = await database.unwalled()
        await database.close()
    finally:
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()
    assert why is not None
    assert said in why


async def test_the_superuser_of_the_tests_is_another_role(
    database: Database, ours: House, theirs: House
) -> None:
    """Otherwise no test here could fail."""
    superuser = Database(str(database.url.set(username=SUPERUSER)))
    assert len(await asked(superuser, ours.tenant, MESSAGES)) == 2
    await superuser.close()
    assert await build(database, "more")
