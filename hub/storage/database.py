"""The database: one way in for reading, one for writing, each inside a tenant.

``async with database.read(tenant_id) as session`` and ``database.write(tenant_id)`` give a
sqlmodel ``AsyncSession`` that sees that tenant only (``hub.storage.scope``). ``write`` is one
transaction: it commits at the end of the block and rolls back when the block raises.

SQLite (WAL) has one writing connection, on which writers take turns in the order they came, and a
few reading ones. Who waits longer than 5 s for a connection is told that the database is busy.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.settings import BadSettings
from hub.storage import postgres, sqlite, walls
from hub.storage.schema import METADATA, is_newest, upgrade
from hub.storage.scope import EVERY_TENANT, Scope, ScopedSession

PING_S: Final = 2.0
CONNECT_S: Final = 5.0
STATEMENT_S: Final = 10.0
RECYCLE_S: Final = 1_800

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}

# The primary codes of sqlite.org/rescode.html that speak of the machine and not of the statement.
_SQLITE_AWAY: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
}
# Classes of SQLSTATE (PostgreSQL, appendix A): connection, authorisation, rollback (deadlock,
# serialisation), resources (disk full, connections), intervention (shutdown, cancel), system.
_POSTGRES_AWAY: Final = ("08", "28", "40", "53", "57", "58", "55P03", "25006")


class Database:
    """The hub's durable rows. ``await start()``, ``await migrate()`` … ``await close()``.

    Whatever is done in ``read`` and ``write`` raises Fault("backend_unavailable") when the database
    cannot be reached, is locked or full, and sqlalchemy's IntegrityError for a row that clashes.
    """

    def __init__(self, url: str) -> None:
        """``url``: SQLite or PostgreSQL, as SQLAlchemy writes it. Raises BadSettings for others."""
        self.url: Final = _understood(url)
        self.embedded: Final = self.url.get_backend_name() == "sqlite"
        self._listeners: list[Callable[[Mapping[Any, Any]], None]] = []
        if self.embedded:
            self._reader = _sqlite_engine(self.url, writes=False)
            self._writer = _sqlite_engine(self.url, writes=True)
        else:
            self._reader = self._writer = create_async_engine(
                self.url,
                hide_parameters=True,  # they are what people write, and errors are logged
                pool_size=10,
                max_overflow=10,
                # The one that was used last: each remembers the statements that it has prepared.
                pool_use_lifo=True,
                pool_recycle=RECYCLE_S,  # before what lies between cuts those that lie idle
                pool_timeout=CONNECT_S,
                connect_args={
                    "timeout": CONNECT_S,
                    "command_timeout": STATEMENT_S,
                    "connection_class": postgres.Connection,
                },
            )

    @property
    def file(self) -> Path | None:
        """The file of an embedded database."""
        return Path(self.url.database) if self.embedded and self.url.database else None

    async def start(self) -> None:
        """Make the directory of an embedded database, and connect.

        Raises Fault("backend_unavailable"), which names the setting and the place, for an operator.
        """
        try:
            if self.file is not None:
                async with _faults():
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    # The writer makes the file and sets WAL before a reader opens it.
                    async with self._writer.connect():
                        pass
            await self.ping()
        except Fault as fault:
            raise Fault(
                "backend_unavailable", f"HUB_DATABASE_URL: {self._missed(fault)}"
            ) from fault

    def _missed(self, fault: Fault) -> str:
        place = self.file or f"{self.url.host or 'localhost'}:{self.url.port or 5432}"
        cause: BaseException = fault
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = "no answer" if cause is fault else str(cause) or type(cause).__name__
        return f"the database at {place} cannot be used: {why}"

    async def migrate(self) -> None:
        """Bring the schema to the newest revision. Several nodes may do this at once.

        Raises BadSettings when a newer hub has been at the database, Fault("backend_unavailable").
        """
        async with _faults():
            await asyncio.to_thread(upgrade, self.url)

    async def migrated(self) -> bool | None:
        """Whether the schema is at the newest revision; None when there is no schema yet.

        Changes nothing. Raises as ``migrate`` does.
        """
        async with _faults(), self._reader.connect() as connection:
            return await connection.run_sync(is_newest)

    async def unwalled(self, *, migrated: bool = True) -> str | None:
        """Why the database's own walls between tenants (``hub.storage.walls``) do not hold: a
        clause of which the hub's role is the subject. None when they do, and for SQLite, which has
        none. Before it is ``migrated`` the role alone is looked at. Raises
        Fault("backend_unavailable").
        """
        if self.embedded:
            return None
        async with _faults(), self._reader.connect() as connection:
            why = await connection.run_sync(walls.passes)
            open_tables = await connection.run_sync(walls.gaps, METADATA) if migrated else []
        return why or (f"finds none around {', '.join(open_tables)}" if open_tables else None)

    async def ping(self) -> None:
        """Raise Fault("backend_unavailable") within 2 s unless the database answers."""
        asking = asyncio.create_task(self._ask())
        # Not wait_for: it would wait for the clean-up of a connection that does not answer.
        done, _ = await asyncio.wait({asking}, timeout=PING_S)
        if not done:
            asking.cancel()
            asking.add_done_callback(_forget)
            raise Fault("backend_unavailable", "The database does not answer.")
        await asking

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        for engine in {self._reader, self._writer}:
            await engine.dispose()

    @asynccontextmanager
    async def read(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """A session that reads rows of the scope and cannot write."""
        async with _faults(), _session(self._reader, scope, writes=False) as session:
            yield session

    @asynccontextmanager
    async def write(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """One transaction that reads and writes rows of the scope."""
        async with _faults(), _session(self._writer, scope, writes=True) as session:
            yield session
            await session.commit()
        for told in self._listeners:
            told(session.info)

    def on_commit(self, listener: Callable[[Mapping[Any, Any]], None]) -> None:
        """Call ``listener(session.info)`` after each ``write``; it must not block or raise."""
        self._listeners.append(listener)

    async def _ask(self) -> None:
        async with self.read(EVERY_TENANT) as session:
            await session.exec(select(1))


def _session(
    engine: AsyncEngine, scope: Scope, *, writes: bool
) -> AbstractAsyncContextManager[AsyncSession]:
    session = AsyncSession(
        engine, sync_session_class=ScopedSession, expire_on_commit=False, autoflush=writes
    )
    assert isinstance(session.sync_session, ScopedSession)
    session.sync_session.scope = scope
    session.sync_session.writes = writes
    return session


def _sqlite_engine(url: URL, *, writes: bool) -> AsyncEngine:
    path = url.database
    assert path is not None

    def connect(*_: object, **__: object) -> sqlite.Connection:
        return sqlite.Connection(path, writes=writes)

    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=1 if writes else 4,
        max_overflow=0,
        pool_timeout=CONNECT_S,
        connect_args={"async_creator_fn": connect},
    )
    sqlite.begin_with_the_first_statement(engine.sync_engine)
    return engine


def _understood(given: str) -> URL:
    try:
        url = make_url(given)
    except ArgumentError:
        raise BadSettings("HUB_DATABASE_URL: not a database URL") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise BadSettings(
            f"HUB_DATABASE_URL: {url.drivername} is not supported; "
            "use postgresql+asyncpg://… or sqlite+aiosqlite:///…"
        )
    if driver.startswith("sqlite") and url.database in {None, "", ":memory:"}:
        raise BadSettings("HUB_DATABASE_URL: SQLite needs a file, sqlite+aiosqlite:////path/hub.db")
    return url.set(drivername=driver)


@asynccontextmanager
async def _faults() -> AsyncIterator[None]:
    try:
        yield
    except (DBAPIError, UnicodeEncodeError) as error:
        if _is_text_it_cannot_hold(error):
            message = "Text must not hold U+0000 or lone surrogates."
            raise Fault("invalid_params", message) from error
        if not is_away(error):
            raise
        raise _away() from error
    except (PoolTimeout, OSError, TimeoutError, sqlite3.OperationalError) as error:
        raise _away() from error


def _is_text_it_cannot_hold(error: BaseException | None) -> bool:
    # U+0000 is refused by PostgreSQL alone; asyncpg wraps the codec's error.
    while error is not None:
        if isinstance(error, UnicodeEncodeError) or getattr(error, "sqlstate", None) == "22021":
            return True
        error = error.__cause__
    return False


def is_away(error: DBAPIError | UnicodeEncodeError) -> bool:
    """Whether the database cannot be used now, rather than that it does not like the statement."""
    if isinstance(error, UnicodeEncodeError):
        return False
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in _SQLITE_AWAY
    state = getattr(error.orig, "sqlstate", None)
    return state is not None and str(state).startswith(_POSTGRES_AWAY)


def _away() -> Fault:
    # The cause stays in the traceback: it can hold a path or a host.
    return Fault("backend_unavailable", "The database cannot be used now; try again.")


def _forget(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()
