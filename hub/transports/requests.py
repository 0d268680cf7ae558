"""The requests of one connection: those in flight, their order, and their answers."""

import asyncio
from typing import Protocol

import msgspec

from hub.faults import Fault
from hub.operations.call import AfterReply, Call
from hub.operations.dispatcher import Dispatcher
from hub.operations.operation import AnyOperation
from hub.protocol.codec import encode_error, encode_reply
from hub.protocol.frames import Request, RequestId
from hub.protocol.limits import MAX_IN_FLIGHT
from hub.protocol.meta import pop_meta
from hub.telemetry.logs import log_failure
from hub.telemetry.traces import trace_id_of, traced
from hub.transports.bounds import READS_AT_ONCE


class Asked(Protocol):
    """The connection on which requests come."""

    id: str

    def admit(self, method: str) -> None:
        """Raises Fault if the session's state does not take this method now."""

    def call(self, trace_id: str | None) -> Call:
        """What a handler is given."""

    def send(self, payload: bytes) -> None:
        """Queue a message."""

    async def send_reply(self, payload: bytes) -> None:
        """Queue a reply, once there is room for a long one."""

    def refused(self, fault: Fault) -> None:
        """An authentication failed."""

    def after(self, step: AfterReply) -> None:
        """Do this once the reply is on its way."""


class Requests:
    """Each request is answered by a task of its own, and replies come in any order; requests that
    name the same thing (``ordered_by``) keep theirs.
    """

    __slots__ = ("_connection", "_dispatcher", "_in_flight", "_last_of", "_reads", "_writes")

    def __init__(self, connection: Asked, dispatcher: Dispatcher) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._in_flight: dict[RequestId, asyncio.Task[None]] = {}
        self._last_of: dict[str, asyncio.Task[None]] = {}
        self._writes: dict[asyncio.Task[None], None] = {}
        self._reads: asyncio.Semaphore | None = None  # most connections idle without

    def __len__(self) -> int:
        return len(self._in_flight)

    def take(self, request: Request) -> None:
        """Answer a request, now or by a task."""
        connection = self._connection
        trace_id = trace_id_of(pop_meta(request.params))
        try:
            operation = self._admitted(request)
        except Fault as fault:
            connection.send(encode_error(request.id, fault.body(trace_id)))
            return
        before = None
        key = None
        if operation.ordered_by is not None:
            key = f"{operation.ordered_by}:{request.params.get(operation.ordered_by)}"
            before = self._last_of.get(key)
        task = asyncio.create_task(self._answer(request, operation, trace_id, before))
        self._in_flight[request.id] = task
        if operation.kind == "write":
            self._writes[task] = None
        if key is not None:
            self._last_of[key] = task
        task.add_done_callback(lambda task: self._answered(request.id, key, task))

    async def answered(self) -> None:
        """Return when none is in flight."""
        while self._in_flight:
            await asyncio.wait(self._in_flight.values())

    def abandon(self) -> None:
        """Cancel all but the writes: between its commit and the telling of other nodes, none may be
        lost. A logout closes its own connection in the middle.
        """
        for task in tuple(self._in_flight.values()):
            if task is not asyncio.current_task() and task not in self._writes:
                task.cancel()

    async def settled(self) -> None:
        """Return when no write is under way any more."""
        if self._writes:
            await asyncio.wait(self._writes)

    def _admitted(self, request: Request) -> AnyOperation:
        """The operation. Raises Fault if the request is not to be answered by it now."""
        if request.id in self._in_flight:
            raise Fault("invalid_request", "This id is in flight already; use another.")
        self._connection.admit(request.method)
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise Fault(
                "rate_limited",
                f"{MAX_IN_FLIGHT} requests are unanswered; wait for replies.",
                details={"retry_after_ms": 100},
            )
        operation = self._dispatcher.find(request.method)
        if not operation.socket:
            raise Fault("method_not_found", f"{operation.name} is offered over HTTP only.")
        return operation

    def _answered(self, request_id: RequestId, key: str | None, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(request_id, None)
        self._writes.pop(task, None)
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
        if operation.kind == "read":
            # Who asks for a lot, and does not read it, has few answers made that wait.
            if self._reads is None:
                self._reads = asyncio.Semaphore(READS_AT_ONCE)
            async with self._reads:
                await self._answer_now(request, operation, trace_id)
        else:
            await self._answer_now(request, operation, trace_id)

    async def _answer_now(self, request: Request, operation: AnyOperation, trace_id: str) -> None:
        connection = self._connection
        call = connection.call(trace_id)
        with traced(trace_id, method=operation.name, connection=connection.id, request=request.id):
            try:
                result = await self._dispatcher.dispatch(operation, request.params, call)
            except Fault as fault:
                log_failure(fault)
                connection.send(encode_error(request.id, fault.body(trace_id)))
                if operation.name == "session.authenticate":
                    connection.refused(fault)
                return
            await connection.send_reply(encode_reply(request.id, msgspec.Raw(result.encode())))
            # The request is answered: its id is free, and what follows holds nothing up.
            for step in call.after:
                connection.after(step)
