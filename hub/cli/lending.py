"""Without Redis the backplane is the memory of the process that has the sockets, and its door is a
node on it: the door sends one end of a socket to that process, by the pair of sockets that it is
handed connections by (``hub.transports.door``), and keeps the other.

The pair outlives both of them, so that either may be started again: who asks of a process that is
not there yet waits for it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Final

from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.memory_server import MemoryServer
from hub.backplane.remote_memory import RemoteMemory

_ASK: Final = b"m"


@asynccontextmanager
async def backplane(
    near: socket.socket | None,
    far: socket.socket | None,
    leave_s: float,
    lost: Callable[[], None],
) -> AsyncIterator[Backplane]:
    """The backplane of one of the two: of the door if it has the ``far`` end of their pair, else of
    the other, with the ``near`` end if there is a door. ``leave_s``: how long, in seconds, the door
    may use the memory that the other is about to end with. ``lost``: called when it is gone.
    """
    if far is not None:
        yield RemoteMemory(_ask(far), lost)
        return
    shared = MemoryShared()
    async with _lent(shared, near, leave_s) if near is not None else nullcontext():
        yield MemoryBackplane(shared)


def _ask(far: socket.socket) -> socket.socket:
    """The door's end of a socket to the memory."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with theirs:
        socket.send_fds(far, [_ASK], [theirs.fileno()])
    return ours


@asynccontextmanager
async def _lent(shared: MemoryShared, near: socket.socket, leave_s: float) -> AsyncIterator[None]:
    """Meanwhile whoever asks by ``near`` is a node on ``shared``."""
    loop, server = asyncio.get_running_loop(), MemoryServer(shared)

    def asked() -> None:
        try:
            _, descriptors, _, _ = socket.recv_fds(near, len(_ASK), 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            joint = socket.socket(fileno=descriptor)
            joint.setblocking(False)
            server.admit(joint)
        if not descriptors:  # nobody has the other end any more
            loop.remove_reader(near)

    loop.add_reader(near, asked)
    try:
        yield
    finally:
        loop.remove_reader(near)
        await server.close(leave_s)
