"""What the tables are made of: instants, dates, and belonging to a tenant."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime on every database (SQLite drops the zone and needs it put back)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime; use datetime.now(UTC)")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        aware: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC)


def now() -> datetime:
    """This instant, aware, in UTC."""
    return datetime.now(UTC)


def instant(**options: Any) -> Any:
    """A column of type ``Instant``."""
    return Field(sa_type=Instant, **options)


class Dated(SQLModel):
    """A row that knows when it came and when it last changed."""

    created_at: datetime = instant(default_factory=now)
    updated_at: datetime = instant(default_factory=now, sa_column_kwargs={"onupdate": now})


class TenantOwned(SQLModel):
    """A row of one tenant; the session's tenant scope applies to it (``hub.storage.database``)."""

    tenant_id: str = Field(foreign_key="tenants.id", index=True, max_length=32)
