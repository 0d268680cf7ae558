"""The floor of memory per connection: a WebSocket echo on uvicorn and Starlette, and no more."""

import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from tests.bench.child import obey
from tests.bench.servers.listening import bare, loopback, serving


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def main() -> None:
    listening, port = loopback()
    application = Starlette(routes=[WebSocketRoute("/", echo)])
    async with serving(bare(application), listening):
        await obey({"port": port}, {})


if __name__ == "__main__":
    uvloop.run(main())
