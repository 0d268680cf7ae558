"""One Redis server, and the connection on which commands go to it in pipelines.

What one loop turn asks of a server goes out as one write. One pipeline is in flight at a time,
and what is asked meanwhile is the next one, so that order is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from hub.backplane.redis_scripts import Script
from hub.faults import Fault

ANSWER_S = 2.0
"""A server that has not answered a pipeline by then is away."""
PIPELINE = 512
"""Commands in one pipeline at most, so that its answers come well within ``ANSWER_S``."""

Address = tuple[str, int]


class Call:
    """A command on its way, and the future of its answer.

    ``args`` from index ``stamp`` on are filled in when it is sent: the run id of the server, and
    what ``number`` answers. A call keeps its number for as long as it may have been executed; one
    that may have been is sent again only if ``again``.
    """

    __slots__ = (
        "again", "args", "asking", "future", "number", "partition", "script", "sent", "stamp",
        "tries", "unsure",
    )  # fmt: skip

    def __init__(
        self,
        partition: int,
        args: list[Any],
        *,
        script: Script | None = None,
        stamp: int = 0,
        number: Callable[[], tuple[int, int]] | None = None,
        again: bool = True,
    ) -> None:
        self.partition = partition
        self.args = args
        self.script = script
        self.stamp = stamp
        self.number = number
        self.again = again
        self.asking = False
        self.sent = False
        self.unsure = False
        self.tries = 0
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def pack(self, run: str) -> bytes:
        """The bytes to send to this run of a server."""
        if self.stamp:
            self.args[self.stamp] = run
            if self.number is not None and not self.sent:
                self.args[self.stamp + 1], self.args[self.stamp + 2] = self.number()
        self.sent = True
        return pack(*self.args)

    def refused(self) -> None:
        """It was certainly not executed this time."""
        self.sent = self.unsure

    def answer(self, reply: Any) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, cause: BaseException) -> None:
        """Raise ``backend_unavailable`` to the caller, because of ``cause``."""
        if not self.future.done():
            self.future.set_exception(away(cause))


Redirect = tuple[Call, ResponseError]


def pack(*args: Any) -> bytes:
    """A command as it is sent."""
    packed: bytes = hiredis.pack_command(args)
    return packed


def away(cause: BaseException | None = None) -> Fault:
    """The fault of a Redis that does not do its part."""
    fault = Fault("backend_unavailable", "Redis is not available now.")
    fault.__cause__ = cause
    return fault


@dataclass(frozen=True, slots=True)
class Link:
    """An open connection, the id of this run of the server, and its version."""

    connection: AbstractConnection
    run: str
    version: str

    async def ask(self, *args: Any) -> Any:
        """Send one command and read its answer."""
        await self.connection.send_packed_command(pack(*args))
        return await self.connection.read_response(disable_decoding=True)

    async def close(self) -> None:
        await self.connection.disconnect(nowait=True)


class Server:
    """A Redis server. ``connect`` makes a connection that is not open yet, ``redirected`` is
    given calls that belong to another server, and ``troubled`` is told that this one is away.
    """

    def __init__(
        self,
        address: Address,
        connect: Callable[[Address], AbstractConnection],
        redirected: Callable[["Server", list[Redirect]], Awaitable[None]],
        troubled: Callable[[], None],
    ) -> None:
        self.address = address
        self.waiting: list[Call] = []
        self._connect = connect
        self._redirected = redirected
        self._troubled = troubled
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def idle(self) -> bool:
        """Whether nothing is asked of it now."""
        return self._task is None and not self.waiting

    def call(self, call: Call) -> None:
        """Send a call with the others of this loop turn. Its future is done within 5 s."""
        if self.closed:
            call.fail(ConnectionError("closed"))
            return
        self.waiting.append(call)
        self.flush()

    def flush(self) -> None:
        """See that what waits is sent."""
        if self._task is None and self.waiting:
            self._task = asyncio.create_task(self._flush())

    async def close(self) -> None:
        """Close the connection; what waits fails."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def open(self) -> Link:
        """A connection of one's own. Raises RedisError, OSError or TimeoutError, the last within
        ``ANSWER_S``.
        """
        connection = self._connect(self.address)
        try:
            async with asyncio.timeout(ANSWER_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                run, version = await _identify(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return Link(connection, run, version)

    async def _flush(self) -> None:
        batch: list[Call] = []
        try:
            while self.waiting:
                batch = self.waiting[:PIPELINE]
                del self.waiting[:PIPELINE]
                await self._round(batch)
        except BaseException as error:
            self._fail(batch, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._task = None

    async def _round(self, batch: list[Call]) -> None:
        """Send a batch and answer it; once again if the connection broke."""
        for last in (False, True):
            try:
                async with asyncio.timeout(ANSWER_S):
                    redirects = await self._exchange(batch)
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                if self._link is not None:
                    await self._link.close()
                    self._link = None
                if last or isinstance(error, TimeoutError | RedisTimeoutError):
                    self._fail(batch, error)
                    self._troubled()
                    return
                for call in batch:
                    call.unsure = call.sent
                    if call.unsure and not call.again:
                        call.fail(error)
                batch = [call for call in batch if not call.future.done()]
                if not batch:
                    return
            else:
                if redirects:
                    await self._redirected(self, redirects)
                return

    def _fail(self, batch: list[Call], error: BaseException) -> None:
        # What waited behind the batch would only find out the same, later.
        for call in (*batch, *self.waiting):
            call.fail(error)
        self.waiting.clear()

    async def _exchange(self, batch: list[Call]) -> list[Redirect]:
        link = self._link
        if link is None:
            link = self._link = await self.open()
        packed: list[bytes] = []
        for call in batch:
            if call.asking:
                packed.append(pack("ASKING"))
            packed.append(call.pack(link.run))
        connection = link.connection
        await connection.send_packed_command(b"".join(packed), check_health=False)
        redirects: list[Redirect] = []
        unknown: list[Call] = []
        for call in batch:
            try:
                if call.asking:
                    await connection.read_response()
                    call.asking = False
                reply = await connection.read_response(disable_decoding=True)
            except NoScriptError:
                call.refused()
                unknown.append(call)
            except (AskError, TryAgainError) as error:  # MovedError is an AskError
                call.refused()
                redirects.append((call, error))
            except ResponseError as error:
                call.fail(error)
            else:
                call.answer(reply)
        if unknown:
            for script in {call.script for call in unknown if call.script is not None}:
                await link.ask("SCRIPT", "LOAD", script.text)
            redirects += await self._exchange(unknown)
        return redirects


async def _identify(connection: AbstractConnection) -> tuple[str, str]:
    """The id of this run of the server, which a restart or a failover changes, and its version."""
    await connection.send_packed_command(pack("INFO", "server"))
    try:
        text = (await connection.read_response(disable_decoding=True)).decode()
    except NoPermissionError:
        return "", ""
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return info.get("run_id", ""), info.get("redis_version", "")
