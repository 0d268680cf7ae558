"""Ages: events that carry the time they were made, and how old they were when they were heard.

The clock is the machine's monotonic one, which its processes share.
"""

import asyncio
import re
import time
from typing import Final

from tests.bench.servers.pace import DELTA

_STAMP: Final = re.compile(rb"@(\d+);")


def stamped(size: int = 0, late_s: float = 0.0) -> bytes:
    """An event of a run, made now and ``late_s`` too late, with ``size`` bytes more of text than
    usual. Joined with others it carries the stamps of all.
    """
    return (
        b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m_01JD8Q6ZK5T0W3X9Y2V7B4N1CA",'
        b'"delta":"@%d;%s%s"}'
        % (time.monotonic_ns() - int(late_s * 1e9), DELTA.encode(), b"." * size)
    )


def percentile(values: list[float], of: float) -> float | None:
    """The value that ``of`` percent of them do not exceed; None without any."""
    ordered = sorted(values)
    return None if not ordered else ordered[min(len(ordered) - 1, int(len(ordered) * of / 100))]


def stamps(payload: bytes) -> list[float]:
    """When the events in it were made, in seconds of ``time.monotonic``."""
    return [int(stamp) / 1e9 for stamp in _STAMP.findall(payload)]


class Ages:
    """How old stamped events were, in milliseconds, when ``heard`` was given them."""

    def __init__(self) -> None:
        self._ages: list[float] = []

    def heard(self, payload: bytes) -> None:
        now = time.monotonic_ns()
        self._ages += [(now - int(stamp)) / 1e6 for stamp in _STAMP.findall(payload)]

    async def reached(self, count: int, within: float) -> None:
        """Wait until so many were heard, or the time is over."""
        deadline = time.monotonic() + within
        # An event would be work for each that is heard.
        while len(self._ages) < count and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def take(self) -> dict[str, float | None]:
        """How many, and their percentiles; begin anew."""
        ages, self._ages = self._ages, []
        return {
            "count": len(ages),
            "p50": percentile(ages, 50),
            "p99": percentile(ages, 99),
            "most": max(ages, default=None),
        }
