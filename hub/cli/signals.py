"""The signals that end a process: SIGTERM and SIGINT."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hub.telemetry.logs import log

SAME_WISH_S: Final = 0.5


@contextmanager
def signals(stop: Callable[[], None], at_once: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT calls ``stop``; one that comes later, ``at_once``.

    Two that come together are one: a terminal, a supervisor and a parent may each pass on the same
    wish.
    """
    loop = asyncio.get_running_loop()
    asked_at: float | None = None

    def asked() -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = loop.time()
            stop()
        elif loop.time() - asked_at >= SAME_WISH_S:
            log.info("told again to end: at once")
            at_once()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, asked)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
