"""What is done about an account, in the trail of each tenant that its user is in."""

from collections.abc import Mapping

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.storage.tables import Membership


async def tell(
    session: AsyncSession, user_id: str, action: str, revoked: Mapping[str, list[str]] | None = None
) -> None:
    """Note in the trail of each tenant of theirs what a user did with the account, and which API
    keys there were ``revoked`` by it.
    """
    tenants = await session.exec(
        select(Membership.tenant_id)
        .where(Membership.user_id == user_id)
        .distinct()
        .order_by(col(Membership.tenant_id))  # in one order, since the trail is locked
    )
    for tenant_id in tenants.all():
        keys = (revoked or {}).get(tenant_id)
        details = {"keys": keys} if keys else None
        await record(session, tenant_id, action, resource=("user", user_id), details=details)
