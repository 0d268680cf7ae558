"""A peer of fan-out: python-socketio, one room, on uvicorn; with a URL, on its Redis manager."""

import sys

import orjson
import socketio
import uvloop

from hub.events.delivery import Delivery
from tests.bench.child import obey
from tests.bench.servers.listening import bare, loopback, serving
from tests.bench.servers.pace import CHANNEL, EPOCH, EVENT, paced


async def main() -> None:
    # No pings while we measure; the hub's own come every 25 s and are not seen either.
    manager = socketio.AsyncRedisManager(sys.argv[1]) if len(sys.argv) > 1 else None
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, ping_interval=3600)
    # The same facts as the hub's frame has.
    fields = orjson.loads(Delivery(CHANNEL, EPOCH, 1234, EVENT.encode()).payload)["params"]
    listening, port = loopback()

    @server.event  # type: ignore[untyped-decorator]
    async def connect(sid: str, environ: object) -> None:
        await server.enter_room(sid, CHANNEL)

    async def emit() -> None:
        await server.emit("event", fields, room=CHANNEL)

    async def publish(count: int, rate: float) -> None:
        await paced(count, rate, emit)

    async with serving(bare(socketio.ASGIApp(server)), listening):
        await obey({"port": port}, {"publish": publish})


if __name__ == "__main__":
    uvloop.run(main())
