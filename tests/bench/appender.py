"""Appender: a child that appends to channels and hears what it appended.

As the runs of a node do: each of ``writers`` appends to its channel, waits for the answer, and
appends again; all that they do in one turn of the loop travels together.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis
import uvloop
from redis.asyncio.connection import parse_url

from hub.backplane.choice import open_backplane
from hub.backplane.redis_scripts import load_scripts
from hub.backplane.redis_server import pack
from hub.ids import new_id
from tests.bench.child import obey
from tests.bench.servers.pace import EVENT

DATA = EVENT.encode()


class Through:
    """The backplane of the hub: in memory, or on the Redis at ``url``."""

    def __init__(self, url: str | None) -> None:
        self._backplane = open_backplane(url, new_id("n"))
        self.heard = 0

    async def start(self, channels: list[str]) -> None:
        await self._backplane.start()
        for channel in channels:
            await self._backplane.subscribe(channel, self._hear)

    def _hear(self, channel: str, epoch: str, seq: int, data: bytes) -> None:
        self.heard += 1

    async def write(self, channels: list[str], events: int) -> None:
        async def writer(channel: str) -> None:
            for _ in range(events):
                await self._backplane.append(channel, DATA)

        await asyncio.gather(*map(writer, channels))

    async def close(self) -> None:
        await self._backplane.close()


class Bare:
    """The same script in plain pipelines of redis-py's connections, one append a channel each."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, protocol=2)
        options: dict[str, Any] = {**parse_url(url), "protocol": 2}
        self._writing = redis.Connection(**options)
        self._reading = redis.Connection(**options)
        self._script = load_scripts().append
        self._numbers = 0
        self._run = ""
        self._task: asyncio.Task[None] | None = None
        self.heard = 0

    async def start(self, channels: list[str]) -> None:
        self._run = (await self._client.info("server"))["run_id"]
        await self._client.script_load(self._script.text)
        await self._writing.connect()  # type: ignore[no-untyped-call]
        await self._reading.connect()  # type: ignore[no-untyped-call]
        names = [f"bare:{{p0}}:entries:{channel}".encode() for channel in channels]
        await self._reading.send_packed_command(pack("SUBSCRIBE", *names))
        for _ in names:
            await self._reading.read_response()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            await self._reading.read_response(disable_decoding=True)
            self.heard += 1

    async def write(self, channels: list[str], events: int) -> None:
        for _ in range(events):
            packed = b"".join([self._packed(channel) for channel in channels])
            await self._writing.send_packed_command(packed, check_health=False)
            for _ in channels:
                await self._writing.read_response(disable_decoding=True)

    def _packed(self, channel: str) -> bytes:
        self._numbers += 1
        number = self._numbers
        names = [f"bare:{{p0}}:{kind}:{channel}" for kind in ("meta", "log")]
        return pack(
            "EVALSHA", self._script.sha, 2, *names, self._run, number, number, "bare", "e1", b"",
             b"", 10_000, 86_400_000, 3_600_000, b"PUBLISH", f"bare:{{p0}}:entries:{channel}", DATA,
        )  # fmt: skip

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._writing.disconnect()
        await self._reading.disconnect()
        await self._client.aclose()


async def main() -> None:
    kind, url = sys.argv[1], sys.argv[2] or None
    way = Bare(url) if kind == "bare" and url else Through(url)
    channels = [f"conversation:{new_id('c')}" for _ in range(int(sys.argv[3]))]
    await way.start(channels)

    async def write(events: int) -> float:
        """Append to every channel so often, hear all of it; µs of this process's CPU for each."""
        way.heard = 0
        wanted = events * len(channels)
        before = time.process_time()
        await way.write(channels, events)
        while way.heard < wanted:  # noqa: ASYNC110 - an event would be work for each that is heard
            await asyncio.sleep(0.001)
        return (time.process_time() - before) / wanted * 1e6

    commands: dict[str, Callable[..., Awaitable[Any]]] = {"write": write}
    await obey({}, commands)
    await way.close()


if __name__ == "__main__":
    uvloop.run(main())
