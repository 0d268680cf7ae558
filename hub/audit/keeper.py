"""What a node does about the trail, besides adding to it: tells of it as it grows, writes what was
refused, prunes what is old, verifies.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from random import uniform
from time import monotonic
from typing import Any, Final

from hub.audit.denials import Denials
from hub.audit.live import NOUN, Live
from hub.audit.origin import current
from hub.audit.retention import prune, terms
from hub.audit.seal import kept_seal, made_seal
from hub.audit.trail import WRITTEN, record
from hub.audit.verification import Verification, verify
from hub.audit.verifier import Known, Report
from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.rounds import Rounds
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.tables import now
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

PRUNE_S: Final = 3_600.0
"""How often it is looked for entries that are too old."""
READ_S: Final = 3_600.0
"""How long after a session began to read the trail it goes on."""
READERS: Final = 10_000
"""Of so many it is remembered that they read it; who is forgotten is noted again."""
VERIFY_S: Final = 20.0
"""How long one verification takes at most, of a chain that is longer in parts."""


class Keeper:
    """Keeps the trail on one node. ``await start()`` … ``await close()``."""

    def __init__(
        self,
        database: Database,
        backplane: Backplane,
        metrics: Metrics,
        settings: Settings,
        followed: Callable[[], Collection[str]],
    ) -> None:
        """``followed``: the names of the logs that are read on this node."""
        self._database = database
        self._backplane = backplane
        self._metrics = metrics
        self._settings = settings
        self.denials = Denials(database, metrics)
        self._live = Live(database, backplane, followed)
        self._readers: OrderedDict[tuple[str | None, ...], float] = OrderedDict()
        # Nodes that started together do not come together.
        first_s = uniform(0, 10)  # noqa: S311  # no secret
        self._pruning = Rounds(
            "prune the audit trails", self._prune_in_turn, every_s=PRUNE_S, first_s=first_s
        )
        self._verifying = asyncio.Lock()
        database.on_commit(self._committed)

    async def start(self) -> None:
        """Begin."""
        self.denials.start()
        self._live.start()
        self._pruning.start()

    async def close(self) -> None:
        """Stop, once what waits was written. Idempotent."""
        await self.denials.close()
        await self._pruning.close()
        await self._live.close()

    def _committed(self, info: Mapping[Any, Any]) -> None:
        for entry in info.get(WRITTEN, ()):
            self._metrics.audit_entries.labels(entry.outcome).inc()
            self._live.grown(entry.tenant_id)

    async def verify(
        self, tenant_id: str, *, after: int = 0, known: Collection[Known] = ()
    ) -> Verification:
        """Verify a tenant's trail, from ``after`` on, for up to ``VERIFY_S``; one at a time.

        Raises Fault("conflict") when there is no entry ``after``, "backend_unavailable".
        """
        async with self._verifying:
            found = await verify(
                self._database,
                tenant_id,
                trusted=self.trusted(),
                known=known,
                after=after,
                within_s=VERIFY_S,
            )
        report = found.report
        # Where it is only not what the caller says to know, it is the caller who may be wrong.
        failed = "disputed" if report.found == report.unlike else "tampered"
        self._metrics.audit_verifications.labels("whole" if report.ok else failed).inc()
        if not report.ok:
            said = [str(finding) for finding in report.findings[:5]]
            tell = log.warning if failed == "disputed" else log.error
            tell("an audit trail does not verify", tenant=tenant_id, findings=said)
        return found

    async def followed(self, channel: str, tenant_id: str) -> None:
        """Somebody is about to follow a channel: if it is the trail's, that is an entry; and have
        the channel hold all entries that there are, this one too, which is no news to them.

        Raises Fault("backend_unavailable"), "internal_error" if the entry cannot be written.
        """
        if channel == NOUN:
            await self._tell(tenant_id, "channel.subscribe", resource=("channel", NOUN))
            await self._live.catch_up(tenant_id)

    async def read_back(self, channel: str, tenant_id: str) -> None:
        """Somebody is about to read a channel back: if it is the trail's, that is an entry as in
        ``looked``. Raises as ``followed``.
        """
        if channel == NOUN:
            await self._once("channel.history", tenant_id, resource=("channel", NOUN))

    async def looked(self, tenant_id: str) -> None:
        """Somebody has looked into the trail, and is about to be told what was found: that is an
        entry, one an hour of each session and node, or a reader would never come to its end.

        Raises Fault("backend_unavailable"), "internal_error" if the entry cannot be written.
        """
        await self._once("audit.query", tenant_id)

    async def verified(self, tenant_id: str, report: Report) -> None:
        """Somebody has had the trail verified: that is an entry as in ``looked``, another one when
        it was found to be otherwise. It is told nevertheless if the entry cannot be written, which
        may be why it was asked.
        """
        try:
            await self._once(
                "audit.verify", tenant_id, str(report.ok), details={"findings": report.found}
            )
        except Fault as fault:
            log.warning("who verified an audit trail is not in it", why=fault.reason)

    async def _once(
        self, action: str, tenant_id: str, what: str | None = None, **told: Any
    ) -> None:
        origin = current()
        key = (action, tenant_id, origin.actor_id, origin.session_id, what)
        if monotonic() < self._readers.get(key, 0.0):
            return
        await self._tell(tenant_id, action, **told)
        self._readers[key] = monotonic() + READ_S
        self._readers.move_to_end(key)
        while len(self._readers) > READERS:
            self._readers.popitem(last=False)

    async def _tell(self, tenant_id: str, action: str, **told: Any) -> None:
        async with self._database.write(tenant_id) as session:
            await record(session, tenant_id, action, **told)

    def trusted(self) -> list[str]:
        """The public key that this hub signs with, if it has one."""
        seal = kept_seal(self._settings)
        return [] if seal is None else [seal.public]

    async def _prune_in_turn(self) -> None:
        # One node's work; the lease lapses by itself, in time for the next round.
        if await self._backplane.acquire("audit-retention", PRUNE_S * 0.9):
            await self.prune()

    async def prune(self) -> int:
        """Delete entries that are older than ``HUB_AUDIT_RETENTION_DAYS``, or than their tenant has
        settled; how many.
        """
        deleted = 0
        settings = self._settings
        kept = await terms(
            self._database, settings.audit_retention_days, settings.audit_retention_least_days
        )
        for tenant_id, days in kept.items():
            before = now() - timedelta(days=days)
            deleted += await prune(self._database, made_seal(self._settings), tenant_id, before)
        return deleted
