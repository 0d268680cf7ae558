"""Lets other processes of this machine use the memory backplane of this one, over a socket that
joins the two: each is a node beside this process's own.

A frame is its length (4 bytes, big-endian) and MessagePack. A request is ``[number, method, args,
named]``, with the arguments of that method of a backplane; its answer ``[number, value]`` or
``[number, None, error, message]``. What a node listens to comes as ``[0, kind, args]``. Requests
are answered in their order, but for ``dequeue``, which waits; ``[number, "cancel", [], {}]`` ends
that wait.

Both sides are of one program and trust each other.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from hub.backplane.interface import Lease, LeaseLost
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.telemetry.logs import log

MOST_WAITING: Final = 16 * 1024 * 1024
"""Bytes that wait to be read by a node: one that lets more come together of what it listens to is
left.
"""

ENTRY: Final = "entry"
WHISPER: Final = "whisper"
CONTROL: Final = "control"
LEASE_LOST: Final = "lease_lost"
INVALID: Final = "invalid"
FAILED: Final = "failed"

_LENGTH: Final = 4


def framed(message: Any) -> bytes:
    """The frame of a message."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


async def read_frame(reader: asyncio.StreamReader) -> list[Any] | None:
    """The next message; None when the other side has ended."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        message: list[Any] = msgspec.msgpack.decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


class MemoryServer:
    """Serves what ``shared`` holds. ``await close()`` when no more is to be served."""

    def __init__(self, shared: MemoryShared) -> None:
        self._shared = shared
        self._nodes: set[asyncio.Task[None]] = set()

    def admit(self, joint: socket.socket) -> None:
        """Serve who has the other end of this socket, which does not block, until it is closed."""
        task = asyncio.create_task(self._serve(joint), name="a node on this memory")
        self._nodes.add(task)
        task.add_done_callback(self._nodes.discard)

    async def close(self) -> None:
        """Leave those that are still here."""
        for task in tuple(self._nodes):
            task.cancel()
        if self._nodes:
            await asyncio.wait(self._nodes)

    async def _serve(self, joint: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=joint)
        node = _Node(MemoryBackplane(self._shared), writer)
        try:
            while (request := await read_frame(reader)) is not None:
                await node.answer(*request)
                await writer.drain()  # who asks for much reads it before more is read of them
        except ConnectionError:
            log.debug("a node was gone before it was answered")
        finally:
            writer.close()
            await node.close()


class _Node:
    """A node that is another process. Its waits in a queue are tasks, by the request's number."""

    def __init__(self, backplane: MemoryBackplane, writer: asyncio.StreamWriter) -> None:
        self._backplane = backplane
        self._writer = writer
        self._waits: dict[int, asyncio.Task[str | None]] = {}

    async def close(self) -> None:
        await self._backplane.close()
        waits = tuple(self._waits.values())
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def answer(
        self, number: int, method: str, args: list[Any], named: dict[str, Any]
    ) -> None:
        if method == "cancel":
            if (wait := self._waits.get(number)) is not None:
                wait.cancel()
        elif method == "dequeue":
            wait = asyncio.create_task(self._backplane.dequeue(*args))
            self._waits[number] = wait
            wait.add_done_callback(partial(self._waited, number))
        else:
            try:
                value = await self._call(method, args, named)
            except LeaseLost as lost:
                self._write([number, None, LEASE_LOST, str(lost)])
            except ValueError as error:
                self._write([number, None, INVALID, str(error)])
            except Exception:  # it costs who asked their answer, and not the node
                log.exception("a request of another process failed", method=method)
                self._write([number, None, FAILED, method])
            else:
                self._write([number, value])

    async def _call(self, method: str, args: list[Any], named: dict[str, Any]) -> Any:
        backplane = self._backplane
        if method == "subscribe":
            return await backplane.subscribe(args[0], partial(self._push, ENTRY))
        if method == "overhear":
            return await backplane.overhear(args[0], partial(self._push, WHISPER))
        if method == "listen":
            return await backplane.listen(args[0], partial(self._push, CONTROL, args[0]))
        if method in ("renew", "release"):
            args[0] = Lease(*args[0])
        elif named.get("lease") is not None:
            named["lease"] = Lease(*named["lease"])
        call: Callable[..., Any] = getattr(backplane, method)
        return await call(*args, **named)

    def _waited(self, number: int, wait: "asyncio.Task[str | None]") -> None:
        del self._waits[number]
        self._write([number, None if wait.cancelled() else wait.result()])

    def _push(self, kind: str, *args: Any) -> None:
        transport = self._writer.transport
        if transport.get_write_buffer_size() > MOST_WAITING and not transport.is_closing():
            log.error("a process does not read what it listens to; it is left")
            transport.abort()
        self._write([0, kind, args])

    def _write(self, message: list[Any]) -> None:
        if not self._writer.transport.is_closing():
            self._writer.write(framed(message))
