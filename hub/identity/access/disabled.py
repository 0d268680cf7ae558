"""Who may do nothing in a tenant, because its administrators said so; a condition of statements."""

from sqlalchemy import ColumnElement, exists
from sqlmodel import col

from hub.storage.tables import DisabledMember, Membership


def not_disabled_there() -> ColumnElement[bool]:
    """That the user of a ``Membership`` was not disabled in its tenant."""
    return ~exists().where(
        col(DisabledMember.user_id) == col(Membership.user_id),
        col(DisabledMember.tenant_id) == col(Membership.tenant_id),
    )
