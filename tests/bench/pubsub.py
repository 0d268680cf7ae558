"""Pub/sub: a child that publishes to Redis or listens to it, and does nothing else.

The floor of what goes from node to node: ``PUBLISH`` on a raw connection, hiredis at the other end.
"""

import asyncio
import sys
from typing import cast

import hiredis
import uvloop

from hub.backplane.redis_server import pack
from tests.bench.ages import Ages, stamped
from tests.bench.child import obey
from tests.bench.servers.pace import steady


class Line(asyncio.Protocol):
    """A connection to Redis that is written to without waiting for the answers."""

    def __init__(self, ages: Ages) -> None:
        self._ages = ages
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports do not inherit.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, list) and answer[0] == b"message":
                self._ages.heard(answer[2])
            else:
                self.answers += 1

    def send(self, *words: object) -> None:
        assert self._transport is not None
        self._transport.write(pack(*words))

    async def answered(self, count: int) -> None:
        """Wait for so many answers in all."""
        while self.answers < count:  # noqa: ASYNC110 - an event would be work for each
            await asyncio.sleep(0.001)


async def main() -> None:
    ages = Ages()
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(lambda: Line(ages), "127.0.0.1", int(sys.argv[1]))

    async def listen(channels: list[str]) -> None:
        line.send("SUBSCRIBE", *channels)
        await line.answered(len(channels))

    async def publish(channels: list[str], rate: float, seconds: float) -> int:
        line.answers = 0
        count = await steady(
            channels,
            rate,
            seconds,
            lambda channel, late_s: line.send("PUBLISH", channel, stamped(late_s=late_s)),
        )
        await line.answered(count)
        return count

    async def take(count: int) -> dict[str, float | None]:
        """How old the messages were, once so many have come."""
        await ages.reached(count, within=10.0)
        return ages.take()

    await obey({}, {"listen": listen, "publish": publish, "take": take})


if __name__ == "__main__":
    uvloop.run(main())
