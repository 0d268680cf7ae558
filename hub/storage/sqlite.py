"""SQLite as the embedded database: statements run in the event loop's own thread.

A statement of the hub takes SQLite some tens of microseconds; handing it to another thread and back
takes longer than that, and more processor time. So it is done at once, except for what can truly
wait: the lock of another process's transaction (``BEGIN`` finds it, and then waits on aiosqlite's
thread) and the disk (checkpoints, on that thread too, are taken out of the commits). A small write
transaction costs a fifth of what it did.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import Any, Final, Self

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
LOCK_WAIT_MS = 5_000
"""How long a transaction waits for another process that writes."""
TURN_S = 0.0005
"""How long a transaction keeps the event loop to itself: a statement that would begin later than
this waits until all others have had their turn, as it would with a database that is asked over a
network. Signing in is some ten statements, and 5 ms in which no socket would get anything.
"""
TURNS: Final = 4
"""How many turns of the loop it waits then: as many as an event takes from its append to the
sockets, or it would wait for a statement in each of them.
"""
CHECKPOINT_COMMITS = 500
"""Commits after which the write-ahead log is brought into the database, beside the others."""


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
        self._path = path
        self._pending = False
        self._commits = 0
        self._since = 0.0
        self._waiting: asyncio.Future[Any] | None = None
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
        """Do ``work(connection, *arguments)``: at once, or on the thread when a lock is awaited."""
        begin, self._pending = self._pending, False
        if begin:
            self._since = perf_counter()
        elif perf_counter() - self._since > TURN_S:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self._since = perf_counter()
        try:
            self._do(begin, work, arguments)
        except sqlite3.OperationalError as error:
            # Once a transaction has its first statement behind it, it has its locks.
            if not begin or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            self._conn.rollback()
            self._waiting = self._send(partial(self._do_patiently, work, arguments))
            # Shielded: the thread goes on when the caller is cancelled, and must be known to.
            await asyncio.shield(self._waiting)

    def _do(self, begin: bool, work: Callable[..., None], arguments: Sequence[Any]) -> None:
        if begin:
            self._conn.execute(self._begin)
        work(self._conn, *arguments)

    def _do_patiently(self, work: Callable[..., None], arguments: Sequence[Any]) -> None:
        self._conn.execute(f"PRAGMA busy_timeout={LOCK_WAIT_MS}")
        try:
            self._do(True, work, arguments)
        finally:
            self._conn.execute("PRAGMA busy_timeout=0")

    def cursor(self) -> WholeStatement:  # type: ignore[override]
        return WholeStatement(self)

    async def commit(self) -> None:
        await self._end(self._conn.commit)
        if self._writes:
            self._commits += 1
            if self._commits % CHECKPOINT_COMMITS == 0:
                self._send(self._checkpoint).add_done_callback(_retrieve)

    async def rollback(self) -> None:
        await self._end(self._conn.rollback)

    async def _end(self, end: Callable[[], None]) -> None:
        if self._pending:
            self._pending = False
        elif self._waiting is not None and not self._waiting.done():
            # A cancelled caller has left its statement waiting for a lock. The thread works in
            # order, so this comes after it.
            await self._send(end)
        else:
            end()

    def _checkpoint(self) -> None:
        # On a connection of its own: ours may be in a transaction. PASSIVE does the work beside
        # the writers; RESTART then keeps them off for the moment that it takes to begin the log
        # anew, which would never come by itself under a steady load.
        with closing(sqlite3.connect(self._path, timeout=1, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            connection.execute("PRAGMA wal_checkpoint(RESTART)")

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
        # Nothing waits in the loop's thread: not for a lock, and not for the disk.
        connection.execute("PRAGMA busy_timeout=0")
        connection.execute("PRAGMA wal_autocheckpoint=0")
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
