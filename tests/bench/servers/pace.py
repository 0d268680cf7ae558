"""Pace: events at a steady rate, the same way in every server that is compared."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

DELTA: Final = " and so the light that is scattered most is the one with the shortest waves"
EVENT: Final = (
    '{"type":"TEXT_MESSAGE_CONTENT","messageId":"m_01JD8Q6ZK5T0W3X9Y2V7B4N1CA",'
    f'"delta":"{DELTA}"' + "}"
)
"""An event of a run as it is appended: some 150 bytes."""

CHANNEL: Final = "conversation:c_01JD8Q6ZK5T0W3X9Y2V7B4N1CB"
EPOCH: Final = "e0123456789abcdef"

TIMER_S: Final = 0.002
"""How much later than they are set timers may go off in a loop that is idle."""


async def paced(count: int, rate: float, emit: Callable[[], Awaitable[None]]) -> None:
    """Await ``emit`` ``count`` times, ``rate`` times a second."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(1, count + 1):
        await emit()
        await asyncio.sleep(max(0.0, start + number / rate - loop.time()))


async def steady(
    channels: Sequence[str],
    rate: float,
    seconds: float,
    emit: Callable[[str, float], object],
    stop: asyncio.Event | None = None,
) -> int:
    """Call ``emit`` with each channel ``rate`` times a second, evenly spread, until the time is
    over or ``stop`` is set; how often it was.

    It is told, too, how many seconds too late that is, but for what a timer may be: what the loop
    was busy for while the event was due counts, though it was not made yet.
    """
    start, a_second = time.monotonic(), len(channels) * rate
    total, done = round(a_second * seconds), 0
    while done < total and not (stop is not None and stop.is_set()):
        passed = time.monotonic() - start
        due = min(total, int(passed * a_second) + 1)
        for number in range(done, due):
            late = passed - number / a_second - TIMER_S
            emit(channels[number % len(channels)], max(0.0, late))
        done = due
        # uvloop's timers go by milliseconds: less would be none, and spin.
        await asyncio.sleep(max(0.001, start + done / a_second - time.monotonic()))
    return done
