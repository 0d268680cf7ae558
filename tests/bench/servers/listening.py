"""Listening: a port of the loopback address, and uvicorn on it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

BACKLOG = 2_048


def loopback() -> tuple[socket.socket, int]:
    """A listening socket and its port."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening, listening.getsockname()[1]


@asynccontextmanager
async def serving(server: uvicorn.Server, listening: socket.socket) -> AsyncIterator[None]:
    """The server serves inside the block."""
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.001)
        if task.done():
            task.result()
    try:
        yield
    finally:
        server.should_exit = True
        await task


def bare(application: object) -> uvicorn.Server:
    """uvicorn as the hub sets it up, but for the hub's own protocol class."""
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        ws="websockets-sansio",
        http="httptools",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
