"""One WebSocket connection: its session's state, what comes in, and what goes out.

Who is on it is ``login``'s, what it asked ``requests``'s, what it follows ``subscriptions``'s. The
reader (``received``) never waits, and what is sent goes through the outbox.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from random import randrange
from time import monotonic
from typing import Any, Final

from hub.events.delivery import Delivery
from hub.events.fanout import Join
from hub.events.live import Reader
from hub.events.outbox import FlushScheduler, Outbox
from hub.events.seat import Seat
from hub.faults import CLOSES, Fault
from hub.ids import new_id
from hub.operations.call import ANONYMOUS, AfterReply, Call, Services
from hub.operations.dispatcher import Dispatcher
from hub.protocol.codec import close_reason, decode_text, encode_error, encode_notice
from hub.protocol.frames import FrameFault, Request
from hub.protocol.limits import FRAMES_PER_S
from hub.protocol.rfc6455 import CLOSE_CODES, LOST, text_frame
from hub.protocol.session import Event, SessionState, State, Transition
from hub.telemetry.logs import log
from hub.transports.bounds import COME_BACK_MS, DRAIN_S, LARGE_BYTES
from hub.transports.login import Login
from hub.transports.pace import Pace
from hub.transports.persistent import PersistentSession
from hub.transports.requests import Requests
from hub.transports.seats import House, Seated
from hub.transports.subscriptions import Subscriptions
from hub.transports.wire import ConnectionWriter

UNHEEDED: Final = frozenset({4029, 4502})
"""Closes after which what the peer sends is thrown away: it floods us, or has had all its time."""


class SocketConnection:
    """A connection. It is its own ``Reader`` of channels."""

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        writer: ConnectionWriter,
        scheduler: FlushScheduler,
        *,
        house: House,
        address: str | None,
        device: str | None,
    ) -> None:
        self.id = new_id("k")
        self._services = services
        self._writer = writer
        self._outbox = Outbox(writer, scheduler, self)
        self.deliver: Callable[[Delivery], None] = self._outbox.deliver
        writer.stalled = self._stalled
        self._state = SessionState()
        self.address = address
        self._device = device
        self._background: set[asyncio.Task[None]] = set()
        self._seated = Seated(house)
        self._pace = Pace(monotonic())
        self._told = False
        self._counted = False
        self.persistent: PersistentSession | None = None
        self.subscriptions = Subscriptions(
            services.fanout, self, self.unfollowed, self._outbox.forget
        )
        self.requests = Requests(self, dispatcher)
        self.login = Login(self, services, dispatcher, writer.opened)

    # --- the session's state ---

    @property
    def reader(self) -> Reader:
        return self

    @property
    def open(self) -> bool:
        return self._state.state is not State.CLOSED

    @property
    def opening(self) -> bool:
        return self._state.state is State.OPENING

    def begin(self) -> None:
        """It is open; close it again if its address has too many."""
        if not self._seated.by_address(self.address):
            self.on(Event.TOO_MANY)

    def seat_user(self, user_id: str) -> None:
        if not self._seated.by_user(user_id):
            self.on(Event.TOO_MANY)

    def admit(self, method: str) -> None:
        self._state.admit(method)

    def on(self, event: Event) -> None:
        """Something happened to the session; close the connection if the table says so."""
        self._follow(self._state.on(event))

    def _follow(self, transition: Transition) -> None:
        if transition.close_code is not None:
            self.closing(transition.close_code)
            kind = CLOSES.get(transition.close_code)
            wait = None
            if kind and kind.reason == "draining":
                wait = randrange(COME_BACK_MS + 1)  # noqa: S311  # no secret
            self._outbox.flush()
            reason = close_reason(transition.close_code, retry_after_ms=wait) if kind else ""
            self._writer.close(
                transition.close_code, reason, heed=transition.close_code not in UNHEEDED
            )
        if transition.state is State.CLOSED:
            self.close()

    def closing(self, code: int, *, by: str = "hub") -> None:
        """Count how the connection ends, once: by the first of who ends it."""
        if self._counted:
            return
        self._counted = True
        known = code in CLOSES or code in CLOSE_CODES  # a peer may send any, as a label for good
        by = "lost" if code == LOST else by
        self._services.metrics.closes.labels(by, code if known else "other").inc()

    # --- its outbox ---

    def overflowed(self) -> None:
        self.on(Event.TOO_SLOW)

    def failed(self) -> None:
        self.on(Event.FAILED)

    def turned(self) -> None:
        self.subscriptions.turned()

    @property
    def write(self) -> Callable[[bytes], object] | None:
        return self._outbox.write

    def _stalled(self) -> None:
        """The peer takes nothing: no close frame would reach it either."""
        if self.open:
            self.on(Event.TOO_SLOW)
        self._writer.abort()

    # --- the node goes away ---

    def told(self, left_s: float) -> None:
        """The node is going away: say so; with nobody signed in, close with 4001. Idempotent."""
        if self._told:
            return
        self._told = True
        self.notice("session.draining", {"retry_after_ms": round(left_s * 1000)})
        self.on(Event.DRAIN)

    def leave(self) -> None:
        """Close with 4001 when what is under way is answered."""
        if self.requests:
            self.spawn(self._answered())
        else:
            self.leave_now()

    async def _answered(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self.requests.answered()
        self.leave_now()

    def leave_now(self) -> None:
        self.on(Event.DRAIN_OVER)

    def close(self) -> None:
        """Let go of everything. The socket is closed, or being closed. Idempotent.

        Writes that have begun are finished (``settled``).
        """
        if self.open:
            self._state.on(Event.PEER_CLOSED)
        self._outbox.close()
        self._seated.leave()
        self.login.stop()
        if self.persistent is not None:
            self.persistent.close()
        for channel in self.subscriptions:
            self.subscriptions.drop(channel)
        self.requests.abandon()
        for task in tuple(self._background):
            if task is not asyncio.current_task():
                task.cancel()

    async def settled(self) -> None:
        """Return when nothing of the connection is under way any more."""
        await self.requests.settled()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What it was to do for the client is not done, so that it has to come back and resume.
            log.error("a task of a connection failed", connection=self.id, exc_info=error)
            self.on(Event.FAILED)

    def after(self, step: AfterReply) -> None:
        self.spawn(step())

    # --- credentials ---

    async def authenticate(self, token: str, session_key: str | None = None) -> Mapping[str, Any]:
        return await self.login.authenticate(token, session_key)

    def refused(self, fault: Fault) -> None:
        self.login.refused(fault)

    # --- what comes in ---

    def heard(self) -> None:
        """A frame that is no message, which counts as any does; it is dealt with already."""
        self._pace.take(monotonic())
        if self._pace.flooded and self.open:
            self.on(Event.RATE_LIMITED)

    def received(self, text: str) -> None:
        """A text frame. Answers it, now or by a task."""
        wait_ms = self._pace.take(monotonic())
        if self._pace.flooded:
            self.on(Event.RATE_LIMITED)
            return
        try:
            frame = decode_text(text)
        except FrameFault as fault:
            self._services.metrics.faulty_frames.inc()
            self.send(encode_error(fault.request_id, fault.body()))
            transition = self._state.faulty()
            if transition is not None:
                self._follow(transition)
            return
        if isinstance(frame, Request):
            if wait_ms:
                self.send(encode_error(frame.id, _too_fast(wait_ms)))
            else:
                self.requests.take(frame)
        # A notification asks for nothing, and a reply answers nothing that we asked for.

    def call(self, trace_id: str | None) -> Call:
        return Call(
            services=self._services,
            actor=ANONYMOUS,
            claims=self.login.claims,
            connection=self,
            transport="websocket",
            trace_id=trace_id or "",
            address=self.address,
            device=self._device,
        )

    # --- what goes out ---

    def send(self, payload: bytes) -> None:
        """Queue a message."""
        self._outbox.put(text_frame(payload))

    async def send_reply(self, payload: bytes) -> None:
        if len(payload) > LARGE_BYTES:
            # Many such replies at once, after a resume, are no sign of a slow reader.
            await self._outbox.room()
        self.send(payload)

    def notice(self, method: str, params: Mapping[str, Any]) -> None:
        self.send(encode_notice(method, params))

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written."""
        return self._outbox.size

    async def room(self) -> None:
        await self._outbox.room()

    # --- subscriptions ---

    def subscribed(self, channel: str, join: Join, seat: Seat | None) -> None:
        self.subscriptions.add(channel, join, seat)

    def seat(self, channel: str) -> Seat | None:
        return self.subscriptions.seat(channel)

    async def follow(self, channel: str, join: Join) -> None:
        await self.subscriptions.follow(channel, join, self.login.check_now)

    def unsubscribe(self, channel: str) -> bool:
        return self.subscriptions.drop(channel)

    def ended(self, channel: str, reason: str) -> None:
        self.subscriptions.ended(channel, reason)

    def unfollowed(self, channel: str, reason: str) -> None:
        self.notice("subscription.ended", {"channel": channel, "reason": reason})
        if self.persistent is not None:
            self.persistent.ended(channel, reason)

    def detach(self, session_key: str) -> None:
        if self.persistent is not None and self.persistent.key == session_key:
            self.persistent.close()
            self.persistent = None


def _too_fast(wait_ms: int) -> dict[str, Any]:
    fault = Fault(
        "rate_limited",
        f"Send {FRAMES_PER_S} frames a second at most.",
        details={"retry_after_ms": wait_ms},
    )
    return fault.body()
