"""The door of a hub that is one process (``hub.transports.door``): that process keeps it, and
without Redis lends it the memory that is their backplane.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import Counter

from hub.backplane.memory import MemoryShared
from hub.backplane.memory_server import MemoryServer
from hub.cli.kept import AT_ONCE, END, Child, Kept, ended, joint
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

    def handover(self, counter: Counter) -> Handover:
        """The way to the door, open while somebody is there."""
        self._handover = Handover(self._near, counter)
        self._handover.open = self._kept.up
        return self._handover

    def end(self, word: bytes = END) -> None:
        """Tell the door to end, and hand nobody over any more."""
        if self._handover is not None:
            self._handover.open = False
            self._handover = None
        self._kept.end(word)

    async def close(self, keeping: "asyncio.Task[int]", within_s: float) -> None:
        """See the door off; ``keeping`` is the task of ``keep``."""
        self.end()
        await ended([self._kept], [keeping], within_s)
        if self._memory is not None:
            await self._memory.close()
        self._near.close()
        self._far.close()

    async def keep(self) -> int:
        """Have it until it has been told to end, and has."""
        return await self._kept.keep()

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
    """Meanwhile there is a door. At the end it has ``within_s`` seconds to end, too."""
    door = OwnDoor(settings, shared)
    keeping = asyncio.create_task(door.keep())
    try:
        yield door
    except BaseException:
        door.end(AT_ONCE)
        raise
    finally:
        await door.close(keeping, within_s)
