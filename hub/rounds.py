"""Rounds: what a node does again and again, whatever came of it the last time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from hub.faults import Fault
from hub.telemetry.logs import log


class Rounds:
    """Awaits ``once()`` every ``every_s`` seconds. ``start()``, then ``await close()``.

    A round that fails is logged, and the next one comes: a loop that had ended would leave its work
    undone for as long as the node lives, and nobody would know.
    """

    def __init__(
        self,
        what: str,
        once: Callable[[], Awaitable[object]],
        *,
        every_s: float,
        first_s: float | None = None,
        spread: float = 0.0,
    ) -> None:
        """``what`` it is that is done, for the log: "could not …". ``first_s``: how long after its
        start the first round comes, if it is not a pause like the others. ``spread``: by what part
        a pause is shorter at most, at random: nodes that started together do not come together.
        """
        self._what = what
        self._once = once
        self._every_s = every_s
        self._first_s = first_s
        self._spread = spread
        self._woken = asyncio.Event()
        self._going: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._going = asyncio.create_task(self._go())

    def wake(self) -> None:
        """Have a round now, or as soon as the one that is under way is over."""
        self._woken.set()

    async def close(self) -> None:
        """Stop, in the middle of a round, too. Idempotent."""
        if self._going is not None:
            self._going.cancel()
            await asyncio.gather(self._going, return_exceptions=True)

    async def _go(self) -> None:
        pause_s = self._first_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s() if pause_s is None else pause_s):
                    await self._woken.wait()
            pause_s = None
            self._woken.clear()
            try:
                await self._once()
            except Fault as fault:
                log.warning(f"could not {self._what}", why=fault.reason)
            except Exception:
                log.exception(f"could not {self._what}")

    def _pause_s(self) -> float:
        return self._every_s * random.uniform(1.0 - self._spread, 1.0)  # noqa: S311  # no secret
