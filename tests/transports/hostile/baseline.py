"""What a hub process holds, so that a test can ask that nothing of it is left."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from hub.faults import CLOSES
from tests.parts.hub import HubProcess

WITHIN_S: Final = 20.0
DOCUMENTED: Final = {*CLOSES, 1002, 1003, 1007, 1009, 1011}
MEMORY_MIB: Final = 12.0
"""What allocators keep from one time to the next of what a hub gave back."""


@dataclass(frozen=True)
class Standing:
    """What a process holds. ``descriptors`` are of all kinds but the database's files, which SQLite
    opens and keeps as it sees fit; memory is what is resident.
    """

    connections: int
    subscriptions: int
    tasks: int
    descriptors: int
    memory_mib: float

    def within(self, before: "Standing", memory_mib: float) -> bool:
        return (
            self.connections <= before.connections
            and self.subscriptions <= before.subscriptions
            and self.tasks <= before.tasks
            and self.descriptors <= before.descriptors
            and self.memory_mib <= before.memory_mib + memory_mib
        )


class Watched:
    """A hub process whose standing can be looked at: it serves metrics on a port of their own."""

    def __init__(self, process: HubProcess, metrics_port: int) -> None:
        self.process = process
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws"

    async def standing(self) -> Standing:
        page = await self._page()
        assert self.process.process is not None
        home = Path(f"/proc/{self.process.process.pid}")
        pages = int((home / "statm").read_text().split()[1])
        return Standing(
            connections=_gauge(page, "hub_connections"),
            subscriptions=_gauge(page, "hub_subscriptions"),
            tasks=_gauge(page, "hub_tasks"),
            descriptors=_descriptors(home / "fd"),
            memory_mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        )

    async def settled(self) -> Standing:
        """The standing, once two looks in a row see the same."""
        async with asyncio.timeout(WITHIN_S):
            last = await self.standing()
            while True:
                await asyncio.sleep(0.05)
                now = await self.standing()
                if now.within(last, MEMORY_MIB) and last.within(now, MEMORY_MIB):
                    return now
                last = now

    async def _page(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(self._metrics)).text

    async def waiting(self) -> int:
        """The bytes that wait in outboxes."""
        return _gauge(await self._page(), "hub_outbox_bytes_gsum")

    async def closes(self) -> Counter[int]:
        """How many connections the hub has closed, by code."""
        page = await self._page()
        found = re.findall(r'^hub_closes_total\{by="hub",code="(\d+)"\} (\S+)$', page, re.M)
        return Counter({int(code): int(float(times)) for code, times in found})

    @asynccontextmanager
    async def unchanged(self, memory_mib: float = MEMORY_MIB) -> AsyncIterator[None]:
        """What is done inside leaves nothing behind, and no traceback in the log; and every close
        has a code that is documented.
        """
        before = await self.settled()
        said = len(self.process.log)
        yield
        now = before
        try:
            async with asyncio.timeout(WITHIN_S):
                while not (now := await self.standing()).within(before, memory_mib):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not at the baseline again: {before} became {now}") from None
        assert (await self.closes()).keys() <= DOCUMENTED
        log = self.process.log[said:]
        assert "Traceback" not in log, log[-5_000:]


def _descriptors(folder: Path) -> int:
    held = 0
    for one in folder.iterdir():
        with suppress(OSError):  # closed since it was listed
            held += "hub.db" not in os.readlink(one)
    return held


def _gauge(page: str, name: str) -> int:
    found = re.search(rf"^{name} (\S+)$", page, re.M)
    assert found is not None, name
    return int(float(found[1]))
