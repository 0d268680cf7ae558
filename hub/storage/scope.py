"""The tenant scope: the one place where a session is kept inside its tenant.

A session made for a tenant sees and changes rows of that tenant only. Every SELECT, UPDATE and
DELETE of a ``TenantOwned`` class gets the condition by itself; an INSERT, or a flush, of another
tenant's row raises ``OutOfScope``, and so does a statement that cannot be checked (text, or Core
tables instead of classes). ``EVERY_TENANT`` is the explicit way out, for what is above tenants.

On PostgreSQL the scope is told to the database as well, which has walls of its own
(``hub.storage.walls``).
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Executable, Insert, Update, event, inspect
from sqlalchemy.orm import (
    ORMExecuteState,
    SessionTransaction,
    UOWTransaction,
    with_loader_criteria,
)
from sqlalchemy.orm.attributes import get_history, instance_state
from sqlalchemy.orm.util import LoaderCriteriaOption
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.util import find_tables
from sqlmodel import Session, col

from hub.storage import postgres
from hub.storage.tables import TenantOwned


class _EveryTenant:
    __slots__ = ()

    def __repr__(self) -> str:
        return "EVERY_TENANT"


EVERY_TENANT: Final = _EveryTenant()
"""The scope of what is above tenants: identity, the sweeper of runs, the operator's commands."""

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


@lru_cache(maxsize=1024)
def _criteria(
    tenant: str, classes: tuple[type[TenantOwned], ...]
) -> tuple[LoaderCriteriaOption, ...]:
    return tuple(
        with_loader_criteria(owned, col(owned.tenant_id) == tenant, include_aliases=True)
        for owned in classes
    )


def _mapped(kind: type[TenantOwned]) -> Iterator[type[TenantOwned]]:
    for child in kind.__subclasses__():
        if hasattr(child, "__table__"):
            yield child
        yield from _mapped(child)


S = TypeVar("S", bound=Executable)


def prebuilt(statement: S) -> S:
    """A statement that is built once, with ``bindparam`` for what changes, and executed often.

    Its form inside a tenant is remembered, with the conditions of just the classes it speaks of.
    """
    marked: S = statement.execution_options(prebuilt=True)
    return marked


@lru_cache(maxsize=8192)
def _inside(statement: Executable, tenant: str) -> Executable:
    spoken_of = find_tables(
        statement,  # type: ignore[arg-type]
        check_columns=True,
        include_aliases=True,
        include_joins=True,
        include_selects=True,
        include_crud=True,
    )
    owned = tuple(kind for kind in _mapped(TenantOwned) if inspect(kind).local_table in spoken_of)
    return statement.options(*_criteria(tenant, owned))


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
    if state.execution_options.get("prebuilt"):
        state.statement = _inside(state.statement, tenant)
    else:
        state.statement = state.statement.options(*_criteria(tenant, tuple(_mapped(TenantOwned))))


@event.listens_for(ScopedSession, "before_flush")
def _flush_inside(session: ScopedSession, _: UOWTransaction, __: Any) -> None:
    if not session.writes and (session.new or session.dirty or session.deleted):
        raise OutOfScope("a read scope was asked to write")
    tenant = session.scope
    if isinstance(tenant, _EveryTenant):
        return
    for row in (*session.new, *session.dirty, *session.deleted):
        if isinstance(row, TenantOwned):
            # What it was counts too: a row must not move in from, or out to, another tenant.
            before = get_history(row, "tenant_id").deleted or ()
            if row.tenant_id != tenant or (any(before) and instance_state(row).has_identity):
                raise OutOfScope(f"{type(row).__name__} of another tenant")


def _check_insert(state: ORMExecuteState, tenant: str) -> None:
    statement = state.statement
    mapper = state.bind_mapper
    if mapper is None or not issubclass(mapper.class_, TenantOwned):
        return
    assert isinstance(statement, Insert)
    given = _parameters(state)
    rows = [_by_name(statement._values or {}) | row for row in given]
    rows += [_by_name(row) for many in statement._multi_values for row in many]
    if statement._multi_values:
        rows = rows[len(given) :]
    if any(row.get("tenant_id") != tenant for row in rows):
        raise OutOfScope(f"{mapper.class_.__name__} of another tenant, or of none that is said")


def _check_update(state: ORMExecuteState) -> None:
    statement = state.statement
    assert isinstance(statement, Update)
    if state.is_executemany:
        # SQLAlchemy updates these by primary key alone, without the criteria.
        raise OutOfScope("rows that are updated by their keys cannot be kept inside a tenant")
    changed = {*_by_name(statement._values or {})}.union(*_parameters(state))
    if "tenant_id" in changed:
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
