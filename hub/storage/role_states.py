"""The names of the states of roles: the database itself gives a tenant's roles another name with
every change of one of them, and no name comes twice.

So what was made of the roles is true as long as it is looked for by their name, also in a database
that was restored to before a change. That holds for every way to write a role's rows, an operator's
SQL included, since triggers do it, in the transaction that writes. It holds the row with the name
until it ends, so that of two that write the roles of a tenant at once each leaves a name of its
own. Who writes roles has the tenant's row first (``hub.identity.access.owners``), then theirs, and
then this one.

The triggers are no part of a revision, but looked for whenever a hub starts, as the walls are: one
that rebuilds a table of SQLite loses those that are on it. Who finds that one was missing or off
names everything anew, for nobody knows what was written meanwhile.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from hub.storage.postgres import EVERYONES, SETTING
from hub.storage.tables.access import BUILT_INS

_PREFIX: Final = "hub_role_state_"
_OURS: Final = f"{_PREFIX}1_"
"""How triggers and functions are called; it ends with the version of what they do."""
_RANDOM: Final = {
    "sqlite": "lower(hex(randomblob(16)))",
    "postgresql": "gen_random_uuid()::text",  # 122 bits
}
# Whose a row of these tables is. Of a permission whose role is gone that was said as the role went.
_TENANT_OF: Final = {
    "roles": "SELECT {row}.tenant_id AS tenant_id",
    "role_permissions": "SELECT tenant_id FROM roles WHERE id = {row}.role_id",
}
_EVERY_TENANT: Final = "SELECT DISTINCT tenant_id FROM roles"


def raise_triggers(connection: Connection) -> None:
    """Make the triggers, unless all are there and at work. On PostgreSQL in a transaction of
    everyone's. Raises ProgrammingError when the tables are not this role's own.
    """
    dialect = connection.dialect.name
    wanted = dict(_of_sqlite() if dialect == "sqlite" else _of_postgres())
    if _at_work(connection) == set(wanted):
        return
    take_down_triggers(connection)
    made = list(wanted.values())
    if dialect == "postgresql":
        made = [*_functions(connection), *made]
    anew = f"UPDATE role_states SET state = {_RANDOM[dialect]}"  # noqa: S608
    for statement in (*made, anew, _begin_to_name(dialect, _EVERY_TENANT)):
        connection.execute(text(statement))


def take_down_triggers(connection: Connection) -> None:
    """Leave the tables without any, for what rebuilds them."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB :ours"),
            {"ours": f"{_PREFIX}*"},
        )
        gone = [f'DROP TRIGGER "{name}"' for name in found.scalars()]
    else:
        found = connection.execute(
            text(
                "SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
                " WHERE n.nspname = current_schema() AND starts_with(p.proname, :ours)"
            ),
            {"ours": _PREFIX},
        )
        gone = [f"DROP FUNCTION {name}() CASCADE" for name in found.scalars()]
    for statement in gone:
        connection.execute(text(statement))


def _at_work(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        statement = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        statement = (
            "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = current_schema() AND t.tgenabled IN ('O', 'A')"
        )
    names = connection.execute(text(statement)).scalars()
    return {name for name in names if name.startswith(_PREFIX)}


def _name_anew(dialect: str, tenants: str) -> str:
    """Give the roles of these ``tenants``, a SELECT of ``tenant_id``, another name."""
    return (
        f"UPDATE role_states SET state = {_RANDOM[dialect]} WHERE id IN"  # noqa: S608
        f" (SELECT coalesce(tenant_id, '{BUILT_INS}') FROM ({tenants}) AS role)"
    )


def _begin_to_name(dialect: str, tenants: str) -> str:
    """Give those a name that have none."""
    # SQLite would leave it to the statement that set a trigger off what becomes of a conflict.
    unless = " ON CONFLICT (id) DO NOTHING" if dialect == "postgresql" else ""
    return (
        "INSERT INTO role_states (id, tenant_id, state)"  # noqa: S608
        f" SELECT coalesce(tenant_id, '{BUILT_INS}'), tenant_id, {_RANDOM[dialect]}"
        f" FROM ({tenants}) AS role WHERE NOT EXISTS (SELECT 1 FROM role_states AS known"
        f" WHERE known.id = coalesce(role.tenant_id, '{BUILT_INS}')){unless}"
    )


def _before_and_after(dialect: str, table: str) -> tuple[str, str]:
    """What is done about a row as it was, and as it is."""
    was, is_ = (_TENANT_OF[table].format(row=row) for row in ("OLD", "NEW"))
    now = f"{_begin_to_name(dialect, is_)}; {_name_anew(dialect, is_)};"
    return f"{_name_anew(dialect, was)};", now


def _of_sqlite() -> Iterator[tuple[str, str]]:
    """The triggers by name, and what makes them."""
    for table in _TENANT_OF:
        before, after = _before_and_after("sqlite", table)
        deeds = {"INSERT": after, "UPDATE": f"{before} {after}", "DELETE": before}
        for deed, done in deeds.items():
            name = f"{_OURS}{table}_{deed.lower()}"
            yield name, f'CREATE TRIGGER "{name}" AFTER {deed} ON {table} BEGIN {done} END'
    # REPLACE deletes without a trigger, and the row that it takes may be another tenant's.
    replaced = _name_anew("sqlite", "SELECT tenant_id FROM roles WHERE id = NEW.id")
    for deed in ("INSERT", "UPDATE"):
        name = f"{_OURS}replace_by_{deed.lower()}"
        yield name, f'CREATE TRIGGER "{name}" BEFORE {deed} ON roles BEGIN {replaced}; END'


def _of_postgres() -> Iterator[tuple[str, str]]:
    """The triggers by name, and what makes them."""
    for table in _TENANT_OF:
        name = f"{_OURS}{table}"
        yield (
            name,
            f"CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION {name}()",
        )
        yield (
            f"{name}_truncate",
            f"CREATE TRIGGER {name}_truncate AFTER TRUNCATE ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {_OURS}truncate()",
        )


def _functions(connection: Connection) -> Iterator[str]:
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    made = "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql"
    # Whatever the path of whoever writes, it is this role_states.
    made += f" SET search_path = {schema}, pg_temp AS $$ {{}} $$"
    for table in _TENANT_OF:
        before, after = _before_and_after("postgresql", table)
        yield made.format(
            f"{_OURS}{table}",
            "BEGIN IF TG_OP = 'UPDATE' AND OLD IS NOT DISTINCT FROM NEW THEN RETURN NULL; END IF;"
            f" IF TG_OP <> 'INSERT' THEN {before} END IF;"
            f" IF TG_OP <> 'DELETE' THEN {after} END IF; RETURN NULL; END",
        )
    # The walls let TRUNCATE pass, whoever the transaction is for.
    yield made.format(
        f"{_OURS}truncate",
        f"DECLARE tenant text := coalesce(current_setting('{SETTING}', true), '');"  # noqa: S608
        f" BEGIN PERFORM set_config('{SETTING}', '{EVERYONES}', true);"
        f" UPDATE role_states SET state = {_RANDOM['postgresql']};"
        f" PERFORM set_config('{SETTING}', tenant, true); RETURN NULL; END",
    )
