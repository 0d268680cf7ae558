"""Who may do nothing in a tenant, because its administrators or the operator said so; a condition
of statements.
"""

from sqlalchemy import ColumnElement, and_, exists
from sqlmodel import col

from hub.storage.tables import DisabledMember, Membership, User


def not_disabled() -> ColumnElement[bool]:
    """That a ``User`` was disabled neither everywhere nor in the tenant of their ``Membership``;
    both tables are in the statement.
    """
    there = exists().where(
        col(DisabledMember.user_id) == col(Membership.user_id),
        col(DisabledMember.tenant_id) == col(Membership.tenant_id),
    )
    return and_(col(User.disabled_at).is_(None), ~there)
