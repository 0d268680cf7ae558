"""The bounds of one WebSocket connection: what it may ask at once, and how long it waits."""

from typing import Final

DRAIN_S: Final = 3.0
"""How long a connection of a node that goes away waits for the answers under way."""

COME_BACK_MS: Final = 500
"""A client that a node has let go comes back within this time. It is short: who leaves a node is
spread by when it is let go (``draining``)."""

LARGE_BYTES: Final = 4_096
"""A longer reply waits for room in the outbox."""

READS_AT_ONCE: Final = 8
"""Reads of one connection that are worked on, or whose replies wait for room in the outbox; others
wait before they are begun. A reply has up to 1 MiB.
"""
