"""What a hub in this process holds: nothing of what was done with it and is over, while it serves,
and nothing at all once it has ended.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from tests.parts.hub import ServedHub

WITHIN_S: Final = 8.0

Held = Counter[str]
"""How many there are, by what they are."""


def descriptors() -> Held:
    """What this process has open: ``socket``, ``pipe``, a file by its path; not the loops of others
    (``anon_inode``), which a library that brings its own makes once and keeps.
    """
    held: Held = Counter()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed since it was listed
            held[os.readlink(one).partition(":")[0]] += 1
    del held["anon_inode"]
    return held


def tasks() -> Held:
    """The tasks of this loop, but the one that asks, by their coroutines."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return Counter(getattr(task.get_coro(), "__qualname__", "") for task in others)


def _served(served: ServedHub) -> Held:
    sample = served.hub.services.metrics.registry.get_sample_value
    held = tasks()
    for gauge in ("hub_connections", "hub_subscriptions"):
        held[gauge] = int(sample(gauge) or 0)
    return held


async def _until(held: Callable[[], Held], before: Held) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while held() - before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"left behind: {dict(held() - before)}") from None


@asynccontextmanager
async def gone() -> AsyncIterator[None]:
    """What begins and ends in the block leaves no task and no descriptor behind."""
    before = tasks(), descriptors()
    yield
    await _until(tasks, before[0])
    await _until(descriptors, before[1])


_accounted: list[ServedHub] = []


@asynccontextmanager
async def accounted(serving: AbstractAsyncContextManager[ServedHub]) -> AsyncIterator[ServedHub]:
    """A hub that is to leave nothing behind: of whom it has served when the block is over, and of
    itself when it has ended. Of several in this loop, the first answers for all.
    """
    before = tasks(), descriptors()
    first = not _accounted
    async with serving as served:
        _accounted.append(served)
        try:
            held = _served(served)
            yield served
            if first and not served.somebody_stays:
                await _until(lambda: _served(served), held)
        finally:
            _accounted.remove(served)
    if first and not served.somebody_stays:
        await _until(tasks, before[0])
        await _until(descriptors, before[1])


class _Handler(logging.Handler):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._seen.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def tracebacks() -> Iterator[list[str]]:
    """The lines with a traceback that are logged in this process meanwhile."""
    seen: list[str] = []

    def look(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        if event.get("exc_info"):
            seen.append(f"{event['event']}: {event['exc_info']!r}")
        return event

    handler = _Handler(seen)
    logging.getLogger().addHandler(handler)
    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[look, *processors])
    try:
        yield seen
    finally:
        structlog.configure(processors=processors)
        logging.getLogger().removeHandler(handler)
