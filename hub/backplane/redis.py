"""The backplane of many processes, on one Redis server or on a Redis Cluster.

What must be one step is one Lua script (``scripts/``). Commands of one loop turn share a pipeline
(``redis_server``), partitions find their servers (``redis_topology``), and what is published is
received by one task per server (``redis_pubsub``).
"""

import asyncio
import math
import secrets
from collections.abc import Collection
from itertools import count
from typing import Any

from redis.exceptions import MovedError, RedisError

from hub.backplane.interface import (
    READ_BYTES,
    Appended,
    ControlSink,
    Entry,
    EntrySink,
    Lease,
    LeaseLost,
    LogSlice,
    WhisperSink,
)
from hub.backplane.limits import LogLimits
from hub.backplane.redis_keys import Keys
from hub.backplane.redis_pubsub import Subscriber, Subscription
from hub.backplane.redis_scripts import Script, load_scripts
from hub.backplane.redis_server import ANSWER_S, Call, Link, Server, away
from hub.backplane.redis_topology import Topology
from hub.backplane.sinks import call_sink

FENCE_TTL_MS = 7 * 86_400_000
"""How long a lease's last fencing token is remembered after it was taken."""
BLOCK_S = 2.0
"""How long one round of a blocking ``dequeue`` waits in Redis."""
TAG_SPACE = 2**64


