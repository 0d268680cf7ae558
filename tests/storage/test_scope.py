"""A session of one tenant neither sees nor touches another tenant's rows, however it is asked."""

from typing import Any

import pytest
from sqlalchemy import delete, exists, func, insert, literal, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from hub.ids import new_id
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, OutOfScope, prebuilt
from hub.storage.tables import Conversation, Message, User
from tests.storage.conftest import House, message

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
