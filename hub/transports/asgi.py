"""The way from an outbox to the network on any ASGI server, where ours (``wire``) is not there.

It costs a task per burst, and there is no word in ASGI for some of what ours does: how long a
message may be, whether peers are pinged, and when the socket of one that takes nothing is closed,
is the server's to say. The hub lets go of all that it has for such a peer.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import Receive, Send

from hub.protocol.rfc6455 import LOST, payloads
from hub.telemetry.logs import log
from hub.transports.wire import ABORT_S, SEND_S


def _nothing() -> None:
    pass


class AsgiWriter:
    """A writer over ASGI ``send``; what comes is read by ``receive`` here."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._clock = asyncio.get_running_loop().time
        self.opened = self._clock()  # as far as ASGI tells
        self._receive = receive
        self._send = send
        self._task: asyncio.Task[None] | None = None
        self._closing: tuple[int, str] | None = None
        self._gone = False
        self._until: float | None = None
        """When the peer is no longer waited for, by the loop's clock."""
        self._patience: asyncio.Timeout | None = None
        self.paused: Callable[[], None] = _nothing
        self.resumed: Callable[[], None] = _nothing
        self.finished: Callable[[], None] = _nothing
        self.stalled: Callable[[], None] = _nothing

    # --- what goes out ---

    def write(self, data: bytes) -> None:
        self._task = asyncio.create_task(self._write(data))
        self.paused()

    async def _write(self, data: bytes) -> None:
        for payload in payloads(data):
            if not await self._taken({"type": "websocket.send", "text": payload.decode()}):
                break
        else:
            if self._closing is None:
                self._task = None
                self.resumed()
                return
        if self._closing is not None:
            # Behind what the peer does not take, too: it may read on after all.
            await self._close(*self._closing)

    def close(self, code: int, reason: str, *, heed: bool = True) -> None:
        self._leave_within(ABORT_S)
        if self._task is not None:
            self._closing = (code, reason)
        else:
            self._task = asyncio.create_task(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        await self._taken({"type": "websocket.close", "code": code, "reason": reason})

    async def _taken(self, message: MutableMapping[str, Any]) -> bool:
        """Whether the server took it."""
        try:
            async with asyncio.timeout(SEND_S):
                await self._send(message)
        except TimeoutError:
            self.stalled()
        except (OSError, RuntimeError):
            pass  # the peer is gone; receive() says so too
        except Exception:
            log.exception("the server failed to send")
            self.abort()  # nothing may follow what is lost
        else:
            return True
        return False

    # --- what comes in, and the end ---

    async def receive(self) -> MutableMapping[str, Any]:
        """What the peer sends next: its end, too, once it is waited for no longer."""
        try:
            async with asyncio.timeout_at(self._until) as self._patience:
                message = await self._receive()
        except TimeoutError:
            message = {"type": "websocket.disconnect", "code": LOST}
        except asyncio.CancelledError:
            self._gone = True
            raise
        finally:
            self._patience = None
        self._gone = message["type"] == "websocket.disconnect"
        return message

    def abort(self) -> None:
        # The application ends, and the server does what it does then.
        self._leave_within(0)

    def _leave_within(self, seconds: float) -> None:
        until = self._clock() + seconds
        if self._until is None or until < self._until:
            self._until = until
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(until)

    async def settled(self) -> None:
        """Return when the server has taken all and the peer has left, or they do not in time."""
        until = self._clock() + ABORT_S if self._until is None else self._until
        try:
            async with asyncio.timeout_at(until):
                while self._task is not None and not self._task.done():
                    await asyncio.wait({self._task})
        except TimeoutError:
            assert self._task is not None
            self._task.cancel()
            await asyncio.wait({self._task})
        # A server that is left at once ends the connection, and the peer may lose the close code.
        while self._until is not None and not self._gone:
            await self.receive()
