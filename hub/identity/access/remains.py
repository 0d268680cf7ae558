"""What remains of a membership that has ended by itself: it gives nothing any more, and comes to
life again with no other one.
"""

from sqlalchemy import delete, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.identity.access.shares import forget_shares
from hub.storage.tables import ApiKey, GroupMember, LoginSession, MemberName, now


async def forget_remains(session: AsyncSession, tenant_id: str, user_id: str) -> None:
    """Revoke the login sessions and API keys that a user had in a tenant, and take them out of its
    groups and of what was shared with them; what they were called there is forgotten.

    In the transaction that makes somebody a member again who was none any more.
    """
    for way_in in (LoginSession, ApiKey):
        await session.exec(
            update(way_in)
            .where(
                col(way_in.user_id) == user_id,
                col(way_in.tenant_id) == tenant_id,
                col(way_in.revoked_at).is_(None),
            )
            .values(revoked_at=now())
            .execution_options(synchronize_session=False)
        )
    for table in (GroupMember, MemberName):
        await session.exec(
            delete(table)
            .where(col(table.user_id) == user_id, col(table.tenant_id) == tenant_id)
            .execution_options(synchronize_session=False)
        )
    await forget_shares(session, user_id, tenant_id)
