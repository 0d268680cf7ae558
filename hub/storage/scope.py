"""The tenant scope: the one place where a session is kept inside its tenant.

A session made for a tenant sees and changes rows of that tenant only. Every SELECT, UPDATE and
DELETE of a class whose rows are a tenant's (``hub.storage.ownership``) gets the condition by
itself; an INSERT, or a flush, of another tenant's row raises ``OutOfScope``, and so does a
statement that cannot be checked (text, or Core tables instead of classes). ``EVERY_TENANT`` is the
explicit way out, for what is above tenants.

On PostgreSQL the scope is told to the database as well, which has walls of its own
(``hub.storage.walls``).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Executable, Insert, Update, event, inspect, or_, select
from sqlalchemy.orm import (
    ORMExecuteState,
    SessionTransaction,
    UOWTransaction,
    aliased,
    with_loader_criteria,
)
from sqlalchemy.orm.attributes import get_history, instance_state
from sqlalchemy.orm.util import LoaderCriteriaOption, identity_key
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.util import find_tables
from sqlmodel import Session, SQLModel, col

from hub.storage import postgres, tables
from hub.storage.ownership import SHARED, is_owned, key_of, part_of


class _EveryTenant:
    __slots__ = ()

    def __repr__(self) -> str:
        return "EVERY_TENANT"


EVERY_TENANT: Final = _EveryTenant()
"""The scope of what is above tenants: identity, the sweeper of runs, the operator's commands."""

_TABLES: Final = tables.__name__  # imported so that all classes are there

Scope = str | _EveryTenant
"""A tenant's id, or ``EVERY_TENANT``."""


class OutOfScope(Exception):
    """The code tried to reach outside the session's tenant, or to write in a read. A bug."""


class ScopedSession(Session):
    """A session of one scope; see ``hub.storage.database``."""

    scope: Scope = ""
    writes: bool = False


@event.listens_for(ScopedSession, "after_begin")
def _tell_the_database(
    session: ScopedSession, transaction: SessionTransaction, connection: Connection
) -> None:
    driver = connection.connection.driver_connection
    if isinstance(driver, postgres.Connection) and not transaction.nested:
        scope = session.scope
        driver.begin_for(postgres.EVERYONES if isinstance(scope, _EveryTenant) else scope)


@lru_cache(maxsize=1)
def _owned() -> tuple[Any, ...]:
    """The classes whose rows are a tenant's."""
    classes: Any = SQLModel._sa_registry.mappers
    found = [mapper.class_ for mapper in classes if is_owned(mapper.local_table)]
    return tuple(sorted(found, key=lambda kind: str(kind.__name__)))


@lru_cache(maxsize=2048)
def _criteria(
    tenant: str, classes: tuple[Any, ...], *, reading: bool
) -> tuple[LoaderCriteriaOption, ...]:
    return tuple(
        with_loader_criteria(kind, _inside(kind, tenant, reading=reading), include_aliases=True)
        for kind in classes
    )


def _inside(kind: Any, tenant: str, *, reading: bool) -> ColumnElement[bool]:
    """The condition that a row of a class is the tenant's to read, or to change."""
    table = inspect(kind).local_table
    part = part_of(table)
    if part is not None:
        whole = _whole(part.column.table)
        there = select(getattr(whole, part.column.key)).where(
            _by_key(whole, part.column.table, tenant, reading=reading)
        )
        return col(getattr(kind, part.parent.key)).in_(there.correlate(None))
    return _by_key(kind, table, tenant, reading=reading)


@lru_cache(maxsize=64)
def _whole(table: Any) -> Any:
    """The rows that others are part of, under a name of their own. One for all tenants: it takes
    more time and memory than all the conditions of one.
    """
    return aliased(_class_of(table))


def _by_key(kind: Any, table: Any, tenant: str, *, reading: bool) -> ColumnElement[bool]:
    key = key_of(table)
    assert key is not None
    of = col(getattr(kind, key))
    return or_(of == tenant, of.is_(None)) if reading and table.name in SHARED else of == tenant


def _class_of(table: Any) -> Any:
    return next(kind for kind in _owned() if inspect(kind).local_table is table)


S = TypeVar("S", bound=Executable)


def prebuilt(statement: S) -> S:
    """A statement that is built once, with ``bindparam`` for what changes, and executed often.

    Its form inside a tenant is remembered, with the conditions of just the classes it speaks of.
    """
    marked: S = statement.execution_options(prebuilt=True)
    return marked


