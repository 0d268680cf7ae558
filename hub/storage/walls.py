"""The second wall: PostgreSQL's row-level security, below every statement that the hub makes.

The tenant scope (``hub.storage.scope``) keeps statements inside their tenant. Should one ever go
round it, the database itself shows no row of another tenant: every table that has a ``tenant_id``
has a policy on the setting ``hub.tenant``, which a transaction gets as it begins. Without it
nothing is seen. FORCE holds the tables' owner to it too; only a superuser and a role with BYPASSRLS
pass. References and unique constraints are checked beyond the walls.

Rows whose ``tenant_id`` is null are everybody's to read. ``tenants`` itself has its wall by ``id``.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, MetaData, Table, text

from hub.storage.postgres import EVERYONES, SETTING

POLICY: Final = "hub_tenant_1"
"""The name ends with the version of its terms: another one replaces it."""
SHARED: Final = "hub_shared_1"

# The subselects are evaluated once for a statement, and not once for a row.
_MINE: Final = (
    "({column} = (SELECT current_setting('{setting}', true))"
    " OR (SELECT current_setting('{setting}', true)) = '{everyones}')"
)


def key_of(table: Table) -> str | None:
    """The column that says whose the rows of a table are; None if they are no tenant's."""
    if "tenant_id" in table.columns:
        return "tenant_id"
    return "id" if table.name == "tenants" else None


def walled(metadata: MetaData) -> Iterator[Table]:
    """The tables whose rows are a tenant's."""
    return (table for table in metadata.sorted_tables if key_of(table) is not None)


def gaps(connection: Connection, metadata: MetaData) -> list[str]:
    """The tables that should have a wall and have none, or one on other terms; by name."""
    found = connection.execute(
        text(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,"
            " array(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid"
            "  AND polname LIKE 'hub~_%' ESCAPE '~')"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')"
        )
    )
    as_is = {name: (forced, sorted(policies)) for name, forced, policies in found}
    return [
        table.name
        for table in walled(metadata)
        if as_is.get(table.name) != (True, sorted(_policies(table)))
    ]


def raise_walls(connection: Connection, metadata: MetaData) -> None:
    """Give every table that lacks it its wall. Raises ProgrammingError when the tables are not
    this role's own.
    """
    missing = set(gaps(connection, metadata))
    for table in walled(metadata):
        if table.name in missing:
            for statement in _statements(connection, table):
                connection.execute(text(statement))


def passes(connection: Connection) -> str | None:
    """Why the walls do not hold this connection's role; None when they do."""
    superuser, bypasses = connection.execute(
        text("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    ).one()
    if superuser:
        return "is a superuser"
    return "has BYPASSRLS" if bypasses else None


def _policies(table: Table) -> dict[str, str]:
    key = key_of(table)
    assert key is not None
    mine = _MINE.format(column=key, setting=SETTING, everyones=EVERYONES)
    policies = {POLICY: f"FOR ALL USING {mine} WITH CHECK {mine}"}
    if table.columns[key].nullable:
        policies[SHARED] = f"FOR SELECT USING ({key} IS NULL)"
    return policies


def _statements(connection: Connection, table: Table) -> Iterator[str]:
    name = connection.dialect.identifier_preparer.format_table(table)
    there = connection.execute(
        text("SELECT polname FROM pg_policy WHERE polrelid = to_regclass(:name)"), {"name": name}
    )
    for policy in there.scalars().all():
        if policy.startswith("hub_"):
            yield f'DROP POLICY "{policy}" ON {name}'
    for policy, terms in _policies(table).items():
        yield f"CREATE POLICY {policy} ON {name} {terms}"
    yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
