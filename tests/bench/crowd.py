"""Crowd: a child with many WebSocket clients that read and discard."""

import asyncio
import time
from typing import Any

import uvloop

from tests.bench.ages import Ages
from tests.bench.child import obey
from tests.bench.socket import AT_ONCE, Refused, Socket, open_sockets


class Crowd:
    """Groups of sockets, by name."""

    def __init__(self) -> None:
        self._groups: dict[str, list[Socket]] = {}
        self._ages: dict[str, Ages] = {}

    async def connect(self, group: str, greetings: list[str], **where: Any) -> None:
        """Open ``count`` sockets more, and let each send its greetings."""
        sockets = await open_sockets(**where)
        self._groups.setdefault(group, []).extend(sockets)
        for socket in sockets:
            for greeting in greetings:
                socket.send(greeting)

    async def request(self, group: str, texts: list[str]) -> None:
        """The newest sockets send a text each; some at a time, each of which gets a message.
        Raises Refused for one that is answered with an error.
        """
        errors: list[bytes] = []

        def heard(payload: bytes) -> None:
            if b'"error"' in payload[:60]:
                errors.append(payload)

        pairs = list(zip(self._groups[group][-len(texts) :], texts, strict=True))
        for at in range(0, len(pairs), AT_ONCE):
            batch = pairs[at : at + AT_ONCE]
            before = [socket.messages for socket, _ in batch]
            for socket, text in batch:
                socket.heard = heard
                socket.send(text)
            waiting = list(zip(batch, before, strict=True))
            while any(pair[0].messages == was for pair, was in waiting):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            for socket, _ in batch:
                socket.heard = None
            if errors:
                raise Refused(errors[0].decode())

    async def reset(self, group: str) -> None:
        for socket in self._groups.get(group, []):
            socket.messages = 0

    async def wait(
        self, group: str, messages: int, within: float, newest: int | None = None
    ) -> list[int]:
        """Wait until each, or each of the newest, has so many messages; the fewest, the most, and
        how many are closed.
        """
        sockets = self._groups[group][-newest if newest is not None else 0 :]
        deadline = time.monotonic() + within
        while min(socket.messages for socket in sockets) < messages:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.005)
        counts = [socket.messages for socket in sockets]
        return [min(counts), max(counts), sum(socket.closed for socket in sockets)]

    async def stamp(self, group: str) -> None:
        """From now on look how old the events are that the group hears."""
        ages = self._ages[group] = Ages()
        for socket in self._groups[group]:
            socket.heard = ages.heard

    async def aged(self, group: str, count: int, within: float) -> None:
        """Wait until so many stamped events were heard, or the time is over."""
        await self._ages[group].reached(count, within)

    async def ages(self, group: str) -> dict[str, float | None]:
        """How old they were; begin anew."""
        return self._ages[group].take()

    async def stall(self, group: str) -> None:
        """Read no more."""
        for socket in self._groups[group]:
            socket.stall()

    async def close(self, group: str) -> None:
        for socket in self._groups.pop(group):
            socket.close()


async def main() -> None:
    crowd = Crowd()
    await obey(
        {},
        {
            "connect": crowd.connect,
            "request": crowd.request,
            "reset": crowd.reset,
            "wait": crowd.wait,
            "stamp": crowd.stamp,
            "aged": crowd.aged,
            "ages": crowd.ages,
            "stall": crowd.stall,
            "close": crowd.close,
        },
    )


if __name__ == "__main__":
    uvloop.run(main())
