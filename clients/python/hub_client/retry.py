"""When to come back after a connection was lost, and when not. Pure but for the dice.

Full jitter: a wait is drawn evenly from zero to a bound that doubles with each failure in a row
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that clients that
lost one node together do not return together.
"""

import json
import random
import re
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.5
CAP_S: Final = 30.0
STABLE_S: Final = 5.0
"""A connection that was ready for this long ends the row of failures. Less, and a hub that
accepts and closes at once would be called without pause."""

RATE_LIMITED: Final = 4029
DRAINING: Final = 4001
TOKEN_EXPIRED: Final = 4005

_RETRY_AFTER = re.compile(r"(?:retry_after_ms\D{0,4})?(\d{1,7})")


class Backoff:
    """The waits between attempts, in seconds."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self.failures = 0

    def lost(self, *, ready_for: float, code: int = 1006, reason: str = "") -> float:
        """Seconds to wait now that a connection was lost that had been ready for so long."""
        if ready_for >= STABLE_S:
            self.failures = 0
        if code == RATE_LIMITED:
            self.failures = max(self.failures, 4)
        asked = retry_after_s(reason) if code in (DRAINING, RATE_LIMITED) else 0.0
        return asked + self.failed()

    def failed(self) -> float:
        """Seconds to wait now that an attempt failed."""
        bound = float(min(CAP_S, FIRST_S * 2 ** min(self.failures, 16)))
        self.failures += 1
        return self._draw() * bound


def retry_after_s(reason: str) -> float:
    """The ``retry_after_ms`` of a close reason, in seconds; 0 if it holds none."""
    try:
        value = json.loads(reason)
    except ValueError:
        found = _RETRY_AFTER.search(reason)
        value = int(found[1]) if found else 0
    if isinstance(value, dict):
        value = value.get("retry_after_ms")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return min(max(float(value), 0.0) / 1000, 120.0)
