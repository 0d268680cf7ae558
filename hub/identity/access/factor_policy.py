"""Which login sessions may do nothing yet but show a second factor, as their tenant demands."""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import bindparam
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import FactorPolicy, LoginSession, TotpFactor

_DEMANDED: Final[Any] = prebuilt(
    select(LoginSession.id, FactorPolicy.rank)
    .join(FactorPolicy, col(FactorPolicy.tenant_id) == LoginSession.tenant_id)
    .where(
        col(LoginSession.id).in_(bindparam("sessions", expanding=True)),
        col(LoginSession.second_factor).is_(None),
    )
)
_CONFIRMED: Final[Any] = prebuilt(
    select(TotpFactor.confirmed_at).where(
        TotpFactor.user_id == bindparam("user"), col(TotpFactor.confirmed_at).is_not(None)
    )
)


async def demanded(session: AsyncSession, session_ids: Collection[str]) -> dict[str, int]:
    """The rank from which the tenant demands a second factor, for each of these login sessions in
    which none was shown, whether or not its user has one. Others are left out.
    """
    rows = await session.exec(_DEMANDED, params={"sessions": padded(session_ids)})
    return dict(rows.all())


async def has_factor(session: AsyncSession, user_id: str) -> bool:
    """Whether the user has a second factor in force."""
    return (await session.exec(_CONFIRMED, params={"user": user_id})).first() is not None
