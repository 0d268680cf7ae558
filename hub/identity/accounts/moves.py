"""Moves: an account goes to another e-mail address, by a token that was sent there.

Whoever asks is signed in, and has given the password once more; nothing changes until somebody
reads the letter at the new address. Then the old one is told, and tokens that were sent there are
good for nothing any more. A tenant's administrators move nobody: whose mailbox it is comes into
every tenant of the account.
"""

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.identity.access.ways_in import void_letters
from hub.identity.accounts import account_tokens, addresses
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.trails import tell
from hub.identity.sessions.throttle import Throttle
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import User, now


class Moves:
    """Moves accounts, as their users ask for it, or the operator does."""

    def __init__(self, database: Database, throttle: Throttle, mailing: Mailing) -> None:
        self._database = database
        self._throttle = throttle
        self._mailing = mailing

    async def ask(self, user_id: str, email: str, place: str | None) -> None:
        """Have a letter sent to the new address. One that has an account is answered alike: the
        letter tells its owner. ``place``: where it is asked from.

        Raises Fault: "invalid_params" for what is no address, or the one that they have;
        "rate_limited".
        """
        address = addresses.normal(email)
        async with self._database.read(EVERY_TENANT) as session:
            user = await session.get(User, user_id)
        if user is None or user.email == address:
            raise Fault("invalid_params", "email: this is your address already.")
        await self._throttle.letter(address, place)
        self._mailing.want("move", address, user_id=user_id)

    async def set(self, user_id: str, email: str) -> User:
        """Move an account, for an operator at the machine, who says whose address it is.

        Raises Fault: "not_found", "invalid_params", "conflict".
        """
        address = addresses.normal(email)
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            await _move(session, user, address, "user.update")
        return user


async def moved(session: AsyncSession, token: str) -> tuple[User, str] | None:
    """Use a token of a move up: the user, who has moved, and their address of before; None for one
    that is for something else, or not good.

    Raises Fault("conflict") for an address that has an account by now.
    """
    used = await account_tokens.use_move(session, token)
    if used is None:
        return None
    user, address = used
    before = user.email
    await _move(session, user, address, "account.change_email")
    return user, before


async def _move(session: AsyncSession, user: User, address: str, action: str) -> None:
    user.email, user.verified_at, user.updated_at = address, now(), now()
    session.add(user)
    try:
        await session.flush()
    except IntegrityError:
        raise Fault("conflict", "This address has an account of its own.") from None
    await void_letters(session, user.id)  # what waits was sent elsewhere, or leads there
    await tell(session, user.id, action)
