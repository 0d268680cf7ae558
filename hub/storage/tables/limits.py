"""Quotas, and what stands in their accounts."""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field

from hub.storage.tables.columns import TenantOwned, instant


class Quota(TenantOwned, table=True):
    """One quota of one subject, and its account in the window that is open (``hub.limits.ledger``).

    There is a row for what was set, and for what is counted against a default.
    """

    __tablename__ = "quotas"

    id: str = Field(primary_key=True, max_length=128)  # <tenant>/<kind>:<subject>/<name>
    subject_kind: str = Field(max_length=16)  # tenant, user, key
    subject_id: str = Field(max_length=32)
    name: str = Field(max_length=32)  # tokens.day, …
    amount: int | None = Field(default=None, sa_type=BigInteger)  # None: the default; 0: no limit
    by_operator: bool = Field(default=False)  # set at the machine: not for the tenant to change
    set_at: datetime | None = instant(default=None, nullable=True)
    window: str = Field(default="", max_length=10)
    used: int = Field(default=0, sa_type=BigInteger)
    reserved: int = Field(default=0, sa_type=BigInteger)
