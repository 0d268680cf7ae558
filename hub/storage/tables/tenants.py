"""Tenants."""

from datetime import datetime

from sqlmodel import Field

from hub.storage.tables.columns import Dated, instant


class Tenant(Dated, table=True):
    __tablename__ = "tenants"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=200)
    suspended_at: datetime | None = instant(default=None, nullable=True)
