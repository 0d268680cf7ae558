"""A session of one tenant neither sees nor touches another tenant's rows, however it is asked."""

import ast
import re
from typing import Any, Final

import pytest
from sqlalchemy import delete, exists, func, insert, literal, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlmodel import SQLModel, col, select

from hub.ids import new_id
from hub.rbac.roles import BUILT_IN
from hub.storage.database import Database
from hub.storage.ownership import SHARED, is_owned, part_of
from hub.storage.scope import EVERY_TENANT, OutOfScope, prebuilt
from hub.storage.tables import (
    Conversation,
    Erasure,
    Message,
    Role,
    RolePermission,
    Tenant,
    User,
)
from tests.storage.conftest import House, message
from tests.test_layers import HUB

OTHER = aliased(Message)

SELECTS: dict[str, Any] = {
    "rows": select(Message),
    "columns": select(Message.id),
    "count": select(func.count(col(Message.id))),
    "count of all": select(func.count()).select_from(Message),
    "join": select(Message).join(Conversation, col(Conversation.id) == Message.conversation_id),
    "join from elsewhere": select(Message)
    .select_from(User)
    .join(Message, col(Message.author_id) == User.id),
    "alias": select(OTHER),
    "subquery": select(Message).where(col(Message.id).in_(select(OTHER.id))),
    "from subquery": select(select(Message.id).subquery().c.id),
    "cte": select(select(Message.id).cte().c.id),
    "union": select(Message.id).union(select(Message.id)),
}


@pytest.mark.parametrize("form", [lambda statement: statement, prebuilt], ids=["new", "prebuilt"])
@pytest.mark.parametrize("way", SELECTS)
async def test_a_select_sees_the_tenant_alone(
    database: Database, ours: House, theirs: House, way: str, form: Any
) -> None:
    async with database.read(ours.tenant) as session:
        rows = (await session.exec(form(SELECTS[way]))).all()
    found = [getattr(row, "id", row[0] if isinstance(row, tuple) else row) for row in rows]
    expected: list[Any] = [1] if way.startswith("count") else [ours.message]
    assert [item[0] if isinstance(item, tuple) else item for item in found] == expected


async def test_a_subquery_in_another_tables_select_is_inside_too(
    database: Database, ours: House, theirs: House
) -> None:
    wrote = exists().where(col(Message.author_id) == User.id)
    authors = select(User.id).where(wrote)
    async with database.read(ours.tenant) as session:
        assert (await session.exec(authors)).all() == [ours.user]
        assert (await session.exec(prebuilt(authors))).all() == [ours.user]


async def test_a_prebuilt_statement_is_each_tenants_own(
    database: Database, ours: House, theirs: House
) -> None:
    statement = prebuilt(select(Message.id))
    for house in (ours, theirs, ours):
        async with database.read(house.tenant) as session:
            assert (await session.exec(statement)).all() == [house.message]


async def test_get_finds_nothing_of_another_tenant(
    database: Database, ours: House, theirs: House
) -> None:
    async with database.read(ours.tenant) as session:
        assert await session.get(Message, theirs.message) is None
        assert (await session.get(Message, ours.message)) is not None


async def test_update_changes_the_tenant_alone(
    database: Database, ours: House, theirs: House
) -> None:
    async with database.write(ours.tenant) as session:
        done = await session.exec(update(Message).values(content="changed"))
        assert done.rowcount == 1
        aimed = await session.exec(
            update(Conversation).where(col(Conversation.id) == theirs.conversation).values(title="")
        )
        assert aimed.rowcount == 0
    async with database.read(EVERY_TENANT) as session:
        contents = {row.id: row.content for row in (await session.exec(select(Message))).all()}
    assert contents[ours.message] == "changed"
    assert contents[theirs.message] != "changed"


async def test_update_of_many_rows_by_key_changes_the_tenant_alone(
    database: Database, ours: House, theirs: House
) -> None:
    rows = [{"id": ours.message, "content": "x"}, {"id": theirs.message, "content": "x"}]
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            await session.exec(update(Message), params=rows)
    assert await contents_of(database, theirs.message) != "x"


