"""Writing the trail: an entry commits with the deed that it tells of, or neither does."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import orjson
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.chain import GENESIS, hash_of
from hub.audit.origin import current
from hub.ids import new_id
from hub.storage.tables import AuditEntry, AuditHead, now

Outcome = Literal["done", "denied", "failed"]
Detail = str | int | bool | None | list[str]

_HASHED: Final = (
    "id", "tenant_id", "seq", "action", "outcome", "actor_id", "session_id", "resource_kind",
    "resource_id", "transport", "address", "trace_id", "details", "previous_hash",
)  # fmt: skip


async def record(
    session: AsyncSession,
    tenant_id: str,
    action: str,
    *,
    resource: tuple[str, str] | None = None,
    outcome: Outcome = "done",
    details: Mapping[str, Detail] | None = None,
) -> AuditEntry:
    """Add an entry to the tenant's trail, in the transaction of ``session`` (a write).

    ``action`` is an operation's name or one like it (``user.disable``); ``resource`` is the
    ``(kind, id)`` of what was acted on. Who acts, and whence, is the ambient ``Origin``.
    ``details`` never hold secrets or what was said. If the entry cannot be written the transaction
    fails.
    """
    origin = current()
    head = await session.get(AuditHead, tenant_id, with_for_update=True)
    if head is None:
        head = AuditHead(id=tenant_id, tenant_id=tenant_id, seq=0, hash=GENESIS)
        session.add(head)
    kind, id = resource or (None, None)
    entry = AuditEntry(
        id=new_id("ae"),
        tenant_id=tenant_id,
        seq=head.seq + 1,
        at=now(),
        action=action,
        outcome=outcome,
        actor_id=origin.actor_id,
        session_id=origin.session_id,
        resource_kind=kind,
        resource_id=id,
        transport=origin.transport,
        address=origin.address,
        trace_id=origin.trace_id,
        details=orjson.dumps(dict(details or {}), option=orjson.OPT_SORT_KEYS).decode(),
        previous_hash=head.hash,
        hash="",
    )
    entry.hash = hash_of(fields_of(entry))
    session.add(entry)
    head.seq, head.hash = entry.seq, entry.hash
    await session.flush()
    return entry


def fields_of(entry: AuditEntry) -> dict[str, Any]:
    """What the hash of an entry is over."""
    fields: dict[str, Any] = {name: getattr(entry, name) for name in _HASHED}
    at: datetime = entry.at
    fields["at"] = at.isoformat(timespec="microseconds")
    return fields
