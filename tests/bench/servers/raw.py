"""The floor of fan-out: a prebuilt frame, written to the transport of each subscriber."""

import asyncio
from typing import Any, cast

import uvloop

from hub.events.delivery import Delivery
from tests.bench.child import Command, obey
from tests.bench.servers.listening import loopback
from tests.bench.servers.pace import CHANNEL, EPOCH, EVENT, paced
from tests.bench.servers.sampler import Sampler, Stages

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Raw(asyncio.Protocol):
    """Switches to WebSocket without looking, and reads nothing."""

    def __init__(self, transports: set[asyncio.Transport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports do not inherit.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self._transport.write(SWITCH)
            self._transports.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transports.discard(self._transport)


async def main() -> None:
    transports: set[asyncio.Transport] = set()
    listening, port = loopback()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Raw(transports), sock=listening)
    # As long as the hub's own frame of this event.
    frame = Delivery(CHANNEL, EPOCH, 1234, EVENT.encode()).frame

    async def emit() -> None:
        for transport in transports:
            transport.write(frame)

    async def publish(count: int, rate: float) -> None:
        await paced(count, rate, emit)

    async def sample_publishing(
        seconds: float, stages: Stages, count: int, rate: float
    ) -> dict[str, Any]:
        return await Sampler().beside(publish(count, rate), seconds, stages)

    async with server:
        commands: dict[str, Command] = {
            "publish": publish,
            "sample_publishing": sample_publishing,
        }
        await obey({"port": port}, commands)


if __name__ == "__main__":
    uvloop.run(main())