async def test_delete_removes_from_the_tenant_alone(
    database: Database, ours: House, theirs: House
) -> None:
    async with database.write(ours.tenant) as session:
        await session.exec(delete(Message))
    async with database.read(EVERY_TENANT) as session:
        assert (await session.exec(select(Message.id))).all() == [theirs.message]


async def test_a_row_of_another_tenant_is_not_added(
    database: Database, ours: House, theirs: House
) -> None:
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            session.add(message(theirs, new_id("m"), turn=2))
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Message))).all()) == 2


@pytest.mark.parametrize(
    "how", ["params", "values", "many values", "nobody", "an expression", "from select"]
)
async def test_an_insert_for_another_tenant_is_refused(
    database: Database, ours: House, theirs: House, how: str
) -> None:
    row = message(theirs, new_id("m"), turn=2).model_dump()
    good = message(ours, new_id("m"), turn=2).model_dump()
    nobody = {key: value for key, value in row.items() if key != "tenant_id"}
    columns = [col(Message.id), col(Message.tenant_id)]
    statements: dict[str, tuple[Any, Any]] = {
        "params": (insert(Message), [good, row]),
        "values": (insert(Message).values(**row), None),
        "many values": (insert(Message).values([good, row]), None),
        "nobody": (insert(Message).values(**nobody), None),
        "an expression": (
            insert(Message).values(**(row | {"tenant_id": func.lower(theirs.tenant)})),
            None,
        ),
        "from select": (
            insert(Message).from_select(columns, select(literal("m_1"), literal(theirs.tenant))),
            None,
        ),
    }
    statement, params = statements[how]
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            await session.exec(statement, params=params)
    async with database.read(EVERY_TENANT) as session:
        assert len((await session.exec(select(Message))).all()) == 2


async def test_inserts_for_the_tenant_itself_are_let_through(
    database: Database, ours: House
) -> None:
    rows = [message(ours, new_id("m"), turn=turn).model_dump() for turn in range(2, 6)]
    async with database.write(ours.tenant) as session:
        await session.exec(insert(Message), params=rows[:2])
        await session.exec(insert(Message).values(**rows[2]))
        await session.exec(insert(Message).values([rows[3]]))
    async with database.read(ours.tenant) as session:
        assert len((await session.exec(select(Message))).all()) == 5


async def test_a_row_loaded_elsewhere_is_neither_changed_nor_deleted(
    database: Database, ours: House, theirs: House
) -> None:
    async with database.read(EVERY_TENANT) as session:
        row = (await session.exec(select(Message).where(Message.id == theirs.message))).one()
    row.content = "stolen"
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            session.add(row)
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            await session.delete(row)
    row.tenant_id = ours.tenant
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            session.add(row)
    with pytest.raises(IntegrityError):  # it is not found, and so would be made anew
        async with database.write(ours.tenant) as session:
            await session.merge(row)
    assert await contents_of(database, theirs.message) != "stolen"


@pytest.mark.parametrize("how", ["flush", "update"])
async def test_a_row_does_not_change_its_tenant(
    database: Database, ours: House, theirs: House, how: str
) -> None:
    async def move() -> None:
        async with database.write(ours.tenant) as session:
            if how == "flush":
                row = (await session.exec(select(Message))).one()
                row.tenant_id = theirs.tenant
            else:
                await session.exec(update(Message).values(tenant_id=theirs.tenant))

    with pytest.raises(OutOfScope):
        await move()
    async with database.read(theirs.tenant) as session:
        assert (await session.exec(select(Message.id))).all() == [theirs.message]


@pytest.mark.parametrize(
    "statement", [text("SELECT * FROM messages"), select(Message.__table__.c.id)]  # type: ignore[attr-defined]
)  # fmt: skip
async def test_what_cannot_be_kept_inside_is_refused(
    database: Database, ours: House, statement: Any
) -> None:
    async with database.read(ours.tenant) as session:
        with pytest.raises(OutOfScope):
            await session.exec(statement)


