"""The memory backplane of another process of this machine, as ``memory_server`` serves it."""

import asyncio
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec

from hub.backplane.frames import Frames
from hub.backplane.interface import (
    READ_BYTES,
    Appended,
    ControlSink,
    EntrySink,
    Lease,
    LeaseLost,
    LogSlice,
    WhisperSink,
)
from hub.backplane.memory_server import CONTROL, ENTRY, FAILED, INVALID, LEASE_LOST, WHISPER
from hub.backplane.sinks import call_sink
from hub.faults import Fault
from hub.telemetry.logs import log

START_S: Final = 60.0
"""How long the other process may take to start."""
ANSWER_S: Final = 4.0
PING_S: Final = 2.0


class _Asked(NamedTuple):
    answer: "asyncio.Future[Any]"
    then: Callable[[], None] | None  # to be done as the answer is read, before what follows it
    queue: str | None  # from which it takes an item


class RemoteMemory:
    """A node on the memory of another process. ``joint``: a socket, which does not block, whose
    other end that process has. ``lost``: called when it is gone; from then on everything raises
    Fault("backend_unavailable").
    """

    def __init__(self, joint: socket.socket, lost: Callable[[], None] | None = None) -> None:
        self._lost = lost
        self._frames = Frames(joint, self._said, self._left)
        self._numbers = count(1)
        self._asked: dict[int, _Asked] = {}
        self._entries: dict[str, EntrySink] = {}
        self._whispers: dict[str, WhisperSink] = {}
        self._listeners: dict[str, list[ControlSink]] = {}

    async def start(self) -> None:
        await self._frames.open()
        await self._ask("ping", within_s=START_S)

    async def close(self) -> None:
        self._lost = None
        self._frames.close()

    async def ping(self) -> None:
        await self._ask("ping", within_s=PING_S)

    # --- logs and fan-out ---

    async def append(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        lease: Lease | None = None,
        whole: bool = False,
    ) -> Appended:
        answer = await self._ask("append", channel, data, key=key, lease=lease, whole=whole)
        return msgspec.convert(answer, Appended)

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        return msgspec.convert(await self._ask("read", channel, after, limit, most), LogSlice)

    async def discard(self, channel: str) -> None:
        await self._ask("discard", channel)

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        def then() -> None:
            self._entries[channel] = sink

        await self._ask("subscribe", channel, then=then)

    async def unsubscribe(self, channel: str) -> None:
        def then() -> None:
            self._entries.pop(channel, None)

        await self._ask("unsubscribe", channel, then=then)

    # --- what is not kept: whispers, and who is present ---

    async def whisper(self, channel: str, data: bytes) -> None:
        await self._ask("whisper", channel, data)

    async def overhear(self, channel: str, sink: WhisperSink) -> None:
        def then() -> None:
            self._whispers[channel] = sink

        await self._ask("overhear", channel, then=then)

    async def disregard(self, channel: str) -> None:
        def then() -> None:
            self._whispers.pop(channel, None)

        await self._ask("disregard", channel, then=then)

    async def attend(
        self,
        channel: str,
        members: Collection[bytes],
        ttl_s: float,
        *,
        leave: Collection[bytes] = (),
    ) -> frozenset[bytes]:
        before = await self._ask("attend", channel, [*members], ttl_s, leave=[*leave])
        return frozenset(before)

    # --- control messages ---

    async def publish(self, topic: str, message: bytes) -> None:
        await self._ask("publish", topic, message)

    async def listen(self, topic: str, sink: ControlSink) -> None:
        listeners = self._listeners.setdefault(topic, [])
        listeners.append(sink)
        if len(listeners) == 1:
            await self._ask("listen", topic)

    # --- leases ---

    async def acquire(self, name: str, ttl_s: float) -> Lease | None:
        lease = await self._ask("acquire", name, ttl_s)
        return None if lease is None else Lease(*lease)

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        await self._ask("renew", lease, ttl_s)

    async def release(self, lease: Lease) -> None:
        await self._ask("release", lease)

    # --- queue ---

    async def enqueue(self, queue: str, item: str) -> None:
        await self._ask("enqueue", queue, item)

    async def dequeue(self, queue: str, timeout_s: float) -> str | None:
        number, answer = self._put("dequeue", queue, timeout_s, queue=queue)
        try:
            item: str | None = await _within(timeout_s + ANSWER_S, answer)
        except BaseException:  # should it be given one all the same, that is put back
            with suppress(Fault):
                self._send([number, "cancel", [], {}])
            raise
        return item

    # --- cache and rate limits ---

    async def cache_get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask("cache_get", key)
        return value

    async def cache_set(
        self, key: str, value: bytes, ttl_s: float, *, only_new: bool = False
    ) -> bool:
        was_set: bool = await self._ask("cache_set", key, value, ttl_s, only_new=only_new)
        return was_set

    async def cache_delete(self, key: str) -> None:
        await self._ask("cache_delete", key)

    async def take(self, bucket: str, cost: float, *, rate: float, burst: float) -> int:
        wait_ms: int = await self._ask("take", bucket, cost, rate=rate, burst=burst)
        return wait_ms

    # --- the wire ---

    async def _ask(
        self,
        method: str,
        *args: Any,
        within_s: float = ANSWER_S,
        then: Callable[[], None] | None = None,
        **named: Any,
    ) -> Any:
        _, answer = self._put(method, *args, then=then, **named)
        return await _within(within_s, answer)

    def _put(
        self,
        method: str,
        *args: Any,
        then: Callable[[], None] | None = None,
        queue: str | None = None,
        **named: Any,
    ) -> "tuple[int, asyncio.Future[Any]]":
        """Send a question; its number, and the answer to come."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._send([number, method, args, named])
        self._asked[number] = _Asked(answer, then, queue)
        return number, answer

    def _send(self, message: list[Any]) -> None:
        if not self._frames.is_open:
            raise _away()
        self._frames.send(message)

    def _said(self, message: list[Any]) -> None:
        if message[0]:
            self._answered(*message)
        else:
            self._heard(*message[1:])

    def _left(self) -> None:
        waiting, self._asked = self._asked, {}
        for asked in waiting.values():
            if not asked.answer.done():
                asked.answer.set_exception(_away())
        if self._lost is not None:
            log.error("the process whose memory the hub has is gone")
            self._lost()

    def _answered(
        self, number: int, value: Any, error: str | None = None, message: str = ""
    ) -> None:
        asked = self._asked.pop(number)
        if error is None and asked.then is not None:
            asked.then()
        if asked.answer.done():  # nobody waits any more
            if asked.queue is not None and value is not None:
                with suppress(Fault):
                    self._put("enqueue", asked.queue, value)
        elif error is None:
            asked.answer.set_result(value)
        else:
            asked.answer.set_exception(_ERRORS[error](message))

    def _heard(self, kind: str, args: list[Any]) -> None:
        if kind == ENTRY:
            if (sink := self._entries.get(args[0])) is not None:
                call_sink(sink, *args)
        elif kind == WHISPER:
            if (overhearing := self._whispers.get(args[0])) is not None:
                call_sink(overhearing, *args)
        elif kind == CONTROL:
            topic, message = args
            for listener in tuple(self._listeners.get(topic, ())):
                call_sink(listener, message)


_ERRORS: Final[dict[str, type[Exception]]] = {
    LEASE_LOST: LeaseLost,
    INVALID: ValueError,
    FAILED: RuntimeError,
}


async def _within(seconds: float, answer: "asyncio.Future[Any]") -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise _away() from None


def _away() -> Fault:
    return Fault("backend_unavailable", "The hub's memory cannot be reached; try again.")
