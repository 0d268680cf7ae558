"""API keys."""

from datetime import datetime

from sqlmodel import Field

from hub.storage.tables.columns import Dated, TenantOwned, instant


class ApiKey(TenantOwned, Dated, table=True):
    """A key by which a program acts as its user in the tenant, limited to ``scopes``.

    The secret is stored as SHA-256 of the whole key. After a rotation the one before is good until
    ``previous_until``.
    """

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32)
    created_by: str | None = Field(default=None, max_length=32)  # None: the operator
    name: str = Field(max_length=200)
    scopes: str  # permissions, in order, with spaces between them
    secret_hash: str = Field(max_length=64)
    previous_hash: str | None = Field(default=None, max_length=64)
    previous_until: datetime | None = instant(default=None, nullable=True)
    rotated_at: datetime | None = instant(default=None, nullable=True)
    expires_at: datetime | None = instant(default=None, nullable=True)
    last_used_at: datetime | None = instant(default=None, nullable=True)
    revoked_at: datetime | None = instant(default=None, nullable=True)
