"""What was refused: sensitive operations that somebody may not do, and sign-ins that failed.

It is noted off the path of the reply, which a full queue or a database that is away does not hold
up, and written soon after in transactions of its own. So that nobody can fill the trail with it, a
``Sieve`` lets through a few of each source (who acts, or the address), and another one of each
tenant; an entry ``audit.omitted`` says how many were left out.

A sign-in that failed belongs to the tenant that it would have entered. That of an address which
has no account belongs to nobody's: it goes to the operator's tenant, the oldest, with the SHA-256
of the address, since people type other secrets there by mistake.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sqlmodel import col, select

from hub.audit.origin import Origin, acting
from hub.audit.sieve import Left, Sieve
from hub.audit.trail import Detail, Outcome, record
from hub.faults import Fault
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, Tenant, User
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

QUEUED: Final = 1_000
"""Refusals that wait to be written; what comes on top is dropped, and counted."""
BATCH: Final = 100
TICK_S: Final = 5.0
"""How often it is looked whether something was left out."""
RETRY_S: Final = 1.0
SUMMARY_S: Final = 60.0
"""How long after the first one that was left out an entry says how many there were."""
OF_SOURCE: Final = (10, 6.0)
"""Of one source: so many at once, and one more after so many seconds."""
OF_TENANT: Final = (100, 6.0)
CLOSE_S: Final = 2.0

OMITTED: Final = "audit.omitted"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was refused; ``reason`` is of the fault table.

    Without a ``tenant_id`` it was a sign-in, by the ``email`` that was given, if any, into the
    ``tenant`` (id or name) that was asked for, if any.
    """

    action: str
    outcome: Outcome
    reason: str
    origin: Origin
    tenant_id: str | None = None
    resource: tuple[str, str] | None = None
    email: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    action: str
    outcome: Outcome
    origin: Origin
    resource: tuple[str, str] | None
    details: dict[str, Detail]


