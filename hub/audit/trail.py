"""Writing the trail: an entry commits with the deed that it tells of, or neither does.

``record`` notes an entry; it gets its number and its hash, and is written, when its transaction
commits, after all else: the head of the tenant's chain is the last thing that the transaction locks
(of several tenants' in the order of their ids), and is locked no longer than that takes. So writers
of one tenant take turns, and cannot wait for each other in a circle, whatever else they lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import orjson
from sqlalchemy import Connection, Table, bindparam, event, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.chain import GENESIS, fields_of, hash_of
from hub.audit.origin import current, deed
from hub.faults import Fault
from hub.ids import new_id
from hub.storage.database import is_away
from hub.storage.scope import EVERY_TENANT, OutOfScope, ScopedSession
from hub.storage.tables import AuditEntry, AuditHead, now
from hub.telemetry.logs import log, redact

Outcome = Literal["done", "denied", "failed"]
Detail = str | int | bool | None | list[str]

WRITTEN: Final = "audit.written"
"""In the ``info`` of a session that has committed: the entries that it wrote, as a list."""

LONGEST: Final = 500
"""Characters of a text in ``details``; the rest is cut off."""

_PENDING: Final = "audit.pending"

# Core statements on the transaction's own connection: those of classes cost twice as much.
# They say themselves whose rows they are of, which ``record`` has held against the session's scope.
_ENTRIES: Final[Table] = AuditEntry.__table__  # type: ignore[attr-defined]
_HEADS: Final[Table] = AuditHead.__table__  # type: ignore[attr-defined]
_COLUMNS: Final = tuple(_ENTRIES.columns.keys())
_INSERT: Final = insert(_ENTRIES)
_LOCKED: Final = (
    select(_HEADS.c.seq, _HEADS.c.hash).where(_HEADS.c.id == bindparam("tenant")).with_for_update()
)
_MOVED: Final = (
    update(_HEADS)
    .where(_HEADS.c.id == bindparam("tenant"))
    .values(seq=bindparam("to_seq"), hash=bindparam("to_hash"))
)


@dataclass(slots=True)
class Entry:
    """What becomes a row of ``AuditEntry`` when the transaction commits, and has its columns. Not
    one of its objects: those take ten times as long to make, and one is made for every deed.
    """

    id: str
    tenant_id: str
    seq: int
    at: datetime
    action: str
    outcome: str
    actor_id: str | None
    session_id: str | None
    resource_kind: str | None
    resource_id: str | None
    transport: str
    address: str | None
    trace_id: str | None
    details: str
    previous_hash: str
    hash: str


async def record(
    session: AsyncSession,
    tenant_id: str,
    action: str,
    *,
    resource: tuple[str, str] | None = None,
    outcome: Outcome = "done",
    details: Mapping[str, Detail] | None = None,
) -> Entry:
    """Add an entry to the tenant's trail, in the transaction of ``session`` (a write).

    ``action`` is an operation's name or one like it (``user.disable``); ``resource`` is the
    ``(kind, id)`` of what was acted on. Who acts, and whence, is the ambient ``Origin``.
    ``details`` never hold secrets or what was said. The entry has its ``seq`` and hashes once the
    transaction has committed; if it cannot be written the transaction fails.
    """
    scoped = session.sync_session
    if not isinstance(scoped, ScopedSession) or not scoped.writes:
        raise OutOfScope("an audit entry is written where something is written")
    if scoped.scope not in (EVERY_TENANT, tenant_id):
        raise OutOfScope("an audit entry of another tenant")
    origin = current()
    # A session is of one tenant: another would learn by it that its member has one elsewhere.
    here = origin.tenant_id in (None, tenant_id)
    kind, id = resource or (None, None)
    entry = Entry(
        id=new_id("ae"),
        tenant_id=tenant_id,
        seq=0,
        at=now(),
        action=action[:64],
        outcome=outcome,
        actor_id=origin.actor_id,
        session_id=origin.session_id if here else None,
        resource_kind=kind,
        resource_id=id and id[:200],
        transport=origin.transport[:16],
        address=origin.address and origin.address[:64],
        trace_id=(origin.trace_id and origin.trace_id[:64]) or None,
        details=_told(details or {}),
        previous_hash="",
        hash="",
    )
    if not scoped.in_transaction():
        scoped.begin()  # so that a rollback takes it back
    pending = scoped.info.setdefault(_PENDING, [])
    pending.append((scoped.get_nested_transaction(), entry))
    if (doing := deed()) is not None:
        doing.recorded += 1
    return entry


def _told(details: Mapping[str, Detail]) -> str:
    said = {
        name: value[:LONGEST] if isinstance(value, str) else value
        for name, value in details.items()
        if value is not None
    }
    return orjson.dumps(redact(said), option=orjson.OPT_SORT_KEYS).decode()


# --- at the end of a transaction ---


@event.listens_for(ScopedSession, "before_commit")
def _write(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint is released: the transaction goes on
    pending = session.info.pop(_PENDING, None)
    if not pending:
        return
    session.flush()  # first the rows of the deed, with the locks that they take
    by_tenant: dict[str, list[Entry]] = {}
    for _, entry in pending:
        by_tenant.setdefault(entry.tenant_id, []).append(entry)
    connection = session.connection()
    try:
        for tenant_id in sorted(by_tenant):
            _append(connection, tenant_id, by_tenant[tenant_id])
    except DBAPIError as error:
        if is_away(error):
            raise
        log.error("the audit trail cannot be written", why=str(error.orig))
        raise Fault(
            "internal_error", "The audit trail cannot be written, so nothing was done."
        ) from error
    session.info[WRITTEN] = [entry for _, entry in pending]


def _append(connection: Connection, tenant_id: str, entries: list[Entry]) -> None:
    seq, hash = _head(connection, tenant_id)
    for entry in entries:
        seq += 1
        entry.seq, entry.at, entry.previous_hash = seq, now(), hash
        entry.hash = hash = hash_of(fields_of(entry))
    rows = [{name: getattr(entry, name) for name in _COLUMNS} for entry in entries]
    connection.execute(_INSERT, rows if len(rows) > 1 else rows[0])
    connection.execute(_MOVED, {"tenant": tenant_id, "to_seq": seq, "to_hash": hash})


def _head(connection: Connection, tenant_id: str) -> tuple[int, str]:
    """The head of the chain, locked until the transaction ends; made if there is none."""
    row = connection.execute(_LOCKED, {"tenant": tenant_id}).one_or_none()
    if row is None:
        # Who comes second waits here for who was first, and finds the head that they have made.
        insert_into = (
            postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        )
        first = insert_into(_HEADS).on_conflict_do_nothing()
        connection.execute(first.values(id=tenant_id, tenant_id=tenant_id, seq=0, hash=GENESIS))
        row = connection.execute(_LOCKED, {"tenant": tenant_id}).one()
    return row[0], row[1]


@event.listens_for(ScopedSession, "after_soft_rollback")
def _forget(session: Session, previous: SessionTransaction) -> None:
    """What was noted in a savepoint that is rolled back was not done."""
    pending = session.info.get(_PENDING)
    if pending:
        session.info[_PENDING] = [one for one in pending if not _within(one[0], previous)]


def _within(noted: SessionTransaction | None, ended: SessionTransaction) -> bool:
    if ended.parent is None:
        return True  # all of the transaction
    while noted is not None and noted is not ended:
        noted = noted.parent
    return noted is ended


# --- whether an operation wrote anything ---


@event.listens_for(ScopedSession, "after_flush")
def _flushed(session: Session, _: UOWTransaction) -> None:
    _wrote()


@event.listens_for(ScopedSession, "do_orm_execute")
def _executed(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        _wrote()


def _wrote() -> None:
    if (doing := deed()) is not None:
        doing.wrote = True
