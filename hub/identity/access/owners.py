"""The owners of a tenant, of whom one stays."""

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.identity.access.disabled import not_disabled
from hub.rbac.roles import OWNER
from hub.storage.tables import Membership, Tenant, User


async def lock(session: AsyncSession, tenant_id: str) -> None:
    """Take the tenant's row until the transaction ends: what is read from here on stays so.

    Changes of roles, groups, members and the users among them that could take away an owner begin
    with this. Raises Fault("not_found").
    """
    # Not FOR UPDATE: rows of the tenant (messages, runs) may come meanwhile. SQLite has one writer.
    row = select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True)
    if (await session.exec(row)).first() is None:
        raise Fault("not_found", "There is no such tenant.")


async def has_owner(session: AsyncSession, tenant_id: str, *, besides: str = "") -> bool:
    """Whether the tenant has an owner, and another than the user ``besides``: a user who is not
    disabled, there or everywhere, and is an owner for good, not by a group and not until a moment
    that comes.
    """
    owners = (
        select(Membership.id)
        .join(User, col(User.id) == Membership.user_id)
        .where(
            Membership.tenant_id == tenant_id,
            Membership.user_id != besides,
            Membership.role_id == OWNER,
            col(Membership.expires_at).is_(None),
            not_disabled(),
        )
        .limit(1)
    )
    return (await session.exec(owners)).first() is not None


async def keep_an_owner(session: AsyncSession, tenant_id: str) -> None:
    """Raise Fault("conflict") when the transaction would leave the tenant without an owner.

    After what takes an owner away, in a transaction that has begun with ``lock``.
    """
    await session.flush()
    if not await has_owner(session, tenant_id):
        raise Fault(
            "conflict", "This is the tenant's last owner. Make somebody else an owner first."
        )
