"""Invitations: a code that lets one person into a tenant, in a role."""

import secrets
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.identity.access.definitions import definitions_of
from hub.identity.access.holdings import hand_there
from hub.identity.access.owners import lock
from hub.identity.sessions.login_sessions import digest
from hub.rbac.ranks import why_not_give
from hub.storage.tables import Invitation, Tenant, User, now
from hub.storage.tenant_settings import parsed, settings_of

PERMISSION: Final = "member:invite"
"""What one invites by."""
LIFE: Final = timedelta(days=7)


def make(
    session: AsyncSession,
    tenant_id: str,
    role: str,
    invited_by: str | None,
    address: str | None,
    *,
    until: datetime | None = None,
    guest_id: str | None = None,
) -> tuple[Invitation, str]:
    """A new invitation and its code, in the transaction of ``session``. ``address``: for this
    person alone. ``invited_by``: a member, on whose standing it rests; None for the operator.
    ``until``: by default for ``LIFE``. ``guest_id``: the user who comes in by it without the code
    (``accept_promised``).
    """
    code = secrets.token_urlsafe(32)
    invitation = Invitation(
        code_hash=digest(code),
        tenant_id=tenant_id,
        role_id=role,
        email=address,
        invited_by=invited_by,
        guest_id=guest_id,
        expires_at=until or now() + LIFE,
    )
    session.add(invitation)
    return invitation, code


async def again(
    session: AsyncSession, used: str, address: str, guest_id: str | None
) -> tuple[Invitation, str]:
    """One as that of the code ``used``, until the same moment, for this address alone; and its
    code. In the transaction of ``session``, in which that one was used up.
    """
    before = await session.get(Invitation, digest(used))
    assert before is not None, "it was used up in this transaction"
    return make(
        session,
        before.tenant_id,
        before.role_id,
        before.invited_by,
        address,
        until=before.expires_at,
        guest_id=guest_id,
    )


async def check_address(session: AsyncSession, tenant_id: str, address: str) -> None:
    """Raise Fault("conflict") for an address of a domain that the tenant takes no guests from."""
    domains = (await settings_of(session, tenant_id)).invitation_domains
    if domains and address.rpartition("@")[2] not in domains:
        raise Fault("conflict", f"Invitations here are for addresses of: {', '.join(domains)}.")


async def check(session: AsyncSession, code: str, address: str) -> Invitation:
    """The invitation. Raises Fault("permission_denied") unless ``accept`` would let this address in
    now.
    """
    invitation = await session.get(Invitation, digest(code))
    if (
        invitation is None
        or invitation.used_at is not None
        or invitation.expires_at <= now()
        or invitation.email not in (None, address)
    ):
        raise _invalid()
    tenant = await session.get(Tenant, invitation.tenant_id)
    await _check_standing(session, invitation, tenant, address)
    return invitation


async def accept(session: AsyncSession, code: str, address: str) -> tuple[Tenant, str]:
    """Use the code up; the tenant, and the role in it. Raises Fault("permission_denied")."""
    return await _accept(session, digest(code), address)


async def accept_promised(session: AsyncSession, guest: User) -> tuple[Tenant, str] | None:
    """Use up the invitation by which a user comes in without a code; as ``accept``. None if there
    is none, or none that is good any more, which is as it was then.
    """
    promised = select(Invitation.code_hash).where(
        col(Invitation.guest_id) == guest.id, col(Invitation.used_at).is_(None)
    )
    code_hash = (await session.exec(promised)).first()
    if code_hash is None:
        return None
    try:
        async with session.begin_nested():
            return await _accept(session, code_hash, guest.email)
    except Fault as fault:
        if fault.reason != "permission_denied":
            raise
        return None


async def _accept(session: AsyncSession, code_hash: str, address: str) -> tuple[Tenant, str]:
    named = col(Invitation.code_hash) == code_hash
    tenant_id = (await session.exec(select(Invitation.tenant_id).where(named))).first()
    if tenant_id is None:
        raise _invalid()
    # Locked: the tenant is not closed, and who invites is not put out, before this is committed.
    # And before the invitation, which whoever puts them out comes to after the tenant.
    await lock(session, tenant_id)
    moment = now()
    used = await session.exec(
        update(Invitation)
        .where(
            named,
            col(Invitation.used_at).is_(None),
            col(Invitation.expires_at) > moment,
            or_(col(Invitation.email).is_(None), col(Invitation.email) == address),
        )
        .values(used_at=moment)
        .returning(col(Invitation.code_hash))
    )
    invitation = await session.get(Invitation, code_hash) if used.first() else None
    if invitation is None:
        raise _invalid()
    tenant = await session.get(Tenant, invitation.tenant_id)
    await _check_standing(session, invitation, tenant, address)
    assert tenant is not None, "it is locked"
    return tenant, invitation.role_id


async def void(session: AsyncSession, user_id: str, tenant_id: str | None = None) -> None:
    """Delete the invitations of a user that wait, in one tenant or (None) in all that the session
    sees. In the transaction that deletes the user, and before: then they would name nobody, as the
    operator's do.
    """
    theirs = delete(Invitation).where(
        col(Invitation.invited_by) == user_id, col(Invitation.used_at).is_(None)
    )
    if tenant_id is not None:
        theirs = theirs.where(col(Invitation.tenant_id) == tenant_id)
    await session.exec(theirs.execution_options(synchronize_session=False))


async def _check_standing(
    session: AsyncSession, invitation: Invitation, tenant: Tenant | None, address: str
) -> None:
    """Raise Fault("permission_denied") when the tenant is closed, or takes no such address, or when
    whoever invites may not give the role any more.
    """
    if tenant is None or tenant.suspended_at is not None:
        raise _invalid()
    domains = parsed(tenant.settings).invitation_domains
    if domains is not None and address.rpartition("@")[2] not in domains:
        raise _invalid()
    if invitation.invited_by is None:
        return
    definitions = await definitions_of(session, [tenant.id])
    hand = await hand_there(session, tenant.id, invitation.invited_by, definitions)
    if hand is None or not hand.holds(PERMISSION):
        raise _invalid()
    if why_not_give(hand, (invitation.role_id,), definitions) is not None:
        raise _invalid()


def _invalid() -> Fault:
    return Fault("permission_denied", "The invitation is not valid, or not any more.")
