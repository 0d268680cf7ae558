"""Whose the rows of a table are. The tenant scope and the walls of the database both go by this.

A row is its tenant's by ``tenant_id`` (a tenant's own row by ``id``), or by the row that it is part
of: a permission is of the tenant that its role is of. Rows of the other tables are no tenant's:
users, who may be members of several, and how they sign in.
"""

from typing import Any, Final

from sqlalchemy import ForeignKey, Table

SHARED: Final = frozenset({"roles", "role_states"})
"""Where rows of no tenant are every tenant's to read, and nobody's to change."""


def key_of(table: Table) -> str | None:
    """The column that says whose a row is; None where none does."""
    if "tenant_id" in table.columns:
        return "tenant_id"
    return "id" if table.name == "tenants" else None


def part_of(table: Table) -> ForeignKey | None:
    """Where no column says whose a row is: the reference to the row that it is part of, which says
    it. None for tables whose rows are no tenant's.
    """
    if key_of(table) is not None:
        return None
    for key in sorted(table.foreign_keys, key=lambda key: key.parent.name):
        whole = key.column.table
        if whole.name != "tenants" and key_of(whole) is not None and not key.parent.nullable:
            return key
    return None


def is_owned(table: Any) -> bool:
    """Whether each of its rows is a tenant's, or of all tenants."""
    return key_of(table) is not None or part_of(table) is not None
