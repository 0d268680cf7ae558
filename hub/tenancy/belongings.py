"""What hangs on a tenant, or on a user: found in the tables, so that a new one is not forgotten.

A table belongs to a tenant when it says so (``tenant_id``), or when it says nothing of tenants and
refers to a table that belongs to one, as the permissions of a role do.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, or_, tuple_
from sqlmodel import SQLModel, select
from sqlmodel.main import default_registry

from hub.storage.tables import Tenant, User


class Part(NamedTuple):
    """The rows of one table that go, as a condition on its class."""

    kind: Any
    condition: ColumnElement[bool]

    def some(self, most: int) -> ColumnElement[bool]:
        """The condition of up to ``most`` of these rows."""
        key = [_attribute(self.kind, name) for name in self._table.primary_key.columns.keys()]  # noqa: SIM118  # no dict
        first = select(*key).where(self.condition).limit(most)
        return key[0].in_(first) if len(key) == 1 else tuple_(*key).in_(first)

    def loops(self) -> list[str]:
        """The columns by which rows of the table refer to rows of the same."""
        table = self._table
        return [k.parent.key for k in table.foreign_keys if k.column.table is table]

    @property
    def _table(self) -> Table:
        table: Table = self.kind.__table__
        return table


def of_tenant(tenant_id: str) -> list[Part]:
    """Everything of a tenant but its own row, in an order in which it can be deleted."""
    return _hanging(Tenant, {}, lambda kind: _attribute(kind, "tenant_id") == tenant_id)


def of_user(user_id: str) -> list[Part]:
    """What is a user's alone and no tenant's, in an order in which it can be deleted."""
    here = {User.__tablename__: _attribute(User, "id") == user_id}
    return _hanging(User, here, lambda kind: None)


def _hanging(root: type[SQLModel], known: dict[Any, Any], owned: Any) -> list[Part]:
    conditions = dict(known)
    parts: list[Part] = []
    for kind in _kinds():
        table: Table = kind.__table__
        if kind is root:
            continue
        if "tenant_id" in table.columns:
            condition = owned(kind)
        else:
            condition = _by_reference(kind, table, conditions)
        if condition is not None:
            conditions[table.name] = condition
            parts.append(Part(kind, condition))
    return parts[::-1]


def _by_reference(kind: Any, table: Table, conditions: dict[Any, Any]) -> Any:
    ways = []
    for key in table.foreign_keys:
        target = key.column.table
        if target.name in conditions and target is not table:
            there = _attribute(_kind_of(target), key.column.key)
            ways.append(
                _attribute(kind, key.parent.key).in_(select(there).where(conditions[target.name]))
            )
    return or_(*ways) if ways else None


def _kinds() -> Iterator[Any]:
    """The mapped classes, each after those that it refers to."""
    return (_kind_of(table) for table in SQLModel.metadata.sorted_tables)


def _kind_of(table: Any) -> Any:
    return next(m.class_ for m in default_registry.mappers if m.local_table is table)


def _attribute(kind: Any, name: str) -> Any:
    return getattr(kind, name)