@lru_cache(maxsize=8192)
def _remembered(statement: Executable, tenant: str) -> Executable:
    spoken_of = find_tables(
        statement,  # type: ignore[arg-type]
        check_columns=True,
        include_aliases=True,
        include_joins=True,
        include_selects=True,
        include_crud=True,
    )
    kinds = tuple(kind for kind in _owned() if inspect(kind).local_table in spoken_of)
    return statement.options(*_criteria(tenant, kinds, reading=True))


@event.listens_for(ScopedSession, "do_orm_execute")
def _stay_inside(state: ORMExecuteState) -> None:
    session = state.session
    assert isinstance(session, ScopedSession)
    if not session.writes and (state.is_insert or state.is_update or state.is_delete):
        raise OutOfScope("a read scope was asked to write")
    tenant = session.scope
    if isinstance(tenant, _EveryTenant):
        return
    if not state.is_orm_statement:
        raise OutOfScope("only statements of mapped classes can be kept inside a tenant")
    if state.is_insert:
        _check_insert(state, tenant)
        return
    if state.is_update:
        _check_update(state)
    if state.is_relationship_load:
        return  # the options of the statement it came from travel with it
    if state.is_select and state.execution_options.get("prebuilt"):
        state.statement = _remembered(state.statement, tenant)
    else:
        criteria = _criteria(tenant, _owned(), reading=state.is_select)
        state.statement = state.statement.options(*criteria)


@event.listens_for(ScopedSession, "before_flush")
def _flush_inside(session: ScopedSession, _: UOWTransaction, __: Any) -> None:
    if not session.writes and (session.new or session.dirty or session.deleted):
        raise OutOfScope("a read scope was asked to write")
    tenant = session.scope
    if isinstance(tenant, _EveryTenant):
        return
    for row in (*session.new, *session.dirty, *session.deleted):
        if not _is_of(session, row, tenant):
            raise OutOfScope(f"{type(row).__name__} of another tenant")


def _is_of(session: ScopedSession, row: Any, tenant: str) -> bool:
    table = inspect(type(row)).local_table
    part = part_of(table)
    if part is not None:
        # Only what is part of a row that was read or made in this session, and so is known.
        kind, id = _class_of(part.column.table), getattr(row, part.parent.key)
        return any(
            isinstance(whole, kind)
            and getattr(whole, part.column.key) == id
            and _is_of(session, whole, tenant)
            for whole in (*session.new, session.identity_map.get(identity_key(kind, id)))
        )
    key = key_of(table)
    if key is None:
        return True
    # What it was counts too: a row must not move in from, or out to, another tenant.
    before = get_history(row, key).deleted or ()
    moves = instance_state(row).has_identity and any(was != tenant for was in before)
    return getattr(row, key) == tenant and not moves


def _check_insert(state: ORMExecuteState, tenant: str) -> None:
    statement = state.statement
    mapper = state.bind_mapper
    table: Any = None if mapper is None else mapper.local_table
    if mapper is None or not is_owned(table):
        return
    assert isinstance(statement, Insert)
    key = key_of(table)
    if key is None:
        raise OutOfScope(f"{mapper.class_.__name__}: part of what cannot be looked at here")
    given = _parameters(state)
    rows = [_by_name(statement._values or {}) | row for row in given]
    rows += [_by_name(row) for many in statement._multi_values for row in many]
    if statement._multi_values:
        rows = rows[len(given) :]
    if any(row.get(key) != tenant for row in rows):
        raise OutOfScope(f"{mapper.class_.__name__} of another tenant, or of none that is said")


def _check_update(state: ORMExecuteState) -> None:
    statement = state.statement
    assert isinstance(statement, Update)
    if state.is_executemany:
        # SQLAlchemy updates these by primary key alone, without the criteria.
        raise OutOfScope("rows that are updated by their keys cannot be kept inside a tenant")
    changed = {*_by_name(statement._values or {})}.union(*_parameters(state))
    assert state.bind_mapper is not None, "it is a statement of a class"
    table: Any = state.bind_mapper.local_table
    part = part_of(table)
    if (key_of(table) if part is None else part.parent.key) in changed:
        raise OutOfScope("a row does not change its tenant")


def _parameters(state: ORMExecuteState) -> list[dict[str, Any]]:
    given = state.parameters or {}
    return [dict(given)] if isinstance(given, Mapping) else [dict(row) for row in given]


def _by_name(values: Any) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in dict(values).items():
        name = key if isinstance(key, str) else getattr(key, "key", str(key))
        named[name] = value.value if isinstance(value, BindParameter) else value
        if isinstance(named[name], ColumnElement):
            named[name] = None  # an expression: not known to be inside
    return named
