"""Memory: what the start-up made is left out of garbage collections; garbage does not pile up."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import thread_time
from typing import Any, Final

EVERY_S: Final = 60.0
LONGEST_S: Final = 0.02
"""Of a processor. A collection stops the event loop, and so every stream. After one that took more
than this none is asked for: the interpreter collects, as it always does, when there is a quarter
more to look at.
"""
CROWD: Final = 300
"""Connections from which on none is asked for, either: each has some hundred objects, and the first
collection beside a thousand took 55 to 99 ms.
"""


@asynccontextmanager
async def settled(connections: Callable[[], int] = int) -> AsyncIterator[None]:
    """Enter it when all is made that lives as long as the process: modules, models and tables are
    some hundred thousand objects, and a full collection that walks them stops the event loop for
    100 to 235 ms. ``connections``: how many there are at a time; by default none.

    Meanwhile what connections and requests leave in circles is collected each minute. Left to the
    interpreter, which waits for much more of it, it would spread over new pages from time to time:
    memory that grows by some MiB a day, of which little is in use.
    """
    gc.collect()
    gc.freeze()
    collecting = asyncio.create_task(_collect_each_minute(connections))
    try:
        yield
    finally:
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting


async def _collect_each_minute(connections: Callable[[], int]) -> None:
    took = began = 0.0

    def timed(phase: str, facts: dict[str, Any]) -> None:
        nonlocal took, began
        if facts["generation"] == 2:
            if phase == "start":
                began = thread_time()
            else:
                took = thread_time() - began

    gc.callbacks.append(timed)
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            if took <= LONGEST_S and connections() < CROWD:
                gc.collect()
    finally:
        gc.callbacks.remove(timed)
