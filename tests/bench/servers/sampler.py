"""Sampler: where a server's CPU time goes, by looking at its stack every millisecond of it.

SIGPROF comes by CPU time and is handled on the main thread, so that the cost of what is measured is
hardly changed (cProfile would triple it). Other threads are told apart by the clock of each.
"""

import asyncio
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

EVERY_S: Final = 0.001

Stages = Sequence[tuple[str, Sequence[str]]]
"""Their names, and words. A look counts for the first whose words are in ``file:function`` of a
frame, looking from the innermost frame outwards; for ``loop`` if there is none.
"""

STAGES: Final[Stages] = (  # of a run
    ("model stream", ("hub/inference", "ollama/", "httpx/", "httpcore/")),
    ("database", ("hub/storage", "sqlalchemy/", "aiosqlite", "sqlmodel/", "asyncpg/")),
    ("run log", ("hub/agents/run_log",)),
    ("backplane", ("hub/backplane", "redis/")),
    ("fan-out", ("hub/events",)),
    ("runner", ("hub/agents",)),
    ("requests", ("hub/operations", "hub/identity", "hub/rbac")),
    ("socket", ("hub/transports", "hub/protocol", "uvicorn/", "websockets/", "starlette/")),
    ("metrics", ("prometheus_client/",)),
)


class Sampler:
    """Samples the process it is in."""

    def __init__(self) -> None:
        self._stages: Counter[str] = Counter()
        self._leaves: Counter[str] = Counter()
        self._by: Stages = STAGES

    async def run(self, seconds: float, by: Stages = STAGES) -> dict[str, Any]:
        """Sample for so long: shares by stage, the busiest functions, and seconds of threads."""
        self._by = by
        self._stages.clear()
        self._leaves.clear()
        before, began = _thread_clocks(), time.process_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        try:
            await asyncio.sleep(seconds)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        after = _thread_clocks()
        total = max(1, self._stages.total())
        return {
            "looks": self._stages.total(),
            "cpu_s": time.process_time() - began,
            "threads_s": {name: after[name] - before.get(name, 0.0) for name in after},
            "stages": {name: hits / total for name, hits in self._stages.most_common()},
            "leaves": {name: hits / total for name, hits in self._leaves.most_common(40)},
        }

    async def beside(self, work: Awaitable[object], seconds: float, by: Stages) -> dict[str, Any]:
        """Sample for so long while ``work`` is done, and wait for its end."""
        sampling = asyncio.create_task(self.run(seconds, by))
        await work
        return await sampling

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        code = frame.f_code
        self._leaves[f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1
        self._stages[_stage(frame, self._by)] += 1


def _stage(frame: FrameType | None, stages: Stages) -> str:
    while frame is not None:
        place = f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"
        for name, words in stages:
            if any(word in place for word in words):
                return name
        frame = frame.f_back
    return "loop"


def _thread_clocks() -> dict[str, float]:
    if sys.platform != "linux":
        return {}
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        if thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            found[thread.name] = found.get(thread.name, 0.0) + time.clock_gettime(clock)
    return found
