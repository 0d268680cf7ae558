"""Which login sessions may do nothing yet but enrol a second factor, as their tenant demands."""

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
    .join(
        TotpFactor,
        (col(TotpFactor.user_id) == LoginSession.user_id)
        & col(TotpFactor.confirmed_at).is_not(None),
        isouter=True,
    )
    .where(
        col(LoginSession.id).in_(bindparam("sessions", expanding=True)),
        col(LoginSession.second_factor).is_(None),
        col(TotpFactor.user_id).is_(None),
    )
)


async def demanded(session: AsyncSession, session_ids: Collection[str]) -> dict[str, int]:
    """The rank from which the tenant demands a second factor, for each of these login sessions
    whose user has none, and that no identity provider vouches for. Others are left out.
    """
    rows = await session.exec(_DEMANDED, params={"sessions": padded(session_ids)})
    return dict(rows.all())
