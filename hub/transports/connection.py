"""One WebSocket connection: its session, its requests in flight, its subscriptions.

The reader (``received``) never waits: each request is answered by a task of its own, and what is
sent goes through the outbox. Writes that name the same conversation keep their order.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from random import randrange
from typing import Any

import msgspec

from hub.events.delivery import Delivery
from hub.events.fanout import Join, Reader
from hub.events.outbox import FlushScheduler, Outbox
from hub.faults import CLOSES, Fault
from hub.identity.tokens import Claims
from hub.ids import new_id
from hub.operations.call import ANONYMOUS, Call, Services
from hub.operations.dispatcher import Dispatcher, authorise, validate
from hub.operations.operation import AnyOperation
from hub.protocol.codec import close_reason, decode_text, encode_error, encode_notice, encode_reply
from hub.protocol.frames import FrameFault, Request, RequestId
from hub.protocol.limits import (
    AUTHENTICATE_DEADLINE_S,
    CLIENT_LIMITS,
    EXPIRED_GRACE_S,
    EXPIRING_NOTICE_S,
    HEARTBEAT_S,
    SUBPROTOCOL,
)
from hub.protocol.meta import pop_meta
from hub.protocol.rfc6455 import text_frame
from hub.protocol.session import Event, SessionState, State, Transition
from hub.rbac.actor import Actor
from hub.telemetry.logs import log_failure
from hub.telemetry.traces import trace_id_of, traced
from hub.transports.bounds import COME_BACK_MS, DRAIN_S, LARGE_BYTES, MAX_IN_FLIGHT, RECHECK_S
from hub.transports.subscriptions import Subscriptions
from hub.transports.wire import ConnectionWriter


class SocketConnection:
    """A connection. It is its own ``Reader`` of channels."""

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        writer: ConnectionWriter,
        scheduler: FlushScheduler,
        *,
        address: str | None,
        device: str | None,
    ) -> None:
        self.id = new_id("k")
        self.claims: Claims | None = None
        self._services = services
        self._dispatcher = dispatcher
        self._writer = writer
        self._outbox = Outbox(writer, scheduler, lambda: self.on(Event.TOO_SLOW))
        self._state = SessionState()
        self._address = address
        self._device = device
        self._in_flight: dict[RequestId, asyncio.Task[None]] = {}
        self._last_of: dict[str, asyncio.Task[None]] = {}
        self._subscriptions = Subscriptions(services.fanout, self, self.notice)
        self._background: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._recheck_timer: asyncio.TimerHandle | None = None
        self._standing: Actor | None = None
        self._come_back_ms: int | None = None
        self._later(AUTHENTICATE_DEADLINE_S, lambda: self.on(Event.AUTH_DEADLINE))

    # --- the session's state ---

    @property
    def reader(self) -> Reader:
        return self

    @property
    def open(self) -> bool:
        return self._state.state is not State.CLOSED

    def on(self, event: Event) -> None:
        """Something happened to the session; close the connection if the table says so."""
        self._follow(self._state.on(event))

    def _follow(self, transition: Transition) -> None:
        if transition.close_code is not None:
            self._services.metrics.closes.labels(transition.close_code).inc()
            kind = CLOSES.get(transition.close_code)
            wait = self._come_back_ms if kind and kind.reason == "draining" else None
            self._outbox.flush()
            reason = close_reason(transition.close_code, retry_after_ms=wait) if kind else ""
            self._writer.close(transition.close_code, reason)
        if transition.state is State.CLOSED:
            self.close()

    def drain(self) -> None:
        """The node is going away: say so, finish what is under way, and close with 4001."""
        if self._come_back_ms is not None:
            return
        self._come_back_ms = randrange(COME_BACK_MS + 1)  # noqa: S311  # no secret
        self.notice("session.draining", {"retry_after_ms": self._come_back_ms})
        self.on(Event.DRAIN)
        if self.open:
            self._spawn(self._drained())

    async def _drained(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._in_flight:
                    await asyncio.wait(self._in_flight.values())
        self.on(Event.DRAIN_OVER)

    def close(self) -> None:
        """Let go of everything. The socket is closed, or being closed. Idempotent.

        Writes that have begun are finished (``settled``): between its commit and the telling of
        other nodes, none may be lost. A logout closes its own connection in the middle.
        """
        if self.open:
            self._state.on(Event.PEER_CLOSED)
        self._outbox.close()
        self._cancel_timers()
        for channel in self._subscriptions:
            self._subscriptions.drop(channel)
        for task in (*self._in_flight.values(), *self._background):
            if task is not asyncio.current_task() and task not in self._writes:
                task.cancel()

    async def settled(self) -> None:
        """Return when nothing of the connection is under way any more."""
        if self._writes:
            await asyncio.wait(self._writes)

    def _later(self, delay_s: float, step: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(max(0.0, delay_s), step))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._recheck_timer is not None:
            self._recheck_timer.cancel()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- credentials ---

    async def authenticate(self, token: str) -> Mapping[str, Any]:
        claims = self._services.tokens.read(token)
        actor = await self._services.authority.actor(claims)
        if self.claims is not None and (claims.user_id, claims.tenant_id) != (
            self.claims.user_id,
            self.claims.tenant_id,
        ):
            raise Fault("permission_denied", "A connection stays with its user and tenant.")
        first = self._state.state is State.OPENING
        self._follow(self._state.on(Event.AUTHENTICATED if first else Event.REFRESHED))
        if not self.open:
            raise Fault("unauthenticated")
        self.claims = claims
        self._standing = actor
        self._cancel_timers()
        self._look_later()
        left = claims.expires_at - time.time()
        self._later(left - EXPIRING_NOTICE_S, self._expiring)
        self._later(left, self._expired)
        ready = {
            "protocol": SUBPROTOCOL,
            "connection_id": self.id,
            "node": self._services.node,
            "user": actor.user_id,
            "tenant": actor.tenant_id,
            "roles": list(actor.roles),
            "expires_at": datetime.fromtimestamp(claims.expires_at, UTC).isoformat(),
            "heartbeat_s": HEARTBEAT_S,
            "limits": CLIENT_LIMITS,
            "resumed": False,
        }
        if first:
            self.notice("session.ready", ready)
        else:
            await self.recheck()
        return ready

    def refused(self, fault: Fault) -> None:
        """An authentication failed: close, unless it can be tried again with other parameters."""
        if fault.reason == "unauthenticated":
            self.on(Event.AUTH_FAILED)
        elif self._state.state is State.OPENING and fault.reason != "invalid_params":
            expired = fault.reason == "token_expired"
            self.on(Event.TOKEN_EXPIRED if expired else Event.FAILED)

    def _expiring(self) -> None:
        if self.claims is not None:
            expires_at = datetime.fromtimestamp(self.claims.expires_at, UTC).isoformat()
            self.notice("session.expiring", {"expires_at": expires_at})

    def _expired(self) -> None:
        self.on(Event.TOKEN_EXPIRED)
        if self.open:
            self._later(EXPIRED_GRACE_S, lambda: self.on(Event.GRACE_OVER))

    def authority_changed(self, kind: str, identifier: str) -> None:
        """Somebody's permissions have changed: if they may be ours, check again."""
        claims = self.claims
        if claims is None:
            return
        ours = {
            "session": claims.session_id,
            "user": claims.user_id,
            "tenant": claims.tenant_id,
        }
        if kind not in ours or ours[kind] == identifier:
            self._spawn(self.recheck())

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._recheck_timer = loop.call_later(RECHECK_S, lambda: self._spawn(self._look()))

    async def _look(self) -> None:
        """Look whether the standing is what it was when the subscriptions were last checked."""
        assert self.claims is not None
        try:
            same = await self._services.authority.actor(self.claims) == self._standing
        except Fault as fault:
            # What cannot be known now is asked again; meanwhile every request is refused.
            same = fault.reason == "backend_unavailable"
        if not same:
            await self.recheck()
        if self.open:
            self._look_later()

    async def recheck(self) -> None:
        """Permissions may have changed: end what is not allowed any more."""
        if self.claims is None or not self.open:
            return
        try:
            actor = await self._services.authority.actor(self.claims)
        except Fault as fault:
            if fault.reason == "unauthenticated":
                self.notice("session.revoked", {"reason": fault.reason})
                self.on(Event.REVOKED)
            elif fault.reason == "backend_unavailable":
                # Unsure means no: nothing more is delivered; the client may subscribe again.
                for channel in self._subscriptions:
                    self._subscriptions.end(channel, fault.reason)
            return
        self._standing = actor
        for channel in self._subscriptions:
            await self._check(channel, actor)

    async def _check(self, channel: str, actor: Actor) -> None:
        """End the subscription if the actor may not have it."""
        subscribe = self._dispatcher.find("channel.subscribe")
        call = self._call(None)
        call.actor = actor
        try:
            await authorise(subscribe, validate(subscribe, {"channel": channel}), call)
        except Fault as fault:
            self._subscriptions.end(channel, fault.reason)

    # --- what comes in ---

    def received(self, text: str) -> None:
        """A text frame. Answers it, now or by a task."""
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
            self._request(frame)
        # A notification asks for nothing, and a reply answers nothing that we asked for.

    def _request(self, request: Request) -> None:
        trace_id = trace_id_of(pop_meta(request.params))
        try:
            if request.id in self._in_flight:
                raise Fault("invalid_request", "This id is in flight already; use another.")
            self._state.admit(request.method)
            if len(self._in_flight) >= MAX_IN_FLIGHT:
                raise Fault(
                    "rate_limited",
                    f"{MAX_IN_FLIGHT} requests are unanswered; wait for replies.",
                    details={"retry_after_ms": 100},
                )
            operation = self._dispatcher.find(request.method)
            if not operation.socket:
                raise Fault("method_not_found", f"{operation.name} is offered over HTTP only.")
        except Fault as fault:
            self.send(encode_error(request.id, fault.body(trace_id)))
            return
        before = None
        key = None
        if operation.ordered_by is not None:
            key = f"{operation.ordered_by}:{request.params.get(operation.ordered_by)}"
            before = self._last_of.get(key)
        task = asyncio.create_task(self._answer(request, operation, trace_id, before))
        self._in_flight[request.id] = task
        if operation.kind == "write":
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)
        if key is not None:
            self._last_of[key] = task
        task.add_done_callback(lambda task: self._answered(request.id, key, task))

    def _answered(self, request_id: RequestId, key: str | None, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(request_id, None)
        if key is not None and self._last_of.get(key) is task:
            del self._last_of[key]

    async def _answer(
        self,
        request: Request,
        operation: AnyOperation,
        trace_id: str,
        before: asyncio.Task[None] | None,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        call = self._call(trace_id)
        with traced(trace_id, method=operation.name, connection=self.id, request=request.id):
            try:
                result = await self._dispatcher.dispatch(operation, request.params, call)
            except Fault as fault:
                log_failure(fault)
                self.send(encode_error(request.id, fault.body(trace_id)))
                if operation.name == "session.authenticate":
                    self.refused(fault)
                return
            reply = encode_reply(request.id, msgspec.Raw(result.encode()))
            if len(reply) > LARGE_BYTES:
                # Many such replies at once, after a resume, are no sign of a slow reader.
                await self._outbox.room()
            self.send(reply)
            # The request is answered: its id is free, and what follows holds nothing up.
            for step in call.after:
                self._spawn(step())

    def _call(self, trace_id: str | None) -> Call:
        return Call(
            services=self._services,
            actor=ANONYMOUS,
            claims=self.claims,
            connection=self,
            transport="websocket",
            trace_id=trace_id or "",
            address=self._address,
            device=self._device,
        )

    # --- what goes out ---

    def send(self, payload: bytes) -> None:
        """Queue a message."""
        self._outbox.put(text_frame(payload))

    def notice(self, method: str, params: Mapping[str, Any]) -> None:
        self.send(encode_notice(method, params))

    def deliver(self, delivery: Delivery) -> None:
        self._outbox.put(delivery.frame)

    async def room(self) -> None:
        await self._outbox.room()

    # --- subscriptions ---

    def subscribed(self, channel: str, join: Join) -> None:
        self._subscriptions.add(channel, join)

    async def follow(self, channel: str, join: Join) -> None:
        await self._subscriptions.follow(channel, join, self._check_now)

    async def _check_now(self, channel: str) -> None:
        assert self.claims is not None
        await self._check(channel, await self._services.authority.actor(self.claims))

    def unsubscribe(self, channel: str) -> bool:
        return self._subscriptions.drop(channel)

    def ended(self, channel: str, reason: str) -> None:
        self._subscriptions.ended(channel, reason)
