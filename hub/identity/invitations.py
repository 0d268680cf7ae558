"""Invitations: a code that lets one person register into a tenant, in a role."""

import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import or_, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.identity.sessions import digest
from hub.storage.tables import Invitation, Tenant, now

LIFE: Final = timedelta(days=7)


def make(
    session: AsyncSession, tenant_id: str, role: str, invited_by: str | None, address: str | None
) -> str:
    """A new code, in the transaction of ``session``. ``address``: for this person alone."""
    code = secrets.token_urlsafe(32)
    session.add(
        Invitation(
            code_hash=digest(code),
            tenant_id=tenant_id,
            role_id=role,
            email=address,
            invited_by=invited_by,
            expires_at=now() + LIFE,
        )
    )
    return code


async def check(session: AsyncSession, code: str, address: str) -> None:
    """Raise Fault("permission_denied") unless ``accept`` would let this address in now."""
    invitation = await session.get(Invitation, digest(code))
    if (
        invitation is None
        or invitation.used_at is not None
        or invitation.expires_at <= now()
        or invitation.email not in (None, address)
    ):
        raise _invalid()


async def accept(session: AsyncSession, code: str, address: str) -> tuple[Tenant, str]:
    """Use the code up; the tenant, and the role in it. Raises Fault("permission_denied")."""
    moment = now()
    used = await session.exec(
        update(Invitation)
        .where(
            col(Invitation.code_hash) == digest(code),
            col(Invitation.used_at).is_(None),
            col(Invitation.expires_at) > moment,
            or_(col(Invitation.email).is_(None), col(Invitation.email) == address),
        )
        .values(used_at=moment)
        .returning(col(Invitation.tenant_id), col(Invitation.role_id))
    )
    row = used.one_or_none()
    tenant = await session.get(Tenant, row[0]) if row else None
    if row is None or tenant is None or tenant.suspended_at is not None:
        raise _invalid()
    return tenant, row[1]


def _invalid() -> Fault:
    return Fault("permission_denied", "The invitation is not valid, or not any more.")