@pytest.mark.parametrize("how", ["add", "change", "insert", "update", "delete"])
async def test_a_read_does_not_write(database: Database, ours: House, how: str) -> None:
    row = message(ours, new_id("m"), turn=2)

    async def write_in_a_read() -> None:
        async with database.read(ours.tenant) as session:
            match how:
                case "add":
                    session.add(row)
                    await session.flush()
                case "change":
                    (await session.exec(select(Message))).one().content = "changed"
                    await session.flush()
                case "insert":
                    await session.exec(insert(Message).values(**row.model_dump()))
                case "update":
                    await session.exec(update(Message).values(content="changed"))
                case "delete":
                    await session.exec(delete(Message))

    with pytest.raises(OutOfScope):
        await write_in_a_read()


async def test_the_scope_is_the_sessions_own_when_statements_are_alike(
    database: Database, ours: House, theirs: House
) -> None:
    # The statement's compiled form is cached; the tenant in it must not be.
    for house in (ours, theirs, ours, theirs):
        async with database.read(house.tenant) as session:
            assert (await session.exec(select(Message.id))).all() == [house.message]


async def contents_of(database: Database, id: str) -> str:
    async with database.read(EVERY_TENANT) as session:
        return (await session.exec(select(Message.content).where(Message.id == id))).one()


# --- what is of no tenant alone, or says by another row whose it is -------------------------------


@pytest.fixture
async def their_role(database: Database, theirs: House) -> Role:
    """A role of the other tenant, with a permission."""
    role = Role(id=new_id("ro"), tenant_id=theirs.tenant, name="theirs", rank=5)
    async with database.write(EVERY_TENANT) as session:
        session.add(role)
        await session.flush()
        session.add(RolePermission(role_id=role.id, permission="run:read"))
        session.add(Erasure(id=new_id("er"), user_id=theirs.user))
        session.add(Erasure(id=new_id("er"), user_id=theirs.user, tenant_id=theirs.tenant))
    return role


@pytest.mark.parametrize("form", [lambda statement: statement, prebuilt], ids=["new", "prebuilt"])
async def test_roles_what_they_may_and_the_tenant_itself_are_seen_inside_alone(
    database: Database, ours: House, their_role: Role, form: Any
) -> None:
    async with database.read(ours.tenant) as session:
        roles = set((await session.exec(form(select(Role.id)))).all())
        may = set((await session.exec(form(select(RolePermission.role_id)))).all())
        assert await session.get(Role, their_role.id) is None
        assert await session.get(RolePermission, (their_role.id, "run:read")) is None
        assert (await session.exec(form(select(Tenant.id)))).all() == [ours.tenant]
        assert (await session.exec(form(select(Erasure.id)))).all() == []
    assert roles == may == set(BUILT_IN)
    async with database.read(str(their_role.tenant_id)) as session:
        assert set((await session.exec(form(select(Role.id)))).all()) == {*BUILT_IN, their_role.id}
        of_role = select(RolePermission.permission).where(RolePermission.role_id == their_role.id)
        assert (await session.exec(form(of_role))).all() == ["run:read"]
        assert len((await session.exec(form(select(Erasure.id)))).all()) == 1


async def test_what_is_shared_or_another_tenants_is_not_changed_from_inside(
    database: Database, ours: House, their_role: Role
) -> None:
    async with database.write(ours.tenant) as session:
        for statement in (
            update(Role).values(rank=99),
            update(RolePermission).values(permission="run:cancel"),
            delete(RolePermission),
            update(Erasure).values(user_id=ours.user),
            update(Tenant).where(col(Tenant.id) != ours.tenant).values(name="taken"),
        ):
            alone = statement.execution_options(synchronize_session=False)
            assert (await session.exec(alone)).rowcount == 0
    for row in (
        Role(id=new_id("ro"), name="everybody's", rank=1),
        Role(id=new_id("ro"), tenant_id=their_role.tenant_id, name="theirs too", rank=1),
        RolePermission(role_id=their_role.id, permission="run:cancel"),
        RolePermission(role_id="viewer", permission="run:cancel"),
        Tenant(id=new_id("t"), name="new"),
    ):
        with pytest.raises(OutOfScope):
            async with database.write(ours.tenant) as session:
                session.add(row)
    for made in (
        insert(RolePermission).values(role_id="viewer", permission="run:cancel"),
        insert(Role).values(id="x", name="x", rank=1),
    ):
        with pytest.raises(OutOfScope):
            async with database.write(ours.tenant) as session:
                await session.exec(made)
    async with database.read(ours.tenant) as session:
        everybodys = (await session.exec(select(Role).where(Role.id == "viewer"))).one()
    everybodys.tenant_id = ours.tenant
    with pytest.raises(OutOfScope):
        async with database.write(ours.tenant) as session:
            session.add(everybodys)


