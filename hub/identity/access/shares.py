"""What was shared with somebody ends with their membership, and does not come back with another;
what was shared with a group ends with the group.
"""

from sqlalchemy import ColumnElement, and_, delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.tables import Grant


async def forget_shares(session: AsyncSession, user_id: str, tenant_id: str | None = None) -> None:
    """Delete what was granted to a user, in one tenant or (None) in all that the session sees.

    In the transaction that ends the membership. The authority is told of the user then anyway.
    """
    theirs = _to("user", user_id)
    if tenant_id is not None:
        theirs = and_(theirs, col(Grant.tenant_id) == tenant_id)
    await _delete(session, theirs)


async def forget_group_shares(session: AsyncSession, group_id: str) -> list[str]:
    """Delete what was granted to a group: the ids of the conversations, in their order.

    In the transaction that deletes the group, which has locked it. The authority is told of the
    group then anyway, and who was in it is found to be in it no more.
    """
    theirs = _to("group", group_id)
    ids = select(Grant.resource_id).where(theirs).order_by(col(Grant.resource_id))
    found = list((await session.exec(ids)).all())
    if found:
        await _delete(session, theirs)
    return found


def _to(kind: str, id: str) -> ColumnElement[bool]:
    return and_(col(Grant.subject_kind) == kind, col(Grant.subject_id) == id)


async def _delete(session: AsyncSession, which: ColumnElement[bool]) -> None:
    statement = delete(Grant).where(which)
    await session.exec(statement.execution_options(synchronize_session=False))
