"""Verifying the trail of a tenant as it stands in the database, while others add to it."""

import asyncio
from collections.abc import AsyncIterable, Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from sqlmodel import col, select

from hub.audit.chain import Fields, canonical, fields_of, hash_of
from hub.audit.reading import Filters, extent, pages
from hub.audit.seal import genuine
from hub.audit.verifier import Known, Report, Verifier
from hub.faults import Fault
from hub.storage.database import Database
from hub.storage.tables import AuditEntry

PRUNED: Final = "audit.prune"
"""The action of an entry that says up to where the chain was pruned."""

ATTEMPTS: Final = 5
"""How often it is begun again when entries are pruned meanwhile."""


@dataclass(frozen=True, slots=True)
class Verification:
    """``report`` is of what was looked at. ``complete``: that was all, to the end."""

    report: Report
    complete: bool


@dataclass(frozen=True, slots=True)
class Note:
    """That entries up to ``through`` were pruned; ``proven``: a key that is trusted says so."""

    through: Known
    proven: bool


def note_bytes(tenant_id: str, through: Known) -> bytes:
    """What is signed of a note."""
    said = {"tenant_id": tenant_id, "through": through.seq, "hash": through.hash}
    return b"agenthub audit prune v1\n" + canonical(said)


async def verify(
    database: Database,
    tenant_id: str,
    *,
    trusted: Collection[str] = (),
    known: Collection[Known] = (),
    after: int = 0,
    through: int | None = None,
    within_s: float | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Verification:
    """Verify the entries that there are now, or those from ``after`` to ``through``.

    ``trusted`` are the public keys whose notes of pruning are believed; ``known`` is what was seen
    of the chain before. After ``within_s`` it ends, incomplete. ``told(done, of)`` hears how far it
    is. Raises Fault("conflict") when there is no entry ``after``, "backend_unavailable".
    """
    for _ in range(ATTEMPTS):
        reach = await extent(database, tenant_id)
        note = None
        if after == 0 and reach.first > 1:
            note = await last_note(database, tenant_id, trusted)
        verifier = Verifier(
            reach.head,
            after=await _known(database, tenant_id, after) if after else None,
            pruned=note.through if note else None,
            proven=note is None or note.proven,
            known=known,
        )
        last = reach.last if through is None else min(through, reach.last)
        read = pages(database, tenant_id, Filters(), after=after or None, through=last)
        ended = await _feed(verifier, read, (after, last), within_s, told)
        whole = ended and last == reach.last
        report = await asyncio.to_thread(verifier.finish, whole=whole)
        # What was pruned meanwhile looks as if it had been removed.
        if report.ok or (await extent(database, tenant_id)).first == reach.first:
            break
    return Verification(report, ended)


async def _feed(
    verifier: Verifier,
    read: AsyncIterable[Sequence[Fields]],
    span: tuple[int, int],
    within_s: float | None,
    told: Callable[[int, int], None],
) -> bool:
    """Whether it came to the end in time."""
    began = monotonic()
    done, (after, last) = 0, span
    of = last - after if isinstance(last, int) else 0  # SQLite's need not be a number
    async for page in read:
        for entry in page:
            verifier.feed(entry)
        done += len(page)
        told(done, of)
        if within_s is not None and monotonic() - began > within_s:
            return bool(page[-1]["seq"] == last)
        await asyncio.sleep(0)  # SQLite's statements take the loop's own time
    return True


async def last_note(database: Database, tenant_id: str, trusted: Collection[str]) -> Note | None:
    """What the newest note of pruning says, if there is one that is whole."""
    statement: Any = (
        select(AuditEntry)
        .where(col(AuditEntry.tenant_id) == tenant_id, col(AuditEntry.action) == PRUNED)
        .order_by(col(AuditEntry.seq).desc())
        .limit(1)
    )
    async with database.read(tenant_id) as session:
        row = (await session.exec(statement)).first()
    return None if row is None else _note(tenant_id, fields_of(row), trusted)


def _note(tenant_id: str, entry: Fields, trusted: Collection[str]) -> Note | None:
    details = entry["details"]
    if hash_of(entry) != entry["hash"] or not isinstance(details, dict):
        return None
    seq, *texts = [details.get(name) for name in ("through", "hash", "public_key", "signature")]
    if type(seq) is not int or not all(isinstance(text, str) for text in texts):
        return None
    hash, public, signature = map(str, texts)
    through = Known(seq, hash)
    proven = public in trusted and genuine(public, note_bytes(tenant_id, through), signature)
    return Note(through, proven)


async def _known(database: Database, tenant_id: str, seq: int) -> Known:
    statement = select(AuditEntry.hash).where(
        col(AuditEntry.tenant_id) == tenant_id, col(AuditEntry.seq) == seq
    )
    async with database.read(tenant_id) as session:
        hash = (await session.exec(statement)).first()
    if hash is None:
        raise Fault("conflict", f"There is no entry {seq}; begin at the beginning.")
    return Known(seq, hash)
