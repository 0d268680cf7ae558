"""Joining a tenant by an invitation, with the account that one has."""

from sqlalchemy import delete
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import acting_as
from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.holdings import held_by
from hub.identity.access.remains import forget_remains
from hub.identity.accounts import invitations
from hub.ids import new_id
from hub.storage.tables import Membership, Tenant, User


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
    if not await _let_in(session, user_id, tenant.id, role_id):
        raise Fault("conflict", "You are a member of this tenant already.")
    return tenant, role_id


async def join_as_promised(session: AsyncSession, guest: User) -> None:
    """Let a user whose address is theirs from now on into the tenant whose invitation they
    registered with, if it is good still. In the transaction that verifies the address, before it
    locks the user: tenants before users, as everywhere.
    """
    if guest.disabled_at is None and (there := await invitations.accept_promised(session, guest)):
        tenant, role_id = there
        await _let_in(session, guest.id, tenant.id, role_id)


async def _let_in(session: AsyncSession, user_id: str, tenant_id: str, role_id: str) -> bool:
    """Make them a member; False for who is one."""
    if (await held_by(session, tenant_id, user_id)).member:
        return False
    await _forget_what_expired(session, tenant_id, user_id)
    session.add(Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=user_id, role_id=role_id))
    # The session that asks, if one does, is of another tenant, and no matter of this one's.
    with acting_as(user_id):
        await record(
            session,
            tenant_id,
            "invitation.accept",
            resource=("user", user_id),
            details={"role": role_id},
        )
    return True


async def _forget_what_expired(session: AsyncSession, tenant_id: str, user_id: str) -> None:
    """Delete a membership that ended by itself, and what remains of it: the next begins with a role
    of its own.
    """
    here = col(Membership.tenant_id) == tenant_id
    await session.exec(delete(Membership).where(here, col(Membership.user_id) == user_id))
    await forget_remains(session, tenant_id, user_id)
