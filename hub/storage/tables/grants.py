"""What was granted on one resource: conversations that are shared."""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from hub.storage.tables.columns import Dated, TenantOwned, instant


class Grant(TenantOwned, Dated, table=True):
    """That a subject was given access to a resource that is somebody else's. There is one at most
    for each two of them; one whose ``expires_at`` has passed gives nothing.
    """

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("resource_id", "subject_kind", "subject_id"),
        Index("ix_grants_subject", "tenant_id", "subject_kind", "subject_id"),
    )

    id: str = Field(primary_key=True, max_length=32)
    subject_kind: str = Field(max_length=16)  # user, group
    subject_id: str = Field(max_length=64)
    resource_kind: str = Field(max_length=32)  # conversation
    # The one kind that there is so far; its grants go with it.
    resource_id: str = Field(foreign_key="conversations.id", ondelete="CASCADE", max_length=32)
    access: str = Field(max_length=16)  # of hub.rbac.sharing
    granted_by: str | None = Field(
        default=None, foreign_key="users.id", ondelete="SET NULL", max_length=32
    )
    expires_at: datetime | None = instant(default=None, nullable=True)
