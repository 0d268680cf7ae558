"""Ports for servers of the tests."""

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """A port that nobody listens on now, at any address, and of none of those that the kernel gives
    to connections that go out, or one of them would have it before it is listened on.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
