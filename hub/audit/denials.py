"""What was refused: operations that somebody may not do, and sign-ins that failed.

It is noted off the path of the reply, which a full queue or a database that is away does not hold
up, and written soon after in transactions of its own. So that nobody can fill the trail with it, a
``Sieve`` lets through a few of each source (who acts, or the address), and another one of each
tenant; an entry ``audit.omitted`` says how many were left out. What is refused every day, what is
sensitive and who failed to sign in have budgets and queues of their own: none hides another.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

from hub.audit.origin import Origin, acting, place_of
from hub.audit.refusal import Entry, Places, Refusal, Sort
from hub.audit.sieve import Sieve
from hub.audit.trail import Detail, record
from hub.faults import Fault
from hub.storage.database import Database
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

QUEUED: Final = 1_000
"""Refusals of a sort that wait to be written; what comes on top is dropped, and counted."""
BATCH: Final = 100
GATHER_S: Final = 0.2
"""How long they gather: the replies are gone then, and a flood is a few transactions."""
TICK_S: Final = 5.0
"""How often it is looked whether something was left out."""
RETRY_S: Final = 1.0
SUMMARY_S: Final = 60.0
"""How often entries say what was left out."""
SUMMARIES: Final = 10
"""Sources of which that is said by name, of one tenant at a time: of most; the rest is one."""
OF_SOURCE: Final[Mapping[Sort, tuple[int, float]]] = {
    "sensitive": (10, 6.0),
    "sign-in": (10, 6.0),
    "everyday": (5, 60.0),
}
"""Of one source: so many at once, and one more after so many seconds."""
OF_TENANT: Final[Mapping[Sort, tuple[int, float]]] = {
    "sensitive": (100, 6.0),
    "sign-in": (100, 6.0),
    "everyday": (50, 12.0),
}
CLOSE_S: Final = 2.0

OMITTED: Final = "audit.omitted"

_Source = tuple[str | None, str | None, str | None]
"""Tenant, actor, place. The place counts where nobody is known to act."""


class _Allowance:
    """What is let through of a sort, and how much of it waits."""

    def __init__(self, sort: Sort) -> None:
        (burst, every_s), clock = OF_SOURCE[sort], time.monotonic
        self.sources: Sieve[_Source] = Sieve(burst=burst, every_s=every_s, clock=clock)
        burst, every_s = OF_TENANT[sort]
        self.tenants: Sieve[str] = Sieve(burst=burst, every_s=every_s, clock=clock)
        self.waiting = 0


class Denials:
    """Notes refusals and writes them. ``start`` … ``await close()``."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        *,
        summary_s: float = SUMMARY_S,
        tick_s: float = TICK_S,
        queued: int = QUEUED,
    ) -> None:
        self._database = database
        self._dropped = metrics.audit_dropped
        self._summary_s = summary_s
        self._tick_s = tick_s
        self._most = queued
        self._queue: deque[Refusal] = deque()
        self._admitted: dict[int, bool] = {}  # of those in the queue, by their tenants' sieves
        self._omissions: deque[tuple[str | None, list[Entry]]] = deque()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sorts: Mapping[Sort, _Allowance] = {sort: _Allowance(sort) for sort in OF_SOURCE}
        self._closing = False
        self._summarised = time.monotonic()
        self._places = Places(database)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what waits, for a moment, and stop. Idempotent."""
        if self._task is None:
            return
        # What is being written is let be written: cancelled when it has committed, it would be
        # written again.
        self._closing = True
        self._wake.set()
        self._hurry.set()
        await asyncio.wait({self._task}, timeout=CLOSE_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._write_all()
                await self._summarise()
        except (Fault, TimeoutError):
            log.warning("refusals could not be written to the audit trail", left=len(self._queue))

    def note(self, refusal: Refusal) -> None:
        """Note a refusal. Never blocks and never fails."""
        origin, of = refusal.origin, self._sorts[refusal.sort]
        actor_id, address = origin.actor_id, origin.address
        place = None if actor_id or address is None else place_of(address)
        source = (refusal.tenant_id, actor_id, place)
        if not of.sources.admits(source, refusal.action):
            self._dropped.labels("source").inc()
        elif of.waiting >= self._most:
            of.sources.leave_out(source, refusal.action)
            self._dropped.labels("queue").inc()
        else:
            of.waiting += 1
            self._queue.append(refusal)
            self._idle.clear()
            self._wake.set()

    async def written(self) -> None:
        """Return when nothing waits, and have nothing wait for more."""
        if not self._idle.is_set():
            self._hurry.set()
        await self._idle.wait()

    async def _run(self) -> None:
        while not self._closing:
            try:
                async with asyncio.timeout(self._tick_s):
                    await self._wake.wait()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._hurry.wait(), GATHER_S)
            except TimeoutError:
                pass
            self._wake.clear()
            self._hurry.clear()
            try:
                await self._write_all()
                if time.monotonic() - self._summarised >= self._summary_s:
                    await self._summarise()
            except Fault as fault:
                log.warning("refusals wait to be written to the audit trail", why=fault.reason)
                await self._pause()
                self._wake.set()
            except Exception:
                log.exception("writing refusals to the audit trail failed")
                await self._pause()

    async def _pause(self) -> None:
        if not self._closing:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), RETRY_S)

    async def _write_all(self) -> None:
        while self._queue:
            batch = list(islice(self._queue, BATCH))
            by_tenant: dict[str | None, list[tuple[Refusal, Entry]]] = {}
            placed = await self._places.of(batch)
            for refusal, (tenant_id, entry) in zip(batch, placed, strict=True):
                by_tenant.setdefault(tenant_id, []).append((refusal, entry))
            for tenant_id, theirs in by_tenant.items():
                if tenant_id is not None:
                    await self._write(tenant_id, theirs)
                # Not before: what could not be written waits.
                dealt_with = {id(refusal) for refusal, _ in theirs}
                self._queue = deque(one for one in self._queue if id(one) not in dealt_with)
                for refusal, _ in theirs:
                    self._sorts[refusal.sort].waiting -= 1
                    self._admitted.pop(id(refusal), None)
        self._idle.set()

    async def _write(self, tenant_id: str, theirs: Iterable[tuple[Refusal, Entry]]) -> None:
        """Write what the tenant's sieves let through."""
        admitted = [entry for one, entry in theirs if self._admits(tenant_id, one)]
        if admitted:
            await self._store(tenant_id, admitted)

    def _admits(self, tenant_id: str, refusal: Refusal) -> bool:
        """Asked once of each, however often it has to be written."""
        admitted = self._admitted.get(id(refusal))
        if admitted is None:
            admitted = self._sorts[refusal.sort].tenants.admits(tenant_id, refusal.action)
            self._admitted[id(refusal)] = admitted
            if not admitted:
                self._dropped.labels("tenant").inc()
        return admitted

    async def _store(self, tenant_id: str, entries: list[Entry]) -> None:
        try:
            async with self._database.write(tenant_id) as session:
                for entry in entries:
                    with acting(entry.origin):
                        await record(
                            session,
                            tenant_id,
                            entry.action,
                            resource=entry.resource,
                            outcome=entry.outcome,
                            details=entry.details,
                        )
        except Fault as fault:
            if fault.reason == "backend_unavailable":
                raise
            self._dropped.labels("failed").inc(len(entries))  # the trail refuses, and that was said
        except Exception:
            log.exception("refusals could not be written to the audit trail", tenant=tenant_id)
            self._dropped.labels("failed").inc(len(entries))

    async def _summarise(self) -> None:
        """Say what was left out: few entries, however many sources there were."""
        operators = await self._places.operators()
        told: dict[str | None, list[tuple[_Source | None, Counter[str]]]] = {}
        for of in self._sorts.values():
            for source, kinds in of.sources.left():
                told.setdefault((source and source[0]) or operators, []).append((source, kinds))
            for tenant_id, kinds in of.tenants.left():
                told.setdefault(tenant_id or operators, []).append((None, kinds))
        self._omissions.extend((tenant_id, _omissions(left)) for tenant_id, left in told.items())
        while self._omissions:
            tenant_id, entries = self._omissions[0]
            if tenant_id is not None:
                await self._store(tenant_id, entries)
            self._omissions.popleft()
        self._summarised = time.monotonic()


def _omissions(left: Iterable[tuple[_Source | None, Counter[str]]]) -> list[Entry]:
    """Entries that say what was left out of one tenant: of a few sources by name, of all others
    together.
    """
    by_source: dict[_Source, Counter[str]] = {}
    others: Counter[str] = Counter()
    for source, kinds in left:
        (others if source is None else by_source.setdefault(source, Counter())).update(kinds)
    known = sorted(by_source.items(), key=lambda one: one[1].total(), reverse=True)
    entries = [
        _omission(kinds, Origin(actor_id=actor_id, address=place))
        for (_, actor_id, place), kinds in known[:SUMMARIES]
    ]
    for _, kinds in known[SUMMARIES:]:
        others.update(kinds)
    return [*entries, _omission(others, Origin())] if others else entries


def _omission(kinds: Counter[str], origin: Origin) -> Entry:
    told = [f"{kind} {count}" for kind, count in kinds.most_common(20)]
    details: dict[str, Detail] = {"count": kinds.total(), "actions": told}
    return Entry(OMITTED, "denied", origin, None, details)
