"""Whether somebody may come into a tenant, whatever they show."""

from typing import Any, Final

from sqlalchemy import bindparam
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.identity.access.holdings import admitted
from hub.storage.scope import prebuilt
from hub.storage.tables import Membership, Tenant, User, now

_MAY_ENTER: Final[Any] = prebuilt(
    select(Membership.id)
    .join(User, col(User.id) == Membership.user_id)
    .join(Tenant, col(Tenant.id) == Membership.tenant_id)
    .where(
        Membership.user_id == bindparam("user"),
        Membership.tenant_id == bindparam("tenant"),
        admitted(bindparam("moment")),
    )
    .limit(1)
)


async def may_enter(session: AsyncSession, user_id: str, tenant_id: str) -> bool:
    """Whether the user is enabled, the tenant not suspended, and one a member of the other."""
    params = {"user": user_id, "tenant": tenant_id, "moment": now()}
    return (await session.exec(_MAY_ENTER, params=params)).first() is not None
