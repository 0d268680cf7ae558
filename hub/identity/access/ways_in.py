"""The ways in that a user has beside the password, and how they end.

Whoever had an account for a while may have left them behind: a sign-in that waits for its second
factor, a login link, a move to an address of theirs, a letter that takes the second factor away, an
API key. Each is ended in the transaction that takes the account back.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.tables import AccountToken, ApiKey, LoginChallenge, LoginLink, LoginSession, now


async def void_sign_ins(session: AsyncSession, user_id: str) -> None:
    """Void the user's sign-ins that wait for a second factor, and login links that were not used,
    in the scope of ``session``.

    Before the sessions are ended: one that such a sign-in is opening now is committed by then.
    """
    for waiting in (LoginChallenge, LoginLink):
        await _void(session, waiting, col(waiting.user_id) == user_id)


async def void_letters(session: AsyncSession, user_id: str) -> None:
    """Void moves of the account to another address that nobody there has confirmed, and letters
    that take its second factor away.
    """
    purposes = col(AccountToken.purpose).in_(("move", "factor"))
    await _void(session, AccountToken, (col(AccountToken.user_id) == user_id) & purposes)


async def _void(
    session: AsyncSession,
    waiting: type[LoginChallenge] | type[LoginLink] | type[AccountToken],
    which: ColumnElement[bool],
) -> None:
    await session.exec(
        update(waiting)
        .where(which, col(waiting.used_at).is_(None))
        .values(used_at=now())
        .execution_options(synchronize_session=False)
    )


async def end_sessions(session: AsyncSession, which: ColumnElement[bool]) -> None:
    """Revoke those of these login sessions that are not, in the transaction of ``session``."""
    await session.exec(
        update(LoginSession)
        .where(which, col(LoginSession.revoked_at).is_(None))
        .values(revoked_at=now())
        .execution_options(synchronize_session=False)
    )


async def revoke_keys(session: AsyncSession, user_id: str) -> Mapping[str, list[str]]:
    """End all API keys of a user: the ids of those that were not revoked yet, by tenant."""
    moment = now()
    ended: Any = await session.exec(
        update(ApiKey)
        .where(col(ApiKey.user_id) == user_id, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=moment, updated_at=moment)
        .returning(col(ApiKey.tenant_id), col(ApiKey.id))
        .execution_options(synchronize_session=False)
    )
    revoked: dict[str, list[str]] = {}
    for tenant_id, key_id in sorted(ended.all()):
        revoked.setdefault(tenant_id, []).append(key_id)
    return revoked


async def was_ended(session: AsyncSession, session_id: str) -> bool:
    """Whether this login session or API key was revoked, as of the transaction of ``session``."""
    for way_in in (LoginSession, ApiKey):
        revoked = col(way_in.revoked_at).is_not(None)
        statement = select(way_in.id).where(col(way_in.id) == session_id, revoked)
        if (await session.exec(statement)).first() is not None:
            return True
    return False
