"""Appending: what a benchmark lets a hub append to its channels, beside what its own runs do."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any

from hub.backplane.interface import Appended, Backplane
from tests.bench.ages import stamped
from tests.bench.servers.pace import EVENT, paced, steady


class Appending:
    """The commands of a child, on the hub's backplane."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._streaming: asyncio.Task[int] | None = None
        self._stop = asyncio.Event()

    def commands(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """By the names that a child is told."""
        return {
            "publish": self.publish,
            "stream": self.stream,
            "begin_stream": self.begin_stream,
            "end_stream": self.end_stream,
            "finish_stream": self.finish_stream,
            "newest": self.newest,
        }

    async def publish(self, count: int, rate: float, channels: list[str], burst: int = 1) -> None:
        """Append the same event to the channels in turn, ``burst`` of them at a time."""
        turn, event = cycle(channels), EVENT.encode()

        async def emit() -> None:
            if burst == 1:
                await self._backplane.append(next(turn), event)
            else:
                appends = (self._backplane.append(next(turn), event) for _ in range(burst))
                await asyncio.gather(*appends)

        await paced(count // burst, rate / burst, emit)

    async def stream(self, channels: list[str], rate: float, seconds: float, size: int = 0) -> int:
        """Append stamped events to all of them, as many runs would; how many they were.

        ``size``: bytes of text beyond the usual ones.
        """
        appending: set[asyncio.Task[Appended]] = set()

        def emit(channel: str, late_s: float) -> None:
            event = stamped(size, late_s)
            task = asyncio.ensure_future(self._backplane.append(channel, event))
            appending.add(task)
            task.add_done_callback(appending.discard)

        count = await steady(channels, rate, seconds, emit, self._stop)
        await asyncio.gather(*appending)
        return count

    async def begin_stream(
        self, channels: list[str], rate: float, seconds: float, size: int = 0
    ) -> None:
        """The same beside other commands, until its end or ``end_stream``."""
        self._streaming = asyncio.create_task(self.stream(channels, rate, seconds, size))

    async def end_stream(self) -> int:
        """Stop it; how many events they were."""
        assert self._streaming is not None
        self._stop.set()
        count = await self._streaming
        self._stop.clear()
        return count

    async def finish_stream(self) -> int:
        """Wait until it is over; how many events they were."""
        assert self._streaming is not None
        return await self._streaming

    async def newest(self, channels: list[str]) -> list[int]:
        """The newest ``seq`` of each of their logs."""
        pages = [await self._backplane.read(channel, 0, 0) for channel in channels]
        return [page.last for page in pages]
