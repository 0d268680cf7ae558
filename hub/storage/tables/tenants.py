"""Tenants."""

from datetime import datetime

from sqlmodel import Field

from hub.storage.tables.columns import Dated, instant


class Tenant(Dated, table=True):
    """A house of its own. One that is suspended is closed to everybody; so is one that is deleted,
    which is suspended too, until it is restored, or purged after ``purge_at``.
    """

    __tablename__ = "tenants"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=200)
    suspended_at: datetime | None = instant(default=None, nullable=True)
    deleted_at: datetime | None = instant(default=None, nullable=True)
    purge_at: datetime | None = instant(default=None, nullable=True, index=True)
    purge_began_at: datetime | None = instant(default=None, nullable=True)  # no way back from here
    settings: str | None = Field(default=None)  # JSON (hub.storage.tenant_settings)
