"""What a subscriber saw, and how to wait for it."""

import asyncio
from collections.abc import Awaitable, Callable

DEADLINE_S = 10.0

Seen = tuple[str, str, int, bytes]


async def eventually(true: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again until it is so. Raises TimeoutError after ``DEADLINE_S``."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if await true():
                return
            await asyncio.sleep(0.01)


class Sink:
    """An EntrySink, a ControlSink and a WhisperSink that remembers, and can be waited on."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.messages: list[bytes] = []
        self._more = asyncio.Event()

    def __call__(self, channel: str, epoch: str, seq: int, data: bytes) -> None:
        self.seen.append((channel, epoch, seq, data))
        self._more.set()

    def control(self, message: bytes) -> None:
        self.messages.append(message)
        self._more.set()

    def whisper(self, channel: str, data: bytes) -> None:
        self.seen.append((channel, "whisper" if data else "", 0, data))
        self._more.set()

    @property
    def data(self) -> list[bytes]:
        return [data for _, epoch, _, data in self.seen if epoch]

    @property
    def seqs(self) -> list[int]:
        return [seq for _, epoch, seq, _ in self.seen if epoch]

    @property
    def repairs(self) -> list[str]:
        """The channels of which messages may have been missed, in order."""
        return [channel for channel, epoch, _, _ in self.seen if not epoch]

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until this sink's records satisfy ``true``."""
        async with asyncio.timeout(DEADLINE_S):
            while not true():
                self._more.clear()
                await self._more.wait()

    async def count(self, entries: int) -> None:
        await self.until(lambda: len(self.data) >= entries)
