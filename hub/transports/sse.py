"""A channel as server-sent events, for clients without a WebSocket.

``GET /v1/channels/{channel}/events?since=``; each event's ``id`` is ``epoch:seq``, so that a
browser's ``Last-Event-ID`` resumes it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.audit.origin import acting
from hub.backplane.interface import Position
from hub.events.fanout import Join
from hub.events.position import Since, parse_since
from hub.faults import Fault
from hub.identity.access.standing import Key
from hub.operations import joining
from hub.operations.call import Call, Services
from hub.operations.dispatcher import (
    Dispatcher,
    admit,
    authenticate,
    authorise,
    note_refusal,
    origin_of,
    validate,
)
from hub.protocol.codec import encode_sent
from hub.protocol.limits import HEARTBEAT_S
from hub.telemetry.logs import log, log_failure
from hub.telemetry.traces import trace_id_of
from hub.transports.rest import Rest, fault_response
from hub.transports.seats import House, Seated
from hub.transports.stream import HEADERS, MEDIA_TYPE, EventResponse, StreamReader, why

PATH: Final = "/v1/channels/{channel}/events"
RECHECK_S: Final = 5.0
"""A stream's permissions are checked again at least this often."""


class EventStreams:
    """The endpoint."""

    def __init__(
        self, services: Services, dispatcher: Dispatcher, rest: Rest, house: House
    ) -> None:
        self._services = services
        self._house = house
        self._operation = dispatcher.find("channel.subscribe")
        self._rest = rest
        self._readers: set[StreamReader] = set()
        self._left = asyncio.Event()
        self._shut = False
        services.authority.on_change(self._changed)
        services.resources.on_gone(self._gone)
        services.metrics.waiting.sizes.append(self._waiting)

    def _waiting(self) -> list[int]:
        """The bytes that wait for each stream."""
        return [reader.waiting for reader in self._readers]

    def _changed(self, kind: str, identifier: str) -> None:
        if kind == "conversation":  # each stream watches its standing
            for reader in self._readers:
                if reader.channel == f"conversation:{identifier}":
                    reader.doubt()

    def _gone(self, channel: str) -> None:
        for reader in self._readers:
            if reader.channel == channel:
                reader.ended(channel, "not_found")

    def shut(self) -> Collection[StreamReader]:
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
                return Response(headers=HEADERS, media_type=MEDIA_TYPE)
            with acting(origin_of(call)):
                reader, join = await self._join(channel, since, call)
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
                self._services.metrics.revocations.labels("stream", why(fault)).inc()
                raise

        assert call.claims is not None
        whom = call.claims.key
        self._readers.add(reader)
        self._services.metrics.streams.inc()
        reader.doubt()  # it may have changed since it was asked, and nobody told this reader
        self._services.watches.add(whom, reader, call.actor)
        if self._shut:
            reader.leave()
        content = self._stream(channel, reader, join, still_allowed)
        release = partial(self._release, whom, reader, join)
        return EventResponse(content, reader, still_allowed, release)

    def _release(self, whom: Key, reader: StreamReader, join: Join) -> None:
        """The stream has ended, for whatever reason: let go of all that it had."""
        reader.seated.leave()
        metrics = self._services.metrics
        metrics.streams.dec()
        metrics.stream_ends.labels(reader.end or "gone").inc()
        self._readers.discard(reader)
        self._services.watches.remove(whom, reader)
        self._left.set()
        join.abandon()
        self._services.fanout.leave(join.log, reader)

    def _seat(self, call: Call) -> Seated:
        """The seats of one more stream. Raises Fault rate_limited."""
        assert call.claims is not None
        seated = Seated(self._house)
        if not seated.by_address(call.address):
            raise _full("address", self._services.settings.connections_per_address)
        if not seated.by_user(call.claims.user_id):
            seated.leave()
            raise _full("user", self._services.settings.connections_per_user)
        return seated

    def _refused(self, fault: Fault, trace_id: str) -> Response:
        log_failure(fault, method=self._operation.name, trace_id=trace_id)
        return fault_response(fault, trace_id)

    async def _join(self, channel: str, since: Since, call: Call) -> tuple[StreamReader, Join]:
        """A reader that is to follow the channel, told its state if it cannot be continued."""
        services, tenant_id = self._services, call.actor.tenant_id
        count_joined = services.metrics.joined.labels("outbox").inc
        reader = StreamReader(channel, self._seat(call), count_joined)
        try:
            await services.audit.followed(channel, tenant_id)
            join, snapshot = await joining.begin(
                services.fanout,
                services.transcript,
                reader,
                channel=channel,
                tenant_id=tenant_id,
                since=since,
            )
        except BaseException:
            reader.seated.leave()
            raise
        if snapshot is not None:
            reader.put(_snapshot(join.position, snapshot))
        return reader, join

    async def _stream(
        self,
        channel: str,
        reader: StreamReader,
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
                        reader.end = why(fault)
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


async def _follow(reader: StreamReader, join: Join) -> None:
    """Let the events flow, or end the stream, which would wait for them for ever."""
    try:
        await join.follow()
    except Fault as fault:
        reader.ended(reader.channel, fault.reason)
    except Exception:
        log.exception("a stream could not be replayed", channel=reader.channel)
        reader.ended(reader.channel, "internal_error")


def _full(scope: str, most: int) -> Fault:
    return Fault(
        "rate_limited",
        f"This {scope} has {most} connections to this process, as many as it may: end a stream, or "
        "close a WebSocket.",
        details={"scope": scope},
    )


def _snapshot(at: Position, event: Mapping[str, Any]) -> bytes:
    return encode_sent(at.epoch, at.seq, orjson.dumps(event), "snapshot")
