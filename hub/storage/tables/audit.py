"""The audit trail of each tenant: what was done, hash-chained, and the head of the chain.

Neither table refers to that of the tenants. The trail outlives what it tells of; and nothing may be
locked after the head, which is the last that a transaction locks (see ``hub.audit.trail``).
"""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from hub.storage.tables.columns import TenantOwned, instant, now


class AuditEntry(TenantOwned, table=True):
    """One thing that was done, refused or failed. ``hash`` is over all the others and the hash of
    the entry before (see ``hub.audit.chain``).
    """

    __tablename__ = "audit_entries"
    __table_args__ = (
        UniqueConstraint("tenant_id", "seq"),
        Index("ix_audit_entries_at", "tenant_id", "at"),
        Index("ix_audit_entries_actor", "tenant_id", "actor_id", "seq"),
        Index("ix_audit_entries_resource", "tenant_id", "resource_id", "seq"),
    )

    id: str = Field(primary_key=True, max_length=32)
    tenant_id: str = Field(max_length=32)
    seq: int  # 1, 2, 3 … in the tenant, without holes
    at: datetime = instant(default_factory=now)
    action: str = Field(max_length=64)
    outcome: str = Field(max_length=16)  # done, denied, failed
    actor_id: str | None = Field(default=None, max_length=32)  # None: the hub itself, or nobody
    session_id: str | None = Field(default=None, max_length=32)
    resource_kind: str | None = Field(default=None, max_length=32)
    resource_id: str | None = Field(default=None, max_length=200)
    transport: str = Field(max_length=16)
    address: str | None = Field(default=None, max_length=64)
    trace_id: str | None = Field(default=None, max_length=64)
    details: str = Field(default="{}")  # JSON; never secrets, never what was said
    previous_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class AuditHead(TenantOwned, table=True):
    """Where a tenant's chain ends. It is locked while entries are added."""

    __tablename__ = "audit_heads"

    id: str = Field(primary_key=True, max_length=32)  # the tenant's
    tenant_id: str = Field(max_length=32)
    seq: int = Field(default=0)
    hash: str = Field(default="", max_length=64)
