"""When to come back after a connection was lost, when not, and what may then be asked again.
Pure but for the dice.

Full jitter: a wait is drawn evenly from zero to a bound that doubles with each failure in a row
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that clients that
lost one node together do not return together.
"""

import random
from collections.abc import Callable
from typing import Final

from hub_client.frames import Request

SAFE_VERBS: Final = frozenset({"get", "list", "info", "ping", "history", "presence", "search"})
SAFE_METHODS: Final = frozenset({"run.cancel", "channel.subscribe", "channel.unsubscribe"})

FIRST_S: Final = 0.5
CAP_S: Final = 30.0
MOST_S: Final = 300.0
"""The longest wait that a hub may ask for."""
STABLE_S: Final = 5.0
"""A connection that was ready for this long ends the row of failures. Less, and a hub that
accepts and closes at once would be called without pause."""

RATE_LIMITED: Final = 4029
TOKEN_EXPIRED: Final = 4005


class Backoff:
    """The waits between attempts, in seconds."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self.failures = 0

    def another(self) -> "Backoff":
        """One with the same dice and no failures."""
        return Backoff(self._draw)

    def lost(self, *, ready_for: float, code: int = 1006, retry_after: float = 0.0) -> float:
        """Seconds to wait now that a connection was lost that had been ready for so long.

        ``retry_after``: what the hub asked for, on top of the jitter.
        """
        if ready_for >= STABLE_S:
            self.failures = 0
        if code == RATE_LIMITED:
            self.failures = max(self.failures, 4)
        return min(retry_after, MOST_S) + self.failed()

    def failed(self) -> float:
        """Seconds to wait now that an attempt failed."""
        bound = float(min(CAP_S, FIRST_S * 2 ** min(self.failures, 16)))
        self.failures += 1
        return self._draw() * bound


def is_safe(request: Request) -> bool:
    """Whether sending it twice does what sending it once does."""
    if request.method == "message.send":
        return "client_message_id" in request.params
    family, _, verb = request.method.rpartition(".")
    return request.method in SAFE_METHODS or (family != "" and verb in SAFE_VERBS)
