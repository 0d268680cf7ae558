"""The door: sign-ins are served by a process of their own.

A request over HTTP holds up the event loop that serves it for half a millisecond, a sign-in for
several times that, and all that streams there waits meanwhile. Where a hub has a door, those of
its processes that have sockets hand a connection that asks for ``/v1/auth/`` over to it: the
descriptor as it stands (SCM_RIGHTS, unix(7)), with what was read of it. The door is a node like any
other, and answers whatever the connection asks for after that.

When the door is away, or more waits for it than a socket holds, a sign-in is served where it came.
"""

import asyncio
import os
import re
import socket
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter

from hub.telemetry.logs import log

MOST_BYTES: Final = 16_384
"""Of a connection that more was read of, it is served where it came."""
AT_ONCE: Final = 16
"""Connections that the door takes in one turn of its loop."""

_SIGN_IN: Final = re.compile(rb"[A-Z]{1,16} /v1/auth/")


def asks_for_door(data: bytes) -> bool:
    """Whether these first bytes of a request are one for ``/v1/auth/``."""
    return _SIGN_IN.match(data) is not None


class Handover:
    """The way to the door, for a process that has sockets. ``open``: whether somebody is there."""

    def __init__(self, near: socket.socket, counter: Counter) -> None:
        """``near``: an end of a pair of Unix sockets that keep messages apart, and do not block."""
        self.open = False
        self._near = near
        self._handed = counter.labels("handed")
        self._kept = counter.labels("kept")

    def take(self, descriptor: int, data: bytes) -> bool:
        """Whether the connection is the door's from now on: then it is to be let go of here."""
        if not asks_for_door(data):
            return False
        if self.open and len(data) <= MOST_BYTES:
            try:
                socket.send_fds(self._near, [data], [descriptor])
            except OSError as error:  # it has more than it can take
                log.debug("a sign-in was not handed over", why=str(error))
            else:
                self._handed.inc()
                return True
        self._kept.inc()
        return False


class Door:
    """Takes in what other processes hand over. ``open``, then ``close``."""

    def __init__(
        self,
        far: socket.socket,
        protocol: Callable[[bytes], asyncio.Protocol],
        counter: Counter,
    ) -> None:
        """``far``: the other end. ``protocol``: one for a connection of which this was read."""
        self._far = far
        self._protocol = protocol
        self._taken = counter.labels("taken")
        self._coming: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin."""
        asyncio.get_running_loop().add_reader(self._far, self._come)

    def close(self) -> None:
        """Take in no more. Idempotent."""
        asyncio.get_running_loop().remove_reader(self._far)

    def _come(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._far, MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            if not data:  # nobody has the other end any more
                self.close()
                return
            if not descriptors:  # this process may open no more files: theirs is closed
                log.error("a sign-in could not be taken in: too many open files")
            for descriptor in descriptors:
                self._taken.inc()
                task = asyncio.create_task(self._let_in(socket.socket(fileno=descriptor), data))
                self._coming.add(task)
                task.add_done_callback(self._coming.discard)

    async def _let_in(self, connection: socket.socket, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(data), connection
            )
        except OSError as error:
            log.debug("a connection was gone before it was taken in", why=str(error))
            connection.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, near and far, that are given to the processes."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def turn_away(far: socket.socket) -> int:
    """Close what waits for a door that is gone, so that nobody waits with it; how many."""
    count = 0
    while True:
        try:
            _, descriptors, _, _ = socket.recv_fds(far, MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            break
        for descriptor in descriptors:
            count += 1
            os.close(descriptor)
    if count:
        log.warning("the door is gone; who stood there was turned away", connections=count)
    return count
