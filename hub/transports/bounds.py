"""The bounds of one WebSocket connection: what it may ask at once, and how long it waits."""

from typing import Final

MAX_IN_FLIGHT: Final = 64
"""Requests that one connection may have unanswered; the next is answered ``rate_limited``."""

DRAIN_S: Final = 3.0
"""How long a connection of a node that goes away waits for the answers under way."""

COME_BACK_MS: Final = 2_000
"""The clients of a node that goes away come back spread over this time."""

LARGE_BYTES: Final = 4_096
"""A longer reply waits for room in the outbox."""
