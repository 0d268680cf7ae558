"""Lets other processes of this machine use the memory backplane of this one, over a socket that
joins the two: each is a node beside this process's own.

A request is ``[number, method, args, named]``, with the arguments of that method of a backplane;
its answer ``[number, value]`` or ``[number, None, error, message]``. What a node listens to comes
as ``[0, kind, args]``. Requests are answered in their order, but for ``dequeue``, which waits;
``[number, "cancel", [], {}]`` ends that wait.

Both sides are of one program and trust each other.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from hub.backplane.frames import Frames
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


class MemoryServer:
    """Serves what ``shared`` holds. ``close`` it when no more is to be served."""

    def __init__(self, shared: MemoryShared) -> None:
        self._shared = shared
        self._nodes: set[_Node] = set()

    def admit(self, joint: socket.socket) -> None:
        """Serve who has the other end of this socket, which does not block, until it is closed."""
        node = _Node(MemoryBackplane(self._shared), joint, self._nodes.discard)
        self._nodes.add(node)

    def close(self) -> None:
        """Leave those that are still here."""
        for node in tuple(self._nodes):
            node.close()


class _Node:
    """A node that is another process. Its waits in a queue are tasks, by the request's number."""

    def __init__(
        self, backplane: MemoryBackplane, joint: socket.socket, left: Callable[["_Node"], None]
    ) -> None:
        self._backplane = backplane
        self._left = left
        self._frames = Frames(joint, self._said, self._lost, waits=True)
        self._waits: dict[int, asyncio.Task[str | None]] = {}
        self._opening = asyncio.create_task(self._frames.open())

    def close(self) -> None:
        self._opening.cancel()
        self._frames.close(at_once=True)

    def _lost(self) -> None:
        _at_once(self._backplane.close())
        for wait in self._waits.values():
            wait.cancel()
        self._left(self)

    def _said(self, message: list[Any]) -> None:
        number, method, args, named = message
        if method == "cancel":
            if (wait := self._waits.get(number)) is not None:
                wait.cancel()
        elif method == "dequeue":
            wait = asyncio.create_task(self._backplane.dequeue(*args))
            self._waits[number] = wait
            wait.add_done_callback(partial(self._waited, number))
        else:
            self._frames.send([number, *self._answer(method, args, named)])

    def _waited(self, number: int, wait: "asyncio.Task[str | None]") -> None:
        del self._waits[number]
        self._frames.send([number, None if wait.cancelled() else wait.result()])

    def _answer(self, method: str, args: list[Any], named: dict[str, Any]) -> list[Any]:
        try:
            return [_at_once(self._call(method, args, named))]
        except LeaseLost as lost:
            return [None, LEASE_LOST, str(lost)]
        except ValueError as error:
            return [None, INVALID, str(error)]
        except Exception:  # it costs who asked their answer, and not the node
            log.exception("a request of another process failed", method=method)
            return [None, FAILED, method]

    def _call(
        self, method: str, args: list[Any], named: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        backplane = self._backplane
        if method == "subscribe":
            return backplane.subscribe(args[0], partial(self._push, ENTRY))
        if method == "overhear":
            return backplane.overhear(args[0], partial(self._push, WHISPER))
        if method == "listen":
            return backplane.listen(args[0], partial(self._push, CONTROL, args[0]))
        if method in ("renew", "release"):
            args[0] = Lease(*args[0])
        elif named.get("lease") is not None:
            named["lease"] = Lease(*named["lease"])
        called: Coroutine[Any, Any, Any] = getattr(backplane, method)(*args, **named)
        return called

    def _push(self, kind: str, *args: Any) -> None:
        if self._frames.unread > MOST_WAITING and self._frames.is_open:
            log.error("a process does not read what it listens to; it is left")
            self._frames.close(at_once=True)
        self._frames.send([0, kind, args])


def _at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """What is answered by a call that does not wait, as none of the memory backplane does."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    call.close()
    raise RuntimeError("it waited")
