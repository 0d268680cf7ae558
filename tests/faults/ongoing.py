"""What goes on beside a test, which waits for what comes of it."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Ongoing:
    """``_more`` is to be set whenever it has come further."""

    def __init__(self) -> None:
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work)

    async def _break_off(self) -> None:
        assert self._task is not None
        self._task.cancel()
        [failure] = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(failure, AssertionError):  # what was heard after the last look, too
            raise failure

    async def until(self, true: Any, within: float = 15.0) -> None:
        """Wait until what has come of it satisfies ``true``. Raises what went wrong with it."""
        assert self._task is not None
        async with asyncio.timeout(within):
            while not true():
                self._more.clear()
                more = asyncio.create_task(self._more.wait())
                try:
                    await asyncio.wait({more, self._task}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    more.cancel()
                if self._task.done():
                    self._task.result()
                    raise AssertionError("it has ended: the node is gone")
