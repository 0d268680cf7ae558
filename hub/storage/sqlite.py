"""SQLite as the embedded database: one thread hop per statement, not four.

aiosqlite passes each call to the connection's thread and back: making a cursor, executing,
fetching and closing are four hops for one statement. Here the statement travels alone and comes
back with its rows; ``BEGIN`` rides along with the first one, and the ``ROLLBACK`` that ends a read
is sent without waiting for it. A small write transaction costs a third of what it did.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import aiosqlite
from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection as EngineConnection

PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # In WAL mode NORMAL survives the death of the process; FULL is for the loss of power, at an
    # fsync for each transaction.
    "PRAGMA synchronous=NORMAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
)


class WholeStatement:
    """A cursor whose ``execute`` brings everything back at once: description, rows, counts."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rows: Sequence[Any] = ()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Self:
        await self._connection.travel(self._execute, sql, () if parameters is None else parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        await self._connection.travel(self._executemany, sql, parameters)
        return self

    async def fetchall(self) -> Sequence[Any]:
        rows, self._rows = self._rows, ()
        return rows

    async def close(self) -> None:
        self._rows = ()

    def _execute(self, connection: sqlite3.Connection, sql: str, parameters: Any) -> None:
        cursor = connection.execute(sql, parameters)
        self.description = cursor.description
        if cursor.description:
            self._rows = cursor.fetchall()
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        cursor.close()

    def _executemany(self, connection: sqlite3.Connection, sql: str, parameters: Any) -> None:
        cursor = connection.executemany(sql, parameters)
        self.rowcount = cursor.rowcount
        cursor.close()


class Connection(aiosqlite.Connection):
    """An aiosqlite connection whose cursors are ``WholeStatement`` and whose transactions begin
    with their first statement: ``BEGIN IMMEDIATE`` if it writes, ``BEGIN`` if it only reads.
    """

    def __init__(self, path: str, *, writes: bool) -> None:
        super().__init__(partial(_connect, path, writes=writes), iter_chunk_size=64)
        self._thread.daemon = True
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._writes = writes
        self._pending = False
        self._stopped: asyncio.Future[Any] | None = None

    async def _connect(self) -> Self:
        try:
            await super()._connect()
        except BaseException:
            # It has told its thread to end; the loop must not close before the thread did.
            if self._stopped is not None:
                await self._stopped
            raise
        return self

    def stop(self) -> "asyncio.Future[Any] | None":
        self._stopped = super().stop()
        return self._stopped

    def begin(self) -> None:
        """Begin a transaction with the next statement."""
        self._pending = True

    async def travel(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do ``work(connection, *arguments)`` on the connection's thread."""
        begin, self._pending = self._pending, False
        await self._send(partial(self._travel, begin, work, arguments))

    def _travel(self, begin: bool, work: Callable[..., None], arguments: Sequence[Any]) -> None:
        if begin:
            self._conn.execute(self._begin)
        work(self._conn, *arguments)

    def cursor(self) -> WholeStatement:  # type: ignore[override]
        return WholeStatement(self)

    async def commit(self) -> None:
        if self._pending:
            self._pending = False
        elif self._writes:
            await self._send(self._conn.commit)
        else:
            self._end_read()

    async def rollback(self) -> None:
        if self._pending:
            self._pending = False
        elif self._writes:
            await self._send(self._conn.rollback)
        else:
            self._end_read()

    def _end_read(self) -> None:
        # The thread works in order, so the next statement of this connection finds it done.
        self._send(self._conn.rollback).add_done_callback(_retrieve)

    def _send(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        if not self._running or not self._connection:
            raise ValueError("Connection closed")
        done = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, work))
        return done


def _retrieve(done: "asyncio.Future[Any]") -> None:
    if not done.cancelled():
        done.exception()


def _connect(path: str, *, writes: bool) -> sqlite3.Connection:
    # isolation_level None: this module begins transactions itself. The default would begin them
    # late and not IMMEDIATE, so that two writers that both read first would fail with "locked".
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
        if not writes:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def begin_with_the_first_statement(engine: Engine) -> None:
    """Make SQLAlchemy's begin on this engine mean ours."""

    @event.listens_for(engine, "begin")
    def begin(connection: EngineConnection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, Connection)
        driver.begin()
