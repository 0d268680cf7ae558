"""What the database says, right now, about API keys: whose they are, and for how long."""

import hmac
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.identity.tokens.api_key_text import KeyHolder, KeyUser
from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import ApiKey, DisabledMember, Tenant, User

ByKey = KeyHolder | KeyUser
"""Somebody who comes by an API key."""


class Grant(NamedTuple):
    """Whom a key that is good acts as, what it is limited to, and when it ends, if it does."""

    user_id: str
    tenant_id: str
    scopes: frozenset[str]
    until: datetime | None


_KEYS: Final[Any] = prebuilt(
    select(ApiKey).where(
        col(ApiKey.id).in_(bindparam("keys", expanding=True)), col(ApiKey.revoked_at).is_(None)
    )
)


async def grants(
    session: AsyncSession, wanted: Collection[ByKey], moment: datetime
) -> dict[ByKey, Grant]:
    """The grant of each whose key is neither revoked nor expired, and who shows its secret, the one
    before included until its time is over. Whether its user may come in is not looked at.
    """
    rows = await session.exec(_KEYS, params={"keys": padded({each.key_id for each in wanted})})
    keys = {row.id: row for row in rows.all()}
    found: dict[ByKey, Grant] = {}
    for each in wanted:
        row = keys.get(each.key_id)
        if row is None or (isinstance(each, KeyUser) and each[:2] != (row.user_id, row.tenant_id)):
            continue
        good, until = _good(row, each, moment)
        if good:
            scopes = frozenset(row.scopes.split())
            found[each] = Grant(row.user_id, row.tenant_id, scopes, until)
    return found


async def refusals(
    session: AsyncSession, wanted: Collection[ByKey], moment: datetime
) -> dict[ByKey, str]:
    """Why each has no standing; those whose membership has ended, and no other reason, are left
    out.
    """
    statement: Any = (
        select(
            ApiKey,
            func.coalesce(User.disabled_at, DisabledMember.disabled_at),
            Tenant.suspended_at,
        )
        .join(User, col(User.id) == ApiKey.user_id)
        .join(Tenant, col(Tenant.id) == ApiKey.tenant_id)
        .join(
            DisabledMember,
            (col(DisabledMember.user_id) == ApiKey.user_id)
            & (col(DisabledMember.tenant_id) == ApiKey.tenant_id),
            isouter=True,
        )
        .where(col(ApiKey.id).in_(padded({each.key_id for each in wanted})))
    )
    rows = {row.id: (row, *rest) for row, *rest in (await session.exec(statement)).all()}
    causes: dict[ByKey, str] = {}
    for each in wanted:
        if each.key_id not in rows:
            causes[each] = "key_revoked"
            continue
        row, disabled_at, suspended_at = rows[each.key_id]
        if row.revoked_at is not None:
            causes[each] = "key_revoked"
        elif not _good(row, each, moment)[0]:
            over = row.expires_at is not None and row.expires_at <= moment
            causes[each] = "key_expired" if over else "key_revoked"
        elif disabled_at is not None:
            causes[each] = "user_disabled"
        elif suspended_at is not None:
            causes[each] = "tenant_suspended"
    return causes


def _good(row: ApiKey, shown: ByKey, moment: datetime) -> tuple[bool, datetime | None]:
    """Whether the key, by the secret that is shown, is good now, and until when."""
    until = row.expires_at
    if isinstance(shown, KeyHolder) and not hmac.compare_digest(shown.digest, row.secret_hash):
        if row.previous_hash is None or row.previous_until is None:
            return False, None
        if not hmac.compare_digest(shown.digest, row.previous_hash):
            return False, None
        until = row.previous_until if until is None else min(until, row.previous_until)
    return until is None or until > moment, until
