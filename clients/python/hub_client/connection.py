"""The IO around the session: one WebSocket at a time, replaced when it breaks.

Three tasks: the supervisor connects, reads and reconnects; the writer belongs to one socket; the
keeper renews the access token. None of them runs user code but to ask for a token, so that nothing
a user awaits can stop them; and if one of them fails by a fault of our own, all end and say so.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import websockets
from websockets.asyncio.client import ClientConnection

from hub_client.addresses import Address
from hub_client.auth import Auth
from hub_client.dial import OPEN_TIMEOUT_S, dial
from hub_client.effects import (
    Answered,
    Effect,
    Noticed,
    Refused,
    Send,
)
from hub_client.events import Position, Since
from hub_client.faults import (
    BadFrame,
    CallTimedOut,
    ConnectFailed,
    ConnectionClosed,
    Fault,
    HubError,
)
from hub_client.keeper import TokenKeeper
from hub_client.mailbox import Mailbox
from hub_client.outbox import Outbox
from hub_client.presence import Presence
from hub_client.progress import Progress
from hub_client.retry import TOKEN_EXPIRED, Backoff
from hub_client.session import Session
from hub_client.state import State
from hub_client.subscribers import Sink, Subscribers
from hub_client.subscription import Subscription

log = logging.getLogger("hub_client")

FLUSH_S: Final = 1.0
_FRAMES_PER_TURN = 64


class Connection:
    """A session with the hub. ``ready`` holds the last ``session.ready``."""

    def __init__(
        self,
        address: Address,
        auth: Auth,
        *,
        timeout: float,
        sink: Sink,
        backoff: Backoff,
        session_key: str | None = None,
    ) -> None:
        self.ready: Mapping[str, Any] = {}
        self._address = address
        self._auth = auth
        self._timeout = timeout
        self._sink = sink
        self._backoff = backoff
        self._session = Session(persistent=session_key is not None)
        self._futures: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._outbox = Outbox()
        self._subscribers = Subscribers(self, self._session, self._apply, sink, backoff)
        self.progress: Progress | None = None
        if session_key is not None:
            self.progress = self._subscribers.persistent(session_key, self.call)
        self._keeper = TokenKeeper(auth, self._swap)
        self._renew = False
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = asyncio.Event()

    # --- for the layer above ---

    async def open(self) -> None:
        """Connect. Raises what makes it impossible; nothing is left running then."""
        works = {"hub-connection": self._supervise, "hub-token": self._keep_fresh}
        if self.progress is not None:
            works["hub-progress"] = self.progress.run
        self._tasks = [
            asyncio.create_task(self._guarded(work), name=name) for name, work in works.items()
        ]
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what waits (for a second at most), close the socket and end every task."""
        await asyncio.sleep(0)  # streams that were abandoned just now have a last word to say
        if self._session.state is State.READY:
            with contextlib.suppress(TimeoutError, HubError):
                async with asyncio.timeout(FLUSH_S):
                    if self.progress is not None:
                        await self.progress.flush()
                    await self._outbox.flushed(lambda: self._session.waiting)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end(ConnectionClosed(1000, message="The hub was closed by this client"))
        await self._auth.close()

    async def call(
        self, method: str, params: Mapping[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """Make a request and wait for its result, through reconnects if it is safe to repeat.

        Raises the Fault that the hub answers, ConnectionLost, ConnectionClosed, CallTimedOut, and
        BadFrame if it cannot be sent.
        """
        limit = self._timeout if timeout is None else timeout
        id, effects = self._session.call(method, params)
        future = self._futures[id] = asyncio.get_running_loop().create_future()
        self._apply(effects)
        try:
            async with asyncio.timeout(limit):
                return dict(await future)
        except TimeoutError:
            raise CallTimedOut(f"{method} was not answered in {limit:g} s") from None
        finally:
            self._session.forget(id)
            self._futures.pop(id, None)

    def post(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a request whose answer nobody waits for. A closed connection is fine."""
        with contextlib.suppress(HubError):
            self._apply(self._session.call(method, params)[1])

    def subscribe(
        self,
        channel: str,
        since: Since,
        size: int,
        *,
        remember: bool = False,
        acknowledge: bool = True,
    ) -> Subscription:
        """A new subscriber of the channel; a persistent session is to ``remember`` it, or not.

        Raises the closing error once closed.
        """
        return self._subscribers.subscribe(channel, since, size, remember, acknowledge)

    def leave(self, mailbox: Mailbox) -> None:
        """Feed this mailbox no more; the last one of a channel unsubscribes it."""
        self._subscribers.leave(mailbox)

    def restart(self, channel: str, since: Position) -> None:
        """Subscribe the channel anew from ``since``, for one of its subscribers."""
        self._subscribers.restart(channel, since)

    def watch(self, watcher: Presence) -> None:
        """Follow its channel with presence, for this watcher. Raises the closing error."""
        self._subscribers.watch(watcher)

    def unwatch(self, watcher: Presence) -> None:
        """Feed this watcher no more; the last one of a channel ends its presence there."""
        self._subscribers.unwatch(watcher)

    # --- effects of the session ---

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(text):
                    self._outbox.put(text)
                case Answered(id, result):
                    if (future := self._waiting(id)) is not None:
                        future.set_result(result)
                case Refused(id, error):
                    if (future := self._waiting(id)) is not None:
                        future.set_exception(error)
                case Noticed(method, params):
                    self._noticed(method, params)
                case _:
                    self._subscribers.feed(effect)

    def _waiting(self, id: int) -> asyncio.Future[Mapping[str, Any]] | None:
        future = self._futures.get(id)
        return None if future is None or future.done() else future

    def _noticed(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "session.ready":
            self.ready = params
            self._subscribers.me = str(params.get("user", ""))
            if self.progress is not None:
                self.progress.ready(params.get("channels", ()))
            self._ready_at = time.monotonic()
            if not self._opened.done():
                self._opened.set_result(None)
        elif method == "session.expiring":
            self._keeper.expiring.set()
        elif method == "error":
            log.warning("the hub refused a frame: %s", params.get("message"))
        self._sink(method, params)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do one task's work. What fails there in a way that nobody foresaw would else be known to
        nobody, and the rest would go on without it: it ends the connection, for everyone to see.
        """
        try:
            await work()
        except Exception as error:
            log.exception("the connection to the hub failed in an unforeseen way")
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            failed = ConnectFailed(f"{type(error).__name__}: {error}")
            failed.__cause__ = error
            self._end(failed)

    def _end(self, error: HubError) -> None:
        self._apply(self._session.closed(error))
        self._subscribers.close()
        self._outbox.clear()
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # whoever waits sees it; nobody has to
        self.closed.set()

    # --- the token ---

    async def _keep_fresh(self) -> None:
        await asyncio.wait([self._opened])
        await self._keeper.run()

    async def _swap(self, token: str) -> None:
        if self._session.state is State.READY:
            await self.call("session.refresh", {"token": token})

    # --- the socket ---

    async def _supervise(self) -> None:
        while True:
            try:
                await self._attempt()
            except ConnectionClosed as error:
                if not self._may_return(error):
                    return self._end(error)
                ready_for = time.monotonic() - self._ready_at if self._ready_at else 0.0
                wait = self._backoff.lost(
                    ready_for=ready_for, code=error.code, retry_after=error.retry_after
                )
            except HubError as error:
                if not self._opened.done() or not _passing(error):
                    return self._end(error)
                wait = self._backoff.failed()
                log.info("cannot reach the hub: %s; trying again in %.1f s", error, wait)
            await asyncio.sleep(wait)

    def _may_return(self, error: ConnectionClosed) -> bool:
        if not self._opened.done() or not error.reconnect:
            return False
        if error.code == TOKEN_EXPIRED:
            self._renew = True
            return self._auth.renewable
        return True

    async def _attempt(self) -> None:
        """One socket from its opening to its end. Always raises."""
        self._ready_at = None
        token = await self._auth.access(renew=self._renew)
        self._renew = False
        key = self.progress.session_key if self.progress is not None else None
        socket = await dial(self._address, token, key)
        self._outbox.clear()
        self._session.opened()
        writer = asyncio.create_task(self._write(socket), name="hub-writer")
        try:
            await self._read(socket)
        except websockets.ConnectionClosed as closed:
            frame = closed.rcvd
            error = ConnectionClosed(frame.code, frame.reason) if frame else ConnectionClosed(1006)
            self._lost(error)
            raise error from None
        except BadFrame as bad:
            error = ConnectionClosed(1002, str(bad))
            self._lost(error)
            await socket.close(1002)
            raise error from bad
        finally:
            writer.cancel()
            (written,) = await asyncio.gather(writer, return_exceptions=True)
            await socket.close()
            if isinstance(written, Exception):
                raise written

    async def _write(self, socket: ClientConnection) -> None:
        """Write what comes. If that cannot go on, neither can the reading."""
        try:
            await self._outbox.write(socket)
        except Exception:
            socket.transport.abort()
            raise

    def _lost(self, error: ConnectionClosed) -> None:
        self._apply(self._session.lost(error))
        self._outbox.clear()
        self._sink("disconnected", {"code": error.code, "reason": error.reason})

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                while self._session.state is State.OPENING:
                    self._received(await socket.recv())
        except TimeoutError:
            raise BadFrame("no session.ready came in time") from None
        while True:
            for _ in range(_FRAMES_PER_TURN):
                self._received(await socket.recv())
            # `recv` does not suspend while frames wait: let the subscribers read in a long replay.
            await asyncio.sleep(0)

    def _received(self, message: str | bytes) -> None:
        if not isinstance(message, str):
            raise BadFrame("a binary frame")
        self._apply(self._session.received(message))


def _passing(error: HubError) -> bool:
    """Whether a failure to connect may pass by itself."""
    if isinstance(error, Fault):
        return error.retryable or error.code >= 5000 or error.code == -32603
    return not (isinstance(error, ConnectFailed) and error.status in (400, 401, 403))
