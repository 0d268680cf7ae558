"""The hub's own server, in this event loop, with an application that sends back what it is sent."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from hub.app import Hub
from hub.cli import serving
from tests.interaction.drivers import eventually
from tests.parts.standing import gone

Application = Callable[[Any, Any, Any], Awaitable[None]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


class _Bare:
    """As much of a hub as its server needs."""

    services = SimpleNamespace(settings=SimpleNamespace(drain_s=0))

    def __init__(self, application: Application) -> None:
        self.application = application

    def drain(self) -> None: ...

    async def drained(self) -> None: ...


@asynccontextmanager
async def echo_server(
    application: Application = echo,
) -> AsyncIterator[tuple[serving.HubServer, str]]:
    """The hub's server with an echo for an application, or another one, and its address. Nothing
    is left of it.
    """
    server = serving.HubServer(cast(Hub, _Bare(application)))
    async with gone():
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        listening.setblocking(False)
        task = asyncio.create_task(server._serve([listening]))

        async def started() -> bool:
            return server.started

        await eventually(started)
        try:
            yield server, f"ws://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            await task
