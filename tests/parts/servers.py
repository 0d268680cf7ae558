"""ASGI servers other than ours, which serve the real application."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, cast

import uvicorn
from hypercorn.asyncio import serve
from hypercorn.config import Config

from hub.app import Hub
from tests.parts.hub import Server


@asynccontextmanager
async def by_hypercorn(hub: Hub, listening: socket.socket) -> AsyncIterator[None]:
    config = Config()
    config.bind = f"fd://{listening.detach()}"
    config.keep_alive_timeout = 1.0  # a connection that the client has closed lasts as long, too
    config.errorlog = logging.getLogger("hypercorn.error")
    begun, over = asyncio.Event(), asyncio.Event()

    async def ended() -> None:
        begun.set()
        await over.wait()
        hub.drain()
        await hub.drained()

    task = asyncio.create_task(serve(cast(Any, hub.application), config, shutdown_trigger=ended))
    await begun.wait()
    try:
        yield
    finally:
        over.set()
        await task


@asynccontextmanager
async def by_uvicorn(hub: Hub, listening: socket.socket, **chosen: Any) -> AsyncIterator[None]:
    """uvicorn with protocols of its own, by default those that it takes itself."""
    config = uvicorn.Config(hub.application, lifespan="off", log_config=None, **chosen)
    server = uvicorn.Server(config)
    # Not serve(): the signals of the test run are pytest's.
    task = asyncio.create_task(server._serve([listening]))
    while not server.started:  # noqa: ASYNC110  # it has no event for that
        await asyncio.sleep(0)
    try:
        yield
    finally:
        hub.drain()
        await hub.drained()
        server.should_exit = True
        await task


SERVERS: Final[Mapping[str, Server]] = {
    "hypercorn": by_hypercorn,
    "uvicorn": by_uvicorn,
    "uvicorn with h11 and wsproto": partial(by_uvicorn, http="h11", ws="wsproto"),
}
