"""A channel as server-sent events, for clients without a WebSocket.

``GET /v1/channels/{channel}/events?since=``; each event's ``id`` is ``epoch:seq``, so that a
browser's ``Last-Event-ID`` resumes it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from hub.audit.origin import acting
from hub.backplane.interface import Position
from hub.events.channels import log_of
from hub.events.delivery import Delivery
from hub.events.fanout import Join
from hub.events.position import Since, parse_since
from hub.events.span import Spans
from hub.faults import Fault
from hub.identity.access.authority import NoStanding
from hub.operations.call import Services
from hub.operations.dispatcher import (
    Dispatcher,
    admit,
    authenticate,
    authorise,
    note_refusal,
    origin_of,
    validate,
)
from hub.protocol.limits import HEARTBEAT_S, OUTBOX_BYTES
from hub.rbac.actor import Actor
from hub.telemetry.logs import log, log_failure
from hub.telemetry.traces import trace_id_of
from hub.transports.rest import Rest, fault_response
from hub.transports.wire import ABORT_S

PATH: Final = "/v1/channels/{channel}/events"
RECHECK_S: Final = 5.0
"""A stream's permissions are checked again at least this often."""

_LOOK_S: Final = 0.25
"""How often a stream whose client takes nothing looks whether it has ended."""

_MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


class _StreamReader:
    """A channel's reader whose events wait for an HTTP response."""

    write = None

    def __init__(self, channel: str, count_joined: Callable[[int], None]) -> None:
        self.channel = channel
        self._count_joined = count_joined
        self._waiting = Spans()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self.end: str | None = None
        self.doubtful = False

    def deliver(self, delivery: Delivery) -> None:
        self.put(delivery)

    def put(self, item: Delivery | bytes) -> None:
        """Queue an event, or a chunk that is no event of the channel."""
        if self.end is None:
            self._waiting.add(item)
            if self._waiting.size > OUTBOX_BYTES:
                self.end = "too_slow"
                self._waiting = Spans()
        self._changed.set()

    async def room(self) -> None:
        while self._waiting.size > OUTBOX_BYTES // 4 and self.end is None:
            self._drained.clear()
            await self._drained.wait()

    def ended(self, channel: str, reason: str) -> None:
        self.end = reason
        self._changed.set()
        self._drained.set()

    def standing(self, found: Actor | Fault) -> None:
        self.doubt()

    def told(self, left_s: float) -> None:
        """A stream's end says all that there is to say."""

    def leave(self) -> None:
        """The node is going away: the client resumes elsewhere."""
        self.ended("", "draining")

    leave_now = leave

    def doubt(self) -> None:
        """The permissions may have changed: let the stream check its own."""
        self.doubtful = True
        self._changed.set()

    async def next(self, timeout_s: float) -> bytes | None:
        """All that waits, or None if nothing came in time."""
        if not self._waiting and self.end is None and not self.doubtful:
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        waiting, self._waiting = self._waiting, Spans()
        if waiting.joined:
            self._count_joined(waiting.joined)
        data = b"".join(i if isinstance(i, bytes) else _event(i) for i in waiting.items())
        self._drained.set()
        return data


class _EventResponse(StreamingResponse):
    """A stream that lets go of its channel even when the client has left before it began.

    A client that does not take what it is sent is cut off after ``ABORT_S``, or at once when the
    stream ends.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        reader: _StreamReader,
        still_allowed: Callable[[], Awaitable[None]],
        release: Callable[[], None],
    ) -> None:
        super().__init__(content, headers=_HEADERS, media_type=_MEDIA_TYPE)
        self._reader = reader
        self._still_allowed = still_allowed
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        abort = scope.get("extensions", {}).get("hub.abort")

        async def within(message: Message) -> None:
            sending = asyncio.ensure_future(send(message))
            try:
                if await self._taken(sending):
                    return
                if abort is None:
                    body.cancel()
                else:
                    abort()
                    await asyncio.wait({sending}, timeout=1.0)  # it ends with the connection
            finally:
                sending.cancel()

        body = asyncio.create_task(super().__call__(scope, receive, within))
        try:
            await asyncio.wait({body})
        finally:
            if not body.done():
                body.cancel()
                await asyncio.wait({body})
            self._release()
        if not body.cancelled():
            body.result()

    async def _taken(self, sending: asyncio.Future[None]) -> bool:
        """Whether the client took what was sent, before it was too slow or the stream's end."""
        reader, loop = self._reader, asyncio.get_running_loop()
        due = loop.time() + ABORT_S
        while not (await asyncio.wait({sending}, timeout=_LOOK_S))[0]:
            if reader.doubtful:
                reader.doubtful = False
                try:
                    await self._still_allowed()
                except Fault as fault:
                    reader.end = _why(fault)
            if reader.end is not None or loop.time() >= due:
                reader.end = reader.end or "too_slow"
                return False
        sending.result()
        return True


