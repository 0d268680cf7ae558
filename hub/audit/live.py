"""The trail as it grows: the channel ``audit`` of each tenant.

Entries are appended to the channel's log after they were committed, in their order, by whichever
node holds the channel's lease at that moment: it goes on after the last entry that the log has,
from the table. So what a node could not append (it died, the backplane was away) the next one does;
for channels that are followed it is looked for, too.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import orjson
from sqlmodel import col, select

from hub.audit.chain import Fields
from hub.audit.reading import Filters, newest
from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.rounds import Rounds
from hub.storage.database import Database
from hub.storage.padding import padded
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditHead
from hub.telemetry.logs import log

NOUN: Final = "audit"
LOOK_S: Final = 4.0
"""How often it is looked whether a channel that is followed lacks entries."""
LEASE_S: Final = 10.0
RETRY_S: Final = 0.05
ATTEMPTS: Final = 20
AWAY_S: Final = 1.0
FIRST: Final = 100
"""Entries with which a new log begins, at most."""
CATCH_UP: Final = 1_000
"""Entries that are caught up with, at most: whoever needs more queries the trail. The entries have
their own ``seq``, by which a client sees that some are not there.
"""


def channel_of(tenant_id: str) -> str:
    """The log of a tenant's channel ``audit``."""
    return f"{NOUN}:{tenant_id}"


def event_of(entry: Fields) -> bytes:
    """An entry as the channel carries it: an AG-UI ``CUSTOM`` event."""
    return orjson.dumps({"type": "CUSTOM", "name": "audit.entry", "value": entry})


class Live:
    """Appends entries to the channels. ``start`` … ``await close()``."""

    def __init__(
        self,
        database: Database,
        backplane: Backplane,
        followed: Callable[[], Collection[str]],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """``followed``: the names of the logs that are read on this node."""
        self._database = database
        self._backplane = backplane
        self._followed = followed
        self._due: dict[str, None] = {}
        self._said: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._appending: asyncio.Task[None] | None = None
        self._looking = Rounds("look for audit entries", self._look, every_s=look_s)

    def start(self) -> None:
        """Begin to append."""
        self._appending = asyncio.create_task(self._run())
        self._looking.start()

    async def close(self) -> None:
        """Stop. Idempotent."""
        await self._looking.close()
        if self._appending is not None:
            self._appending.cancel()
            await asyncio.gather(self._appending, return_exceptions=True)

    def grown(self, tenant_id: str) -> None:
        """There are more entries of the tenant."""
        self._due[tenant_id] = None
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, {}
            pause = 0.0
            for tenant_id in due:
                try:
                    if not await self._append(tenant_id):
                        self._due[tenant_id] = None
                        pause = RETRY_S
                except Fault as fault:
                    log.warning("audit entries wait for their channels", why=fault.reason)
                    self._due |= due  # what is there already is not said again
                    pause = AWAY_S
                    break
                except Exception:
                    # The others' go on; this tenant's are looked for again as long as they are
                    # followed, and are in the table anyway.
                    log.exception("audit entries could not be told", tenant=tenant_id)
            if self._due:
                await asyncio.sleep(pause)
                self._wake.set()

    async def catch_up(self, tenant_id: str) -> None:
        """Have the channel hold all entries that there are, so that only later ones are news to who
        follows it from now on. It may not, while another node is slow.

        Raises Fault("backend_unavailable").
        """
        for _ in range(ATTEMPTS):
            if await self._append(tenant_id):
                return
            await asyncio.sleep(RETRY_S)

    async def _append(self, tenant_id: str) -> bool:
        """Append what the log lacks; False when another node is doing so."""
        channel = channel_of(tenant_id)
        lease = await self._backplane.acquire(channel, LEASE_S)
        if lease is None:
            return False
        try:
            said = await self._last_said(channel)
            most = FIRST if said is None else CATCH_UP
            found = await newest(self._database, tenant_id, Filters(), after=said or 0, limit=most)
            for entry in reversed(found):
                # The key, because a lease can lapse while an append is under way.
                key = f"{channel}:{entry['seq']}"
                await self._backplane.append(channel, event_of(entry), key=key)
            self._said[tenant_id] = found[0]["seq"] if found else said or 0
        finally:
            await self._backplane.release(lease)
        return True

    async def _last_said(self, channel: str) -> int | None:
        """The ``seq`` of the last entry in the log; None if there is none."""
        log_slice = await self._backplane.read(channel, 0, 0)
        if log_slice.last == 0:
            return None
        log_slice = await self._backplane.read(channel, log_slice.last - 1, 10)
        return max(
            (orjson.loads(entry.data)["value"]["seq"] for entry in log_slice.entries), default=None
        )

    async def _look(self) -> None:
        """Look whether the channels that are followed here lack entries."""
        tenants = [
            name.partition(":")[2] for name in self._followed() if name.startswith(f"{NOUN}:")
        ]
        self._said = {id: seq for id, seq in self._said.items() if id in tenants}
        if not tenants:
            return
        async with self._database.read(EVERY_TENANT) as session:
            heads = await session.exec(
                select(AuditHead.id, AuditHead.seq).where(col(AuditHead.id).in_(padded(tenants)))
            )
            for tenant_id, seq in heads.all():
                if seq > self._said.get(tenant_id, 0):
                    self.grown(tenant_id)
