"""What somebody is called in a tenant: as its administrators say, else as they call themselves."""

from sqlalchemy import ColumnElement, func
from sqlmodel import col, select

from hub.storage.tables import MemberName, User


def name_in(tenant_id: str) -> ColumnElement[str | None]:
    """The name there of a ``User``, who is in the statement; null for who has none."""
    given = (
        select(MemberName.name)
        .where(MemberName.tenant_id == tenant_id, col(MemberName.user_id) == col(User.id))
        .correlate(User)
        .scalar_subquery()
    )
    return func.coalesce(given, col(User.name))
