"""The schema and its revisions (``migrations/``), driven by Alembic in process, without a file of
settings.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from hub.settings import BadSettings
from hub.storage import postgres, role_states, sqlite, tables, walls

METADATA: Final = SQLModel.metadata
_OURS: Final = tables.__name__  # imported so that the metadata is whole

_LOCK: Final = 0x687562  # "hub": the key of the advisory lock, the same on every node


def upgrade(url: URL) -> None:
    """Bring the database to the newest revision, in one transaction, make the triggers that it
    lacks, and raise the walls between tenants around every table that has none yet (PostgreSQL).

    Blocks, with an event loop of its own: call it on a thread. Nodes that start at once take turns.
    Raises BadSettings when the database is at a revision that this hub does not know.
    """
    asyncio.run(_upgrade(url))


def is_newest(connection: Connection) -> bool | None:
    """Whether the database is at the newest revision; None when it is at none yet.

    Raises BadSettings when it is at a revision that this hub does not know.
    """
    at = MigrationContext.configure(connection).get_current_heads()
    scripts = ScriptDirectory.from_config(_config())
    if not {script.revision for script in scripts.walk_revisions()}.issuperset(at):
        raise _unknown(at)
    return at == tuple(scripts.get_heads()) if at else None


def differences(connection: Connection) -> list[Any]:
    """What a revision would still have to change for the database to be as the tables say."""
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, METADATA))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, poolclass=NullPool, connect_args={"timeout": 5.0})

    def connect(*_: object, **__: object) -> sqlite.Connection:
        assert url.database is not None
        return sqlite.Connection(url.database, writes=True)

    engine = create_async_engine(
        url, poolclass=NullPool, connect_args={"async_creator_fn": connect}
    )
    sqlite.begin_with_the_first_statement(engine.sync_engine)
    return engine


async def _upgrade(url: URL) -> None:
    engine = _engine(url)
    try:
        async with engine.begin() as connection:
            # SQLite's BEGIN IMMEDIATE is its lock.
            if engine.dialect.name == "postgresql":
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                # What a revision does to rows, it does to every tenant's.
                await connection.execute(
                    text("SELECT set_config(:name, :value, true)"),
                    {"name": postgres.SETTING, "value": postgres.EVERYONES},
                )
            await connection.run_sync(_run)
            await connection.run_sync(role_states.raise_triggers)
            if engine.dialect.name == "postgresql":
                await connection.run_sync(walls.raise_walls, METADATA)
    finally:
        await engine.dispose()


def _run(connection: Connection) -> None:
    config = _config()
    at = MigrationContext.configure(connection).get_current_heads()
    if at == tuple(ScriptDirectory.from_config(config).get_heads()):
        return
    config.attributes["connection"] = connection
    if connection.dialect.name == "sqlite":
        # It renames no table while a trigger speaks of one that is being rebuilt.
        role_states.take_down_triggers(connection)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise _unknown(at) from error


def _unknown(at: tuple[str, ...]) -> BadSettings:
    return BadSettings(
        f"HUB_DATABASE_URL: the database is at a revision that this version of the hub does "
        f"not know ({', '.join(at)}); use the newer hub"
    )
