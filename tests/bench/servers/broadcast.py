"""A peer of fan-out: ``websockets.broadcast`` on the server of the websockets library."""

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from hub.events.delivery import Delivery
from tests.bench.child import obey
from tests.bench.servers.listening import loopback
from tests.bench.servers.pace import CHANNEL, EPOCH, EVENT, paced


async def main() -> None:
    connections: set[ServerConnection] = set()
    text = Delivery(CHANNEL, EPOCH, 1234, EVENT.encode()).payload.decode()
    listening, port = loopback()

    async def keep(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            connections.discard(connection)

    async def emit() -> None:
        broadcast(connections, text)

    async def publish(count: int, rate: float) -> None:
        await paced(count, rate, emit)

    async with serve(keep, sock=listening, compression=None, close_timeout=1):
        await obey({"port": port}, {"publish": publish})


if __name__ == "__main__":
    uvloop.run(main())
