"""The second wall: PostgreSQL's row-level security, below every statement that the hub makes.

The tenant scope (``hub.storage.scope``) keeps statements inside their tenant. Should one ever go
round it, the database itself shows no row of another tenant: every table whose rows are a tenant's
(``hub.storage.ownership``) has a policy on the setting ``hub.tenant``, which a transaction gets as
it begins. Without it nothing is seen. FORCE holds the tables' owner to it too; only a superuser and
a role with BYPASSRLS pass. References and unique constraints are checked beyond the walls.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, MetaData, Table, text

from hub.storage.ownership import SHARED, is_owned, key_of, part_of
from hub.storage.postgres import EVERYONES, SETTING

POLICY: Final = "hub_tenant_1"
"""The name ends with the version of its terms: another one replaces it."""
READING: Final = "hub_shared_2"

ROLE: Final = "Use a role without SUPERUSER and BYPASSRLS that owns the tables"
"""What is to be done about a role that passes."""

# A subselect is evaluated once for a statement, and not once for a row.
_TENANT: Final = f"(SELECT current_setting('{SETTING}', true))"
_EVERYONES: Final = f"{_TENANT} = '{EVERYONES}'"


def walled(metadata: MetaData) -> Iterator[Table]:
    """The tables whose rows are a tenant's."""
    return (table for table in metadata.sorted_tables if is_owned(table))


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
    key, part = key_of(table), part_of(table)
    if part is None:
        whole = table
        mine, shared = f"{key} = {_TENANT} OR {_EVERYONES}", f"{key} IS NULL AND {_TENANT} <> ''"
    else:
        whole = part.column.table
        there = f"{part.parent.name} IN (SELECT {part.column.name} FROM {whole.name}"  # noqa: S608
        # Where the rows are everyone's anyway, the whole is not looked for.
        mine = f"{_EVERYONES} OR {there} WHERE {key_of(whole)} = {_TENANT})"
        # Of the whole those rows are found that its own walls show.
        shared = f"{_TENANT} NOT IN ('', '{EVERYONES}') AND {there})"
    mine = f"({mine})"
    policies = {POLICY: f"FOR ALL USING {mine} WITH CHECK {mine}"}
    if whole.name in SHARED:
        policies[READING] = f"FOR SELECT USING ({shared})"
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