class RedisBackplane:
    """The view of the node ``node`` (its id, shown in Redis's client list). ``prefix`` begins all
    names in Redis: hubs that share a server need different ones. Raises ValueError for a URL that
    is not of Redis.
    """

    def __init__(
        self, url: str, *, node: str, prefix: str = "hub", limits: LogLimits | None = None
    ) -> None:
        self._topology = Topology(url, f"hub-{node}")
        self._subscriber = Subscriber(self._topology)
        self._keys = Keys(prefix)
        self._scripts = load_scripts()
        limits = limits or LogLimits()
        sharded = self._topology.clustered
        self._publish = b"SPUBLISH" if sharded else b"PUBLISH"
        self._entries = limits.entries
        self._ttl_ms = _ms(limits.ttl_s)
        self._key_ttl_ms = _ms(limits.key_ttl_s)
        # Names this producer in the logs; each append has a number by which a repetition that
        # Redis has seen is known, and a tag by which what became of it is found.
        self._producer = "p" + secrets.token_urlsafe(9)
        self._numbers = count(1)
        self._tags = secrets.randbits(64)
        self._listeners: dict[bytes, list[ControlSink]] = {}
        self._idle: dict[Server, list[Link]] = {}

    async def start(self) -> None:
        await self._topology.start()
        await self.ping()

    async def close(self) -> None:
        await self._subscriber.close()
        for links in self._idle.values():
            for link in links:
                await link.close()
        self._idle.clear()
        await self._topology.close()

    async def ping(self) -> None:
        calls = []
        for partition, server in self._topology.partitions():
            calls.append(Call(partition, ["PING"]))
            server.call(calls[-1])
        try:
            async with asyncio.timeout(ANSWER_S):
                for call in calls:
                    await call.future
        except TimeoutError as error:
            raise away(error) from error

    # --- logs and fan-out ---

    def _number(self) -> tuple[int, int]:
        number = next(self._numbers)
        return number, (self._tags + number) % TAG_SPACE

    def _epoch(self) -> str:
        return f"e{self._producer[1:]}{next(self._numbers):x}"

    async def append(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        lease: Lease | None = None,
        whole: bool = False,  # a log that all share needs no beginning
    ) -> Appended:
        keys = self._keys.of(channel)
        names = [keys.meta, keys.log]
        if lease is not None:
            if lease.name != channel:
                raise ValueError("an append is fenced by the lease of its channel's name")
            names.append(keys.lease)
        if key is not None:
            names.append(keys.key + key.encode())
        stamp = 3 + len(names)
        script = self._scripts.append
        call = Call(
            keys.partition,
            [
                b"EVALSHA",
                script.sha,
                len(names),
                *names,
                b"",  # run, number and tag, when it is sent
                0,
                0,
                self._producer,
                self._epoch(),
                b"" if lease is None else lease.token,
                b"" if key is None else b"1",
                self._entries,
                self._ttl_ms,
                self._key_ttl_ms,
                self._publish,
                keys.entries,
                data,
            ],
            script=script,
            stamp=stamp,
            number=self._number,
        )
        reply = await self._topology.call(call)
        if isinstance(reply, list):
            epoch, seq, duplicate = reply
            return Appended(epoch.decode(), seq, duplicate == 1)
        if reply == b"lost":
            raise LeaseLost(channel)
        raise away(RedisError("an append was overtaken by a later one after a lost connection"))

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        keys = self._keys.of(channel)
        script = self._scripts.read
        args = [b"EVALSHA", script.sha, 2, keys.meta, keys.log]
        args += [b"", self._epoch(), self._ttl_ms, max(after, 0), limit, most]
        call = Call(keys.partition, args, script=script, stamp=5)
        epoch, first, last, found = await self._topology.call(call)
        entries = tuple(Entry(int(at.partition(b"-")[0]), fields[1]) for at, fields in found)
        return LogSlice(epoch.decode(), first, last, entries)

    async def discard(self, channel: str) -> None:
        keys = self._keys.of(channel)
        await self._topology.call(Call(keys.partition, [b"DEL", keys.meta, keys.log]))
        self._keys.forget(channel)

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        def deliver(message: bytes) -> None:
            epoch, seq, data = message.split(b" ", 2)
            call_sink(sink, channel, epoch.decode(), int(seq), data)

        def repaired() -> None:
            call_sink(sink, channel, "", 0, b"")

        keys = self._keys.of(channel)
        sharded = self._topology.clustered
        await self._subscriber.subscribe(
            Subscription(keys.entries, keys.partition, sharded, deliver, repaired)
        )

    async def unsubscribe(self, channel: str) -> None:
        self._subscriber.unsubscribe(self._keys.of(channel).entries)
        self._keys.forget(channel)

    # --- what is not kept: whispers, and who is present ---

    async def whisper(self, channel: str, data: bytes) -> None:
        keys = self._keys.of(channel)
        await self._topology.call(Call(keys.partition, [self._publish, keys.whisper, data]))

    async def overhear(self, channel: str, sink: WhisperSink) -> None:
        def deliver(message: bytes) -> None:
            call_sink(sink, channel, message)

        def repaired() -> None:
            call_sink(sink, channel, b"")

        keys = self._keys.of(channel)
        sharded = self._topology.clustered
        await self._subscriber.subscribe(
            Subscription(keys.whisper, keys.partition, sharded, deliver, repaired)
        )

    async def disregard(self, channel: str) -> None:
        self._subscriber.unsubscribe(self._keys.of(channel).whisper)
        self._keys.forget(channel)

    async def attend(
        self,
        channel: str,
        members: Collection[bytes],
        ttl_s: float,
        *,
        leave: Collection[bytes] = (),
    ) -> frozenset[bytes]:
        keys = self._keys.of(channel)
        script = self._scripts.attend
        line = [_ms(ttl_s), len(members), *members, *leave]
        return frozenset(await self._run(script, keys.partition, [keys.present], *line))

    # --- control messages ---

    async def publish(self, topic: str, message: bytes) -> None:
        partition, name = self._keys.named("control", topic)
        await self._topology.call(Call(partition, [b"PUBLISH", name, message]))

    async def listen(self, topic: str, sink: ControlSink) -> None:
        partition, name = self._keys.named("control", topic)
        sinks = self._listeners.setdefault(name, [])
        sinks.append(sink)

        def deliver(message: bytes) -> None:
            for each in tuple(sinks):
                call_sink(each, message)

        try:
            await self._subscriber.subscribe(
                Subscription(name, partition, False, deliver, lambda: None)
            )
        except BaseException:
            sinks.remove(sink)
            raise

    # --- leases ---

    async def acquire(self, name: str, ttl_s: float) -> Lease | None:
        keys = self._keys.of(name)
        token = await self._run(
            self._scripts.acquire,
            keys.partition,
            [keys.lease, keys.fence],
            secrets.token_bytes(9),
            _ms(ttl_s),
            FENCE_TTL_MS,
        )
        return None if token is None else Lease(name, int(token))

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        keys = self._keys.of(lease.name)
        script = self._scripts.renew
        names = [keys.lease, keys.fence]
        if not await self._run(script, keys.partition, names, lease.token, _ms(ttl_s)):
            raise LeaseLost(lease.name)

    async def release(self, lease: Lease) -> None:
        keys = self._keys.of(lease.name)
        names = [keys.lease, keys.fence]
        await self._run(self._scripts.release, keys.partition, names, lease.token)

    # --- queue ---

    async def enqueue(self, queue: str, item: str) -> None:
        partition, name = self._keys.named("queue", queue)
        await self._run(self._scripts.enqueue, partition, [name], item)

    async def dequeue(self, queue: str, timeout_s: float) -> str | None:
        partition, name = self._keys.named("queue", queue)
        # One that may have been executed is not repeated: it would take a second item.
        popped = await self._topology.call(Call(partition, [b"ZPOPMIN", name], again=False))
        if popped:
            item: bytes = popped[0]
            return item.decode()
        clock = asyncio.get_running_loop().time
        until = clock() + timeout_s
        # Redis takes a time-out of 0 for ever, and rounds to milliseconds.
        while (left := until - clock()) > 0.001:
            popped = await self._pop(partition, name, min(left, BLOCK_S))
            if popped is not None:
                return popped
        return None

    async def _pop(self, partition: int, name: bytes, block_s: float) -> str | None:
        server = self._topology.owner(partition)
        for other in [each for each in self._idle if each.closed]:
            for unused in self._idle.pop(other, ()):
                await unused.close()
        idle = self._idle.setdefault(server, [])
        link: Link | None = None
        try:
            async with asyncio.timeout(block_s + ANSWER_S):
                link = idle.pop() if idle else await server.open()
                popped = await link.ask("BZPOPMIN", name, f"{block_s:.3f}")
        except (RedisError, OSError) as error:
            if link is not None:
                await link.close()
            if isinstance(error, MovedError):
                await self._topology.refresh()
            raise away(error) from error
        except asyncio.CancelledError:
            if link is not None:  # its answer is still to come
                await link.close()
            raise
        if self._idle.get(server) is idle:
            idle.append(link)
        else:  # closed meanwhile
            await link.close()
        return None if popped is None else popped[1].decode()

    # --- cache and rate limits ---

    async def cache_get(self, key: str) -> bytes | None:
        partition, name = self._keys.named("cache", key)
        value: bytes | None = await self._topology.call(Call(partition, [b"GET", name]))
        return value

    async def cache_set(
        self, key: str, value: bytes, ttl_s: float, *, only_new: bool = False
    ) -> bool:
        partition, name = self._keys.named("cache", key)
        args = [b"SET", name, value, b"PX", _ms(ttl_s), *([b"NX"] if only_new else [])]
        # Repeated after it was executed, NX would say that somebody else was first.
        call = Call(partition, args, again=not only_new)
        return await self._topology.call(call) is not None

    async def cache_delete(self, key: str) -> None:
        partition, name = self._keys.named("cache", key)
        await self._topology.call(Call(partition, [b"DEL", name]))

    async def take(self, bucket: str, cost: float, *, rate: float, burst: float) -> int:
        partition, name = self._keys.named("bucket", bucket)
        wait_ms: int = await self._run(
            self._scripts.take, partition, [name], repr(cost), repr(rate), repr(burst)
        )
        return wait_ms

    async def _run(self, script: Script, partition: int, keys: list[bytes], *args: Any) -> Any:
        line = [b"EVALSHA", script.sha, len(keys), *keys, *args]
        return await self._topology.call(Call(partition, line, script=script))


def _ms(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
