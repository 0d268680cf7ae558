"""Deleting rows together with all that refers to them, whichever tables those are.

What a table refers to is declared once, by its foreign keys, and is followed here: a row that could
be of nobody (its key may be null) lets go, one that could not goes too.
"""

from collections.abc import Collection, Iterator
from typing import Any, cast

from sqlalchemy import Column, ColumnElement, CursorResult, Table, delete, select, update
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.tables import TenantOwned


async def erase(session: AsyncSession, kind: type[SQLModel], where: ColumnElement[bool]) -> int:
    """Delete these rows, and before them what refers to them; how many of ``kind`` there were."""
    (key,) = _table(kind).primary_key.columns
    await forget(session, kind, select(_attribute(kind, key)).where(where))
    done = await session.exec(
        delete(kind).where(where).execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", done).rowcount


async def forget(
    session: AsyncSession,
    kind: type[SQLModel],
    keys: Any,
    *,
    keep: Collection[type[SQLModel]] = (),
    tenant_id: str | None = None,
) -> None:
    """Delete what refers to the rows of ``kind`` with these ``keys`` (a SELECT of them, or a list),
    or let it go; the rows themselves stay.

    ``keep``: what goes on referring to them. ``tenant_id``: only what is of this tenant.
    """
    for child, column in _referring(kind):
        if child in keep or (tenant_id is not None and not issubclass(child, TenantOwned)):
            continue
        where = _attribute(child, column).in_(keys)
        if tenant_id is not None:
            where &= child.tenant_id == tenant_id  # type: ignore[attr-defined]
        if column.nullable:
            await session.exec(
                update(child)
                .where(where)
                .values({column.key: None})
                .execution_options(synchronize_session=False)
            )
        elif len(_table(child).primary_key.columns) == 1:
            await erase(session, child, where)
        else:
            # A key of several columns: of a table that relates others, to which nothing refers.
            await session.exec(
                delete(child).where(where).execution_options(synchronize_session=False)
            )


def _referring(kind: type[SQLModel]) -> Iterator[tuple[type[SQLModel], "Column[Any]"]]:
    """The classes with a foreign key to this one's, and the columns of these keys."""
    table = _table(kind)
    for mapper in sorted(SQLModel._sa_registry.mappers, key=lambda mapper: mapper.class_.__name__):
        for column in cast(Table, mapper.local_table).columns:
            if any(key.column.table is table for key in column.foreign_keys):
                yield mapper.class_, column


def _table(kind: type[SQLModel]) -> Table:
    return cast(Table, kind.__table__)  # type: ignore[attr-defined]


def _attribute(kind: type[SQLModel], column: "Column[Any]") -> Any:
    return getattr(kind, column.key)