# --- nothing is forgotten, and nothing goes round it unseen ---------------------------------------

OF_NO_TENANT: Final = {
    "users": "somebody may be a member of several tenants",
    "account_tokens": "a user's, to show that an address is theirs",
    "totp_factors": "a user's second factor, in every tenant",
    "recovery_codes": "a user's second factor, in every tenant",
    "provider_identities": "who a user is elsewhere, in every tenant",
}
"""The tables whose rows are no tenant's, and why."""

ABOVE_TENANTS: Final = {
    "hub.storage": "it defines the scope, and asks whether the database answers",
    "hub.identity": "who signs in is of no tenant yet, and a user may be of several",
    "hub.tenancy": "the life of tenants, who may enter which, and users who are left with none",
    "hub.audit": "one keeper keeps the trails of all tenants",
    "hub.cli": "the operator at the machine",
    "hub.agents.orchestrator": "runs that have lost their worker, whosever they are",
    "hub.agents.erasure": "what a deleted user has in every tenant",
    "hub.operations.resources": "one node follows conversations of many tenants",
}
"""Rooms and modules that may use ``EVERY_TENANT``, and why."""

INSIDE: Final = (
    "hub.identity.keys.api_keys",
    "hub.identity.access.assignments",
    "hub.identity.access.groups",
    "hub.identity.access.holdings",
    "hub.identity.access.roles",
    "hub.identity.keys.service_accounts",
    "hub.identity.access.shares",
)
"""Modules of these rooms that act for a tenant's own people, and have no use for it."""

ROUND_THE_SESSION: Final = {
    "hub.storage": "what sessions are made of",
    "hub.audit.trail": "seals what a transaction adds to the trails, as it is flushed",
    "hub.limits.book": "asks which database it is",
}
"""Rooms and modules that come to the database round a session, and why."""

_ROUND: Final = re.compile(
    r"connection|exec_driver_sql|sync_session|run_sync|get_bind|bulk_\w+|create_async_engine|text"
)
_NOUNS: Final = {"connection", "text"}  # of much else
_DRIVERS: Final = {
    "asyncpg",
    "sqlalchemy.text",
    "sqlalchemy.create_engine",
    "sqlalchemy.ext.asyncio.create_async_engine",
}


def test_every_table_says_whose_its_rows_are() -> None:
    """A new table is a tenant's, by ``tenant_id`` or by what it is part of, or it is named here."""
    tables = SQLModel.metadata.sorted_tables
    assert {table.name for table in tables if not is_owned(table)} == set(OF_NO_TENANT)
    assert {table.name for table in tables if part_of(table) is not None} == {"role_permissions"}
    for table in tables:
        column = table.columns.get("tenant_id")
        assert column is None or not column.nullable or table.name in {*SHARED, "erasures"}


def test_what_is_above_tenants_says_so_and_why() -> None:
    using = [
        module
        for module in HUB
        if "EVERY_TENANT" in module.path.read_text("utf-8")
        and "hub.storage.scope.EVERY_TENANT" in module.imports()
    ]
    assert [module.name for module in using if not module.within(*ABOVE_TENANTS)] == []
    assert [module.name for module in using if module.within(*INSIDE)] == []
    for place in ABOVE_TENANTS:
        assert [module for module in using if module.within(place)], f"{place} does without it"


def test_nothing_speaks_to_the_database_but_through_a_session() -> None:
    found = set()
    for module in HUB:
        if module.within(*ROUND_THE_SESSION) or not _ROUND.search(module.path.read_text("utf-8")):
            continue
        called = {
            node.func.attr
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        used = {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
        bad = {name for name in used - _NOUNS | called - {"text"} if _ROUND.fullmatch(name)}
        bad |= _DRIVERS & set(module.imports())
        found |= {(module.name, each) for each in bad}
    assert found == set()
