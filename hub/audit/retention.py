"""Pruning: entries that are older than the operator keeps them are deleted, and a note remains.

The note is an entry of the chain, ``audit.prune``. It says up to where entries were deleted and
what the hash of the last of them was, and is signed, so that the rest of the chain verifies and
nobody else can explain a missing beginning. What does not verify is not pruned: it is evidence.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func
from sqlmodel import col, select

from hub.audit.chain import instant
from hub.audit.reading import extent
from hub.audit.seal import Seal
from hub.audit.trail import record
from hub.audit.verification import PRUNED, note_bytes, verify
from hub.audit.verifier import Known
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, AuditHead, Tenant
from hub.storage.tenant_settings import parsed
from hub.telemetry.logs import log

BATCH: Final = 1_000
"""Entries that are deleted in one transaction."""


async def terms(database: Database, days: int | None, least: int) -> dict[str, int]:
    """For how many days each tenant's trail is kept: ``days``, or fewer if the tenant has settled
    so, but no fewer than ``least`` for that. Those that are kept for ever are left out.
    """
    trails = select(AuditHead.id, Tenant.settings).join(Tenant, col(Tenant.id) == AuditHead.id)
    async with database.read(EVERY_TENANT) as session:
        rows = (await session.exec(trails)).all()
    settled = {id: parsed(document).audit_retention_days for id, document in rows}
    # What was settled before there was such a bound is held to it as well.
    kept = {id: (days, own if own is None else max(own, least)) for id, own in settled.items()}
    known = {id: [each for each in both if each is not None] for id, both in kept.items()}
    return {id: min(each) for id, each in known.items() if each}


async def prune(database: Database, seal: Seal, tenant_id: str, before: datetime) -> int:
    """Delete the entries that were written before that; how many."""
    reach = await extent(database, tenant_id)
    through = await _last_before(database, tenant_id, before)
    if through < max(reach.first, 1):
        return 0
    found = await verify(database, tenant_id, trusted=[seal.public], through=through)
    if not found.report.ok:
        log.error(
            "a trail that does not verify is not pruned",
            tenant=tenant_id,
            findings=[str(finding) for finding in found.report.findings[:5]],
        )
        return 0
    last = Known(through, found.report.hash)
    async with database.write(tenant_id) as session:
        await record(
            session,
            tenant_id,
            PRUNED,
            details={
                "before": instant(before),
                "through": last.seq,
                "hash": last.hash,
                "public_key": seal.public,
                "signature": seal.sign(note_bytes(tenant_id, last)),
            },
        )
    return await _delete(database, tenant_id, reach.first, through)


async def _last_before(database: Database, tenant_id: str, before: datetime) -> int:
    """The ``seq`` up to which all entries are older than that; 0 if none is."""
    seq, at = col(AuditEntry.seq), col(AuditEntry.at)
    of_tenant = col(AuditEntry.tenant_id) == tenant_id
    async with database.read(tenant_id) as session:
        younger: Any = select(func.min(seq)).where(of_tenant, at >= before)
        first = (await session.exec(younger)).one()
        if first is not None:
            return int(first) - 1
        every: Any = select(func.max(seq)).where(of_tenant)
        return (await session.exec(every)).one() or 0


async def _delete(database: Database, tenant_id: str, first: int, through: int) -> int:
    deleted = 0
    for start in range(first, through + 1, BATCH):
        last = min(start + BATCH - 1, through)
        async with database.write(tenant_id) as session:
            done: Any = await session.exec(
                delete(AuditEntry)
                .where(col(AuditEntry.tenant_id) == tenant_id, col(AuditEntry.seq) <= last)
                .execution_options(synchronize_session=False)
            )
            deleted += done.rowcount
    return deleted
