"""Reading the trail: pages of it by filter, and all of it in order."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, String, or_, type_coerce
from sqlmodel import col, select

from hub.audit.chain import FIELDS, Fields, fields_of
from hub.audit.verifier import Known
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry, AuditHead

PAGE: Final = 500
"""Entries that are read at a time where all are."""

_COLUMNS: Final[tuple[Any, ...]] = tuple(
    # Dates as they stand where they are text: one that is none must not hide the rest.
    type_coerce(col(AuditEntry.at), String).label("at")
    if name == "at"
    else col(getattr(AuditEntry, name))
    for name in FIELDS
)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries: all that are given must be so. ``action``: what it begins with. ``until`` is
    after the last of them.
    """

    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    resource_kind: str | None = None
    resource_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        equal = (
            (AuditEntry.actor_id, self.actor),
            (AuditEntry.outcome, self.outcome),
            (AuditEntry.resource_kind, self.resource_kind),
            (AuditEntry.resource_id, self.resource_id),
        )
        found: list[ColumnElement[bool]] = [
            col(column) == value for column, value in equal if value is not None
        ]
        if self.action is not None:
            found.append(col(AuditEntry.action).startswith(self.action, autoescape=True))
        if self.since is not None:
            found.append(col(AuditEntry.at) >= self.since)
        if self.until is not None:
            found.append(col(AuditEntry.at) < self.until)
        return found


async def newest(
    database: Database,
    tenant_id: str,
    filters: Filters,
    *,
    before: int | None = None,
    after: int = 0,
    limit: int,
) -> list[Fields]:
    """The newest entries first, those with ``seq`` below ``before`` and above ``after``."""
    statement = _entries(tenant_id, filters).order_by(col(AuditEntry.seq).desc()).limit(limit)
    if after:
        statement = statement.where(col(AuditEntry.seq) > after)
    if before is not None:
        statement = statement.where(col(AuditEntry.seq) < before)
    async with database.read(tenant_id) as session:
        rows = (await session.exec(statement)).all()
    return [fields_of(row) for row in rows]


async def pages(
    database: Database,
    tenant_id: str,
    filters: Filters,
    *,
    after: int | None = None,
    through: int,
    size: int | None = None,
) -> AsyncIterator[Sequence[Fields]]:
    """All that there is with ``seq`` from ``after`` to ``through``, page by page, the oldest first;
    without ``after`` also what stands before the first that there can be.

    A page is a transaction of its own: nothing is held from one to the next.
    """
    seq, id = col(AuditEntry.seq), col(AuditEntry.id)
    every = _entries(tenant_id, filters).where(seq <= through).order_by(seq, id)
    every = every.limit(size or PAGE)
    statement = every if after is None else every.where(seq > after)
    while True:
        async with database.read(tenant_id) as session:
            rows = (await session.exec(statement)).all()
        if not rows:
            return
        page = [fields_of(row) for row in rows]
        yield page
        last = page[-1]
        # Two with one seq cannot be, and yet must not be passed over.
        statement = every.where(seq >= last["seq"], or_(seq > last["seq"], id > last["id"]))


@dataclass(frozen=True, slots=True)
class Extent:
    """What there is of a chain: its head, and the first (from 1 on) and last ``seq`` of its entries
    (0 if there are none), all at one moment.
    """

    head: Known | None
    first: int
    last: int


async def extent(database: Database, tenant_id: str) -> Extent:
    """How far the chain of a tenant reaches."""
    seq = col(AuditEntry.seq)
    every = select(seq).where(col(AuditEntry.tenant_id) == tenant_id).limit(1)
    ends = [
        every.where(seq >= 1).order_by(seq).scalar_subquery(),
        every.order_by(seq.desc()).scalar_subquery(),
    ]
    statement: Any = select(
        select(col(AuditHead.seq)).where(col(AuditHead.id) == tenant_id).scalar_subquery(),
        select(col(AuditHead.hash)).where(col(AuditHead.id) == tenant_id).scalar_subquery(),
        *ends,
    )
    async with database.read(EVERY_TENANT) as session:  # which is said in the statement
        head, hash, first, last = (await session.exec(statement)).one()
    return Extent(None if head is None else Known(head, hash), first or 0, last or 0)


def _entries(tenant_id: str, filters: Filters) -> Any:
    of_tenant = col(AuditEntry.tenant_id) == tenant_id
    return select(*_COLUMNS).where(of_tenant, *filters.conditions())
