"""Single-use tokens that are sent to an address: who has one reads what comes there.

A token is 256 random bits, kept as its SHA-256, good for one purpose, for one user, for as long as
the address is still theirs, and once.
"""

import secrets
from datetime import timedelta
from typing import Final, Literal

from sqlalchemy import update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.identity.sessions.login_sessions import digest
from hub.storage.tables import AccountToken, User, now

Purpose = Literal["verify", "reset", "move", "factor"]
"""``move``: it was sent to an address that the account is to have. ``factor``: it takes the second
factor away.
"""

LIVES: Final[dict[Purpose, timedelta]] = {
    "verify": timedelta(days=1),
    "reset": timedelta(minutes=30),
    "move": timedelta(days=1),
    "factor": timedelta(days=1),
}
"""How long a token is good for."""


def make(
    session: AsyncSession,
    user: User,
    purpose: Purpose,
    *,
    address: str | None = None,
    lives: timedelta | None = None,
) -> str:
    """A new token for an address (the one that the user has), in the transaction of ``session``.
    ``lives``: by default as long as those for the purpose do.
    """
    token = secrets.token_urlsafe(32)
    session.add(
        AccountToken(
            token_hash=digest(token),
            user_id=user.id,
            purpose=purpose,
            email=address or user.email,
            expires_at=now() + (lives or LIVES[purpose]),
        )
    )
    return token


async def holder(session: AsyncSession, token: str, purpose: Purpose) -> User:
    """Whose token it is, before it is used. Raises Fault("unauthenticated"), as ``use`` does."""
    found = await session.exec(
        select(User)
        .join(AccountToken, col(AccountToken.user_id) == User.id)
        .where(
            AccountToken.token_hash == digest(token),
            AccountToken.purpose == purpose,
            col(AccountToken.used_at).is_(None),
            col(AccountToken.expires_at) > now(),
            AccountToken.email == User.email,
        )
    )
    user = found.one_or_none()
    if user is None:
        raise _invalid()
    return user


async def use(
    session: AsyncSession, token: str, purpose: Purpose, *, referable: bool = False
) -> User:
    """Use the token up; its user, whose row is locked, but (``referable``) not against rows that
    come to refer to it. Raises Fault("unauthenticated") for a token that was used, is too old, is
    for something else, or was sent to an address that is not theirs now.
    """
    found = await _used(session, token, purpose, referable=referable)
    if found is None or found[0].email != found[1]:
        raise _invalid()
    return found[0]


async def use_move(session: AsyncSession, token: str) -> tuple[User, str] | None:
    """Use a token up that is for a move: its user, whose row is locked, and the address that it was
    sent to; None for one that is not good for that.
    """
    return await _used(session, token, "move")


async def _used(
    session: AsyncSession, token: str, purpose: Purpose, *, referable: bool = False
) -> tuple[User, str] | None:
    moment = now()
    good = (
        (col(AccountToken.token_hash) == digest(token))
        & (col(AccountToken.purpose) == purpose)
        & col(AccountToken.used_at).is_(None)
        & (col(AccountToken.expires_at) > moment)
    )
    user_id = (await session.exec(select(AccountToken.user_id).where(good))).one_or_none()
    if user_id is None:
        return None
    # Before the token, as whoever voids it locks them; and as it is then, whatever was read of it.
    user = await session.get(
        User, user_id, with_for_update={"key_share": referable}, populate_existing=True
    )
    used = await session.exec(
        update(AccountToken)
        .where(good)
        .values(used_at=moment)
        .returning(col(AccountToken.email))
        .execution_options(synchronize_session=False)
    )
    row = used.one_or_none()
    if row is None or user is None or user.deleted_at is not None:
        return None
    return user, row[0]


async def void(session: AsyncSession, user_id: str, purpose: Purpose) -> None:
    """The user's other tokens for this purpose are good for nothing any more."""
    await session.exec(
        update(AccountToken)
        .where(
            col(AccountToken.user_id) == user_id,
            col(AccountToken.purpose) == purpose,
            col(AccountToken.used_at).is_(None),
        )
        .values(used_at=now())
        .execution_options(synchronize_session=False)
    )


def _invalid() -> Fault:
    return Fault("unauthenticated", "The link was used, or is too old. Ask for another one.")
