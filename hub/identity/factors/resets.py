"""Resets: a second factor that its user has lost is taken away, by a letter or by the operator.

It guards every tenant that the user is in, so that no tenant's administrators take it away: they
have a letter sent (``hub.identity.accounts.recovery``), and whoever reads that decides. They learn
neither whether there was a factor, nor whether the user is in other tenants.
"""

from hub.identity.access.changes import Changed, announce
from hub.identity.accounts import account_tokens
from hub.identity.accounts.trails import tell
from hub.identity.factors.second_factors import forget
from hub.identity.sessions.throttle import Throttle
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT


class FactorResets:
    """Takes second factors away. ``changed(kind, id)`` is told when one goes."""

    def __init__(self, database: Database, throttle: Throttle, changed: Changed) -> None:
        self._database = database
        self._throttle = throttle
        self._changed = changed

    async def by_letter(self, token: str, address: str | None) -> None:
        """Take the second factor from the user to whom the token was sent, who signs in by the
        password alone from then on. Who shows it may sign in from there, whatever others do.

        The trails say so whether there was one or not. Raises Fault: "unauthenticated" for a token
        that is not good (any more), "rate_limited".
        """
        taken = await self._throttle.token(address)
        async with self._database.write(EVERY_TENANT) as session:
            # Who shows a code at this moment holds the factor, and waits to refer to the user.
            user = await account_tokens.use(session, token, "factor", referable=True)
            await account_tokens.void(session, user.id, "factor")
            gone = await forget(session, user.id)
            await tell(session, user.id, "account.reset_factor")
        await self._throttle.give_back(taken)
        if gone:
            await announce(self._changed, ("user", user.id))
        await self._throttle.at_home(user.email, address)

    async def by_operator(self, user_id: str) -> bool:
        """Take the second factor from a user of whatever tenants; whether there was one."""
        async with self._database.write(EVERY_TENANT) as session:
            gone = await forget(session, user_id)
            if gone:
                await tell(session, user_id, "factor.reset")
        if gone:
            await announce(self._changed, ("user", user_id))
        return gone