_Source = tuple[str | None, str | None, str | None]
"""Tenant, actor, address. The address counts where nobody is known to act."""


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
        self._tick_s = tick_s
        self._most = queued
        self._queue: deque[Refusal] = deque()
        self._omissions: deque[tuple[str | None, _Entry]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        clock = time.monotonic
        self._sources: Sieve[_Source] = Sieve(
            burst=OF_SOURCE[0], every_s=OF_SOURCE[1], after_s=summary_s, clock=clock
        )
        self._tenants: Sieve[str] = Sieve(
            burst=OF_TENANT[0], every_s=OF_TENANT[1], after_s=summary_s, clock=clock
        )
        self._operators: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what waits, for a moment, and stop. Idempotent."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._write_all()
                await self._summarise(all=True)
        except (Fault, TimeoutError):
            log.warning("refusals could not be written to the audit trail", left=len(self._queue))

    def note(self, refusal: Refusal) -> None:
        """Note a refusal. Never blocks and never fails."""
        source = (
            refusal.tenant_id,
            refusal.origin.actor_id,
            None if refusal.origin.actor_id else refusal.origin.address,
        )
        if not self._sources.admits(source, refusal.action):
            self._dropped.labels("source").inc()
        elif len(self._queue) >= self._most:
            self._dropped.labels("queue").inc()
        else:
            self._queue.append(refusal)
            self._idle.clear()
            self._wake.set()

    async def written(self) -> None:
        """Return when nothing waits."""
        await self._idle.wait()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._tick_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._write_all()
                await self._summarise()
            except Fault as fault:
                log.warning("refusals wait to be written to the audit trail", why=fault.reason)
                await asyncio.sleep(RETRY_S)
                self._wake.set()
            except Exception:
                log.exception("writing refusals to the audit trail failed")
                await asyncio.sleep(RETRY_S)

    async def _write_all(self) -> None:
        while self._queue:
            batch = list(islice(self._queue, BATCH))
            by_tenant: dict[str | None, list[tuple[Refusal, _Entry]]] = {}
            for refusal, (tenant_id, entry) in zip(batch, await self._places(batch), strict=True):
                by_tenant.setdefault(tenant_id, []).append((refusal, entry))
            for tenant_id, theirs in by_tenant.items():
                if tenant_id is not None:
                    await self._write(tenant_id, [entry for _, entry in theirs])
                # Not before: what could not be written waits.
                dealt_with = {id(refusal) for refusal, _ in theirs}
                self._queue = deque(one for one in self._queue if id(one) not in dealt_with)
        self._idle.set()

    async def _write(self, tenant_id: str, entries: Iterable[_Entry]) -> None:
        """Write what the tenant's sieve lets through."""
        admitted = [entry for entry in entries if self._admits(tenant_id, entry)]
        if admitted:
            await self._store(tenant_id, admitted)

    def _admits(self, tenant_id: str, entry: _Entry) -> bool:
        if self._tenants.admits(tenant_id, entry.action):
            return True
        self._dropped.labels("tenant").inc()
        return False

    async def _store(self, tenant_id: str, entries: list[_Entry]) -> None:
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

    async def _summarise(self, *, all: bool = False) -> None:
        for source, left in self._sources.due(all=all):
            tenant_id, actor_id, address = source or (None, None, None)
            origin = Origin(actor_id=actor_id, address=address)
            self._omissions.append((tenant_id, _omission(left, origin)))
        for of_tenant, left in self._tenants.due(all=all):
            self._omissions.append((of_tenant, _omission(left, Origin())))
        while self._omissions:
            tenant_id, entry = self._omissions[0]
            place = tenant_id or await self._operators_tenant()
            if place is not None:
                await self._store(place, [entry])
            self._omissions.popleft()

    # --- whose it is ---

    async def _places(self, refusals: list[Refusal]) -> list[tuple[str | None, _Entry]]:
        """The entry of each, and the tenant that it belongs to; None while there is no tenant."""
        accounts = await self._accounts(
            {address for one in refusals if (address := _address(one)) is not None}
        )
        places: list[tuple[str | None, _Entry]] = []
        for one in refusals:
            details: dict[str, Detail] = {"reason": one.reason}
            resource, tenant_id, address = one.resource, one.tenant_id, _address(one)
            if address is not None:
                user_id, tenants = accounts.get(address, (None, []))
                if user_id is None:
                    details["email_sha256"] = hashlib.sha256(address.encode()).hexdigest()
                else:
                    resource = ("user", user_id)
                tenant_id = _entered(tenants, one.tenant)
            entry = _Entry(one.action, one.outcome, one.origin, resource, details)
            places.append((tenant_id or await self._operators_tenant(), entry))
        return places

    async def _accounts(self, addresses: set[str]) -> dict[str, tuple[str, list[tuple[str, str]]]]:
        """The user of each address that has one, and the tenants (id, name) that they are of."""
        if not addresses:
            return {}
        statement: Any = (
            select(User.email, User.id, Membership.tenant_id, Tenant.name)
            .join(Membership, col(Membership.user_id) == User.id, isouter=True)
            .join(Tenant, col(Tenant.id) == Membership.tenant_id, isouter=True)
            .where(col(User.email).in_(addresses))
            .order_by(col(Membership.created_at), col(Membership.id))
        )
        async with self._database.read(EVERY_TENANT) as session:
            rows = (await session.exec(statement)).all()
        found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
        for email, user_id, tenant_id, name in rows:
            _, tenants = found.setdefault(email, (user_id, []))
            if tenant_id is not None:
                tenants.append((tenant_id, name))
        return found

    async def _operators_tenant(self) -> str | None:
        if self._operators is None:
            oldest = select(Tenant.id).order_by(col(Tenant.created_at), col(Tenant.id)).limit(1)
            async with self._database.read(EVERY_TENANT) as session:
                self._operators = (await session.exec(oldest)).first()
        return self._operators


def _address(refusal: Refusal) -> str | None:
    if refusal.tenant_id is not None or refusal.email is None:
        return None
    return refusal.email.strip().lower()[:320]


def _entered(tenants: list[tuple[str, str]], wanted: str | None) -> str | None:
    """The tenant that was asked for, if the user is of it, or the one that they are of longest."""
    named = [id for id, name in tenants if wanted in (id, name)]
    return next(iter(named or [id for id, _ in tenants]), None)


def _omission(left: Left, origin: Origin) -> _Entry:
    kinds = [f"{kind} {count}" for kind, count in left.kinds.most_common(20)]
    details: dict[str, Detail] = {"count": left.count, "actions": kinds}
    return _Entry(OMITTED, "denied", origin, None, details)
