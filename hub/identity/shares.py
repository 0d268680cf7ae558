"""What was shared with somebody ends with their membership, and does not come back with another."""

from sqlalchemy import delete
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.tables import Grant


async def forget_shares(session: AsyncSession, user_id: str, tenant_id: str | None = None) -> None:
    """Delete what was granted to a user, in one tenant or (None) in all that the session sees.

    In the transaction that ends the membership. The authority is told of the user then anyway.
    """
    theirs = delete(Grant).where(
        col(Grant.subject_kind) == "user", col(Grant.subject_id) == user_id
    )
    if tenant_id is not None:
        theirs = theirs.where(col(Grant.tenant_id) == tenant_id)
    await session.exec(theirs.execution_options(synchronize_session=False))