class EventStreams:
    """The endpoint."""

    def __init__(self, services: Services, dispatcher: Dispatcher, rest: Rest) -> None:
        self._services = services
        self._operation = dispatcher.find("channel.subscribe")
        self._rest = rest
        self._readers: set[_StreamReader] = set()
        self._left = asyncio.Event()
        self._shut = False
        services.authority.on_change(self._changed)
        services.resources.on_gone(self._gone)

    def _changed(self, kind: str, identifier: str) -> None:
        if kind == "conversation":  # each stream watches its standing
            for reader in self._readers:
                if reader.channel == f"conversation:{identifier}":
                    reader.doubt()

    def _gone(self, channel: str) -> None:
        for reader in self._readers:
            if reader.channel == channel:
                reader.ended(channel, "not_found")

    def shut(self) -> Collection[_StreamReader]:
        """The node is going away: whoever comes from now on is told so. Those who are here."""
        self._shut = True
        return list(self._readers)

    async def empty(self) -> None:
        """Return when all streams have ended."""
        while self._readers:
            self._left.clear()
            await self._left.wait()

    def route(self) -> Route:
        return Route(PATH, self._answer, methods=["GET"])

    async def _answer(self, request: Request) -> Response:
        trace_id = trace_id_of(request.headers.get("traceparent"))
        try:
            call = await self._rest.call(request, trace_id)
        except Fault as fault:
            return self._refused(fault, trace_id)
        channel = request.path_params["channel"]
        try:
            await admit(self._operation, call)
            if set(request.query_params) - {"since"}:
                raise Fault("invalid_params", "The only parameter is `since`.")
            params = validate(self._operation, {"channel": channel})
            await authorise(self._operation, params, call)
            given = request.headers.get("last-event-id") or request.query_params.get("since")
            try:
                since = parse_since(given)
            except ValueError as error:
                raise Fault("invalid_params", f"since: {error}") from None
            if request.method == "HEAD":
                return Response(headers=_HEADERS, media_type=_MEDIA_TYPE)
            with acting(origin_of(call)):
                reader, join = await self._join(channel, since, call.actor.tenant_id)
        except Fault as fault:
            note_refusal(self._operation, {"channel": channel}, call, fault)
            return self._refused(fault, trace_id)

        async def still_allowed() -> None:
            assert call.claims is not None
            if call.claims.is_over(time.time()):  # as at the other doors
                raise Fault("token_expired")
            try:
                await authenticate(self._operation, call)
                await authorise(self._operation, params, call)
            except Fault as fault:
                self._services.metrics.revocations.labels("stream", _why(fault)).inc()
                raise

        assert call.claims is not None
        whom = call.claims.key

        def release() -> None:
            self._readers.discard(reader)
            self._services.watches.remove(whom, reader)
            self._left.set()
            join.abandon()
            self._services.fanout.leave(join.log, reader)

        self._readers.add(reader)
        reader.doubt()  # it may have changed since it was asked, and nobody told this reader
        self._services.watches.add(whom, reader, call.actor)
        if self._shut:
            reader.leave()
        content = self._stream(channel, reader, join, still_allowed)
        return _EventResponse(content, reader, still_allowed, release)

    def _refused(self, fault: Fault, trace_id: str) -> Response:
        log_failure(fault, method=self._operation.name, trace_id=trace_id)
        return fault_response(fault, trace_id)

    async def _join(self, channel: str, since: Since, tenant_id: str) -> tuple[_StreamReader, Join]:
        """A reader that is to follow the channel, told its state if it cannot be continued."""
        services = self._services
        reader = _StreamReader(channel, services.metrics.joined.labels("outbox").inc)
        await services.audit.followed(channel, tenant_id)
        join = await services.fanout.join(log_of(channel, tenant_id), reader, since)
        if not join.recovered:
            try:
                kind, _, identifier = channel.partition(":")
                if kind == "conversation":
                    taken = await services.transcript.snapshot(tenant_id, identifier)
                    join.position = taken.position
                    reader.put(_snapshot(taken.position, taken.event))
            except BaseException:
                join.abandon()
                raise
        return reader, join

    async def _stream(
        self,
        channel: str,
        reader: _StreamReader,
        join: Join,
        still_allowed: Callable[[], Awaitable[None]],
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        follow = asyncio.create_task(_follow(reader, join))
        checked = beat = loop.time()
        try:
            yield b": following %s\n\n" % channel.encode()
            while reader.end is None:
                data = await reader.next(RECHECK_S)
                if reader.doubtful or loop.time() - checked >= RECHECK_S:
                    reader.doubtful = False
                    checked = loop.time()
                    try:
                        await still_allowed()
                    except Fault as fault:
                        reader.end = _why(fault)
                        break
                if data:
                    yield data
                    beat = loop.time()
                elif loop.time() - beat >= HEARTBEAT_S:
                    beat = loop.time()
                    yield b": still here\n\n"
            yield b"event: ended\ndata: %s\n\n" % orjson.dumps({"reason": reader.end})
        finally:
            join.abandon()
            follow.cancel()
            await asyncio.gather(follow, return_exceptions=True)


async def _follow(reader: _StreamReader, join: Join) -> None:
    """Let the events flow, or end the stream, which would wait for them for ever."""
    try:
        await join.follow()
    except Fault as fault:
        reader.ended(reader.channel, fault.reason)
    except Exception:
        log.exception("a stream could not be replayed", channel=reader.channel)
        reader.ended(reader.channel, "internal_error")


def _event(delivery: Delivery) -> bytes:
    return b"id: %s:%d\ndata: %s\n\n" % (
        delivery.epoch.encode(),
        delivery.seq,
        delivery.event,
    )


def _why(fault: Fault) -> str:
    return fault.why if isinstance(fault, NoStanding) else fault.reason


def _snapshot(at: Position, event: dict[str, object]) -> bytes:
    return b"event: snapshot\nid: %s:%d\ndata: %s\n\n" % (
        at.epoch.encode(),
        at.seq,
        orjson.dumps(event),
    )
