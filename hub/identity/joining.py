"""Joining a tenant by an invitation, with the account that one has."""

from sqlalchemy import delete, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import acting_as
from hub.audit.trail import record
from hub.faults import Fault
from hub.identity import invitations
from hub.identity.holdings import held_by
from hub.ids import new_id
from hub.storage.tables import ApiKey, LoginSession, Membership, Tenant, User, now


async def join(session: AsyncSession, user_id: str, code: str) -> tuple[Tenant, str]:
    """Let a user into another tenant, in the transaction of ``session`` (of every tenant): it, and
    the id of the role.

    Raises Fault: "permission_denied" for an invitation that is not valid, or not for them;
    "conflict" for who is a member already; "unauthenticated" for who is disabled. It is not used up
    then, if the transaction is given up.
    """
    user = await session.get(User, user_id)
    if user is None or user.disabled_at is not None:
        raise Fault("unauthenticated")
    tenant, role_id = await invitations.accept(session, code, user.email)
    if (await held_by(session, tenant.id, user_id)).member:
        raise Fault("conflict", "You are a member of this tenant already.")
    await _forget_what_expired(session, tenant.id, user_id)
    session.add(Membership(id=new_id("ms"), tenant_id=tenant.id, user_id=user_id, role_id=role_id))
    # The session that asks, if one does, is of another tenant, and no matter of this one's.
    with acting_as(user_id):
        await record(
            session,
            tenant.id,
            "invitation.accept",
            resource=("user", user_id),
            details={"role": role_id},
        )
    return tenant, role_id


async def _forget_what_expired(session: AsyncSession, tenant_id: str, user_id: str) -> None:
    """Delete the roles of a membership that ended by itself: the next begins with one of its own.
    Its login sessions and API keys do not come to life again.
    """
    here = col(Membership.tenant_id) == tenant_id
    await session.exec(delete(Membership).where(here, col(Membership.user_id) == user_id))
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
