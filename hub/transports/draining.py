"""How a node's clients are sent elsewhere: told at once, and let go one after the other.

Who comes back does so when its connection ends. Ended together, the clients of a large node would
all return in the same second, to nodes that have their own to serve; so each has a moment of its
own in the drain window, and only a node with few clients is done at once.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

from hub.telemetry.logs import log

FULL_AT: Final = 5_000
"""Clients from which on the whole window is used; fewer are let go at the same pace, in less."""
LAST_WORDS_S: Final = 0.5
"""What is left for closing handshakes when the window is over; then connections are cut."""
AT_ONCE: Final = 200
"""Clients that are told in one turn of the loop."""


class Leaver(Protocol):
    """A client's connection, of whatever kind."""

    def told(self, left_s: float) -> None:
        """It will be asked to leave in so many seconds."""

    def leave(self) -> None:
        """End it as soon as what it has under way is answered."""

    def leave_now(self) -> None:
        """End it, whatever is under way. Idempotent, as ``leave`` is."""


class Place(Protocol):
    """Where the connections of one kind are."""

    def shut(self) -> Collection[Leaver]:
        """From now on whoever comes is sent away. Those who are here."""

    async def empty(self) -> None:
        """Return when nobody is here."""


def moments(clients: int, window_s: float) -> list[float]:
    """When each of so many clients leaves, in seconds from the beginning: evenly spread, in order,
    the first at once, and the last in time to be gone when the window is over.
    """
    over = window_s * 0.9 * min(1.0, clients / FULL_AT)
    return [over * at / clients for at in range(clients)]


class Draining:
    """The end of a node's service, which begins once.

    ``window_s`` is how long it may take (0: at once), ``others`` what else is to end in this time.
    """

    def __init__(
        self,
        window_s: float,
        places: Collection[Place],
        others: Collection[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        self._window_s = window_s
        self._places = places
        self._others = others
        self._hurried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        return self._task is not None

    def begin(self) -> None:
        """Tell everybody, and let them go. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def hurry(self) -> None:
        """Do not wait any more for who is left, or for what is under way."""
        self._hurried.set()

    async def over(self) -> None:
        """Return when all have left and the others have ended, or the window is over."""
        self.begin()
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        leavers = [leaver for place in self._places for leaver in place.shut()]
        due = moments(len(leavers), self._window_s)
        log.info("the node drains", clients=len(leavers), window_s=self._window_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for at, leaver in enumerate(leavers):
            leaver.told(max(0.0, began + due[at] - loop.time()))
            if at % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        await self._within(
            self._send_away(leavers, [began + after_s for after_s in due]),
            *(other() for other in self._others),
        )
        for leaver in leavers:
            leaver.leave_now()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._empty()

    async def _within(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Do these, until all are done, the window is over, or somebody is in a hurry."""
        tasks = [asyncio.create_task(part) for part in parts]
        hurried = asyncio.create_task(self._hurried.wait())
        done = asyncio.create_task(_all(tasks))
        try:
            await asyncio.wait(
                {hurried, done}, timeout=self._window_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (*tasks, hurried, done):
                task.cancel()
            ends = await asyncio.gather(*tasks, hurried, done, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                log.error("a part of the drain failed", exc_info=end)

    async def _send_away(self, leavers: list[Leaver], due: list[float]) -> None:
        clock = asyncio.get_running_loop().time
        for leaver, at in zip(leavers, due, strict=True):
            if (left := at - clock()) > 0:
                await asyncio.sleep(left)
            leaver.leave()
        await self._empty()

    async def _empty(self) -> None:
        for place in self._places:
            await place.empty()


async def _all(tasks: list[asyncio.Task[None]]) -> bool:
    await asyncio.wait(tasks)
    return True
