"""The door of a hub that is one process (``hub.transports.door``): that process keeps it, and
without Redis lends it the memory that is their backplane.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from prometheus_client import Counter

from hub.backplane.memory import MemoryShared
from hub.backplane.memory_server import MemoryServer
from hub.cli.kept import AT_ONCE, END, Child, Kept, ended, joint
from hub.cli.signals import signals
from hub.settings import Settings
from hub.transports.door import Handover, pair, turn_away

NUMBER: Final = 1


class OwnDoor:
    """Keeps the door. ``shared``: what the backplane of this process holds, if that is memory."""

    def __init__(self, settings: Settings, shared: MemoryShared | None) -> None:
        self._settings = settings
        self._memory = None if shared is None else MemoryServer(shared)
        self._near, self._far = pair()
        self._kept = Kept(NUMBER, self._start, self._changed)
        self._handover: Handover | None = None
        self._keeping: asyncio.Task[int] | None = None

    def begin(self, counter: Counter) -> Handover:
        """Start the door. The way there, which is open while somebody is."""
        self._handover = Handover(self._near, counter)
        self._keeping = asyncio.create_task(self._kept.keep())
        return self._handover

    def end(self, word: bytes = END) -> None:
        """Tell the door to end, and hand nobody over any more."""
        if self._handover is not None:
            self._handover.open = False
            self._handover = None
        self._kept.end(word)

    async def close(self, within_s: float) -> None:
        """See the door off: it has ``within_s`` seconds, or none when it is asked for again."""
        self.end()
        if self._keeping is not None:
            at_once = partial(self.end, AT_ONCE)
            with signals(at_once, at_once):
                await ended([self._kept], [self._keeping], within_s)
        if self._memory is not None:
            self._memory.close()
        self._near.close()
        self._far.close()

    async def _start(self) -> Child:
        if self._memory is None:
            return await Child.start(self._settings, NUMBER, worker=False, far=self._far)
        ours, theirs = joint()
        self._memory.admit(ours)
        with theirs:
            return await Child.start(
                self._settings, NUMBER, worker=False, far=self._far, memory=theirs
            )

    def _changed(self) -> None:
        if not self._kept.up:
            turn_away(self._far)
        if self._handover is not None:
            self._handover.open = self._kept.up


@asynccontextmanager
async def own_door(
    settings: Settings, shared: MemoryShared | None, within_s: float
) -> AsyncIterator[OwnDoor]:
    """Meanwhile there can be a door, which at the end has ``within_s`` seconds to end, too."""
    door = OwnDoor(settings, shared)
    try:
        yield door
    finally:
        await door.close(within_s)
