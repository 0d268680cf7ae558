"""PostgreSQL itself keeps a transaction inside its tenant, whatever is asked of it."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from hub.ids import new_id
from hub.rbac.roles import BUILT_IN
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, Scope
from hub.storage.tables import Erasure, Role, RolePermission
from hub.storage.walls import walled
from tests.parts.postgres import SUPERUSER, PostgresServer
from tests.storage.conftest import House, build
from tests.storage.test_scope import OF_NO_TENANT

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


async def test_every_table_of_tenants_has_a_wall_on_the_same_terms(database: Database) -> None:
    # Asked of PostgreSQL, not of the module that raises them.
    async with raw(database) as connection:
        tables = await connection.fetch(
            "SELECT relname, relrowsecurity AND relforcerowsecurity AS forced FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        )
        policies = await connection.fetch(
            "SELECT tablename, cmd, permissive, roles::text, qual, with_check FROM pg_policies"
        )
        keys = await connection.fetch(
            "SELECT relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE attname = 'tenant_id' AND relkind IN ('r', 'p')"
        )
    there = {row["relname"]: row["forced"] for row in tables}
    assert set(there) == {*SQLModel.metadata.tables, "alembic_version"}
    guarded = {name for name, forced in there.items() if forced}
    assert guarded == {*(row["relname"] for row in keys), "tenants", "role_permissions"}
    assert guarded == set(there) - {*OF_NO_TENANT, "alembic_version"}
    terms = defaultdict(set)
    for row in policies:
        assert row["roles"] == "{public}"
        terms[row["cmd"]].add(row["tablename"])
        if row["cmd"] == "ALL":
            assert row["qual"] == row["with_check"]
    assert terms == {"ALL": guarded, "SELECT": {"roles", "role_permissions", "role_states"}}
    said = {
        re.sub(r"\b(tenant_id|id)\b", "KEY", row["qual"])
        for row in policies
        if row["cmd"] == "ALL" and row["tablename"] != "role_permissions"
    }
    assert len(said) == 1, said
    assert "current_setting('hub.tenant'::text, true)" in said.pop()


async def test_without_a_tenant_nothing_is_seen(
    database: Database, ours: House, theirs: House
) -> None:
    async with raw(database) as connection:
        for setting in (None, ""):
            if setting is not None:
                await connection.execute(f"SET hub.tenant = '{setting}'")
            for table in walled(SQLModel.metadata):
                assert await connection.fetch(f"SELECT * FROM {table.name}") == [], table.name
            for change in (
                "UPDATE roles SET rank = 99",
                "DELETE FROM role_permissions",
                "DELETE FROM messages",
            ):
                assert (await connection.execute(change)).endswith(" 0")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    "INSERT INTO tenants (created_at, updated_at, id, name)"
                    " VALUES (now(), now(), 't_1', 'new')"
                )
    for name in ("messages", "conversations", "tenants", "roles", "role_permissions"):
        assert await asked(database, EVERY_TENANT, f"SELECT 1 FROM {name}"), "there is something"


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


async def test_what_a_role_may_is_seen_and_changed_by_whose_role_it_is(
    database: Database, ours: House, theirs: House
) -> None:
    own = Role(id=new_id("ro"), tenant_id=theirs.tenant, name="theirs", rank=5)
    async with database.write(theirs.tenant) as session:
        session.add(own)
        await session.flush()
        session.add(RolePermission(role_id=own.id, permission="run:read"))
    of_roles = "SELECT DISTINCT role_id FROM role_permissions ORDER BY role_id"
    assert await asked(database, ours.tenant, of_roles) == sorted(BUILT_IN)
    assert await asked(database, theirs.tenant, of_roles) == sorted([*BUILT_IN, own.id])
    for id in (own.id, "viewer"):
        with pytest.raises(DBAPIError, match="row-level security"):
            await asked(
                database, ours.tenant, f"INSERT INTO role_permissions VALUES ('{id}', 'run:cancel')"
            )
    await asked(database, ours.tenant, "DELETE FROM role_permissions")
    assert await asked(database, EVERY_TENANT, of_roles) == sorted([*BUILT_IN, own.id])
    await asked(database, theirs.tenant, "DELETE FROM role_permissions")
    assert await asked(database, EVERY_TENANT, of_roles) == sorted(BUILT_IN)


async def test_what_is_noted_of_every_tenant_is_nobodys_to_read(
    database: Database, theirs: House
) -> None:
    async with database.write(EVERY_TENANT) as session:
        session.add(Erasure(id=new_id("er"), user_id=theirs.user))
    assert await asked(database, theirs.tenant, "SELECT id FROM erasures") == []


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
