"""Credentials, as they are shown: an access token or an API key, wherever one of them is."""

from collections.abc import Awaitable, Callable
from typing import Final

from hub.identity.access.authority import Authority
from hub.identity.tokens.access_tokens import Claims, Tokens, refused
from hub.identity.tokens.api_key_text import PREFIX, parse

LOOK_UP: Final = 1.0
"""What an API key that is not known takes of the budget of the address: anybody can make up one
that looks like a key, checksum and all, and only the database knows better.
"""

Spend = Callable[[float, str | None], Awaitable[None]]
"""``hub.limits.rates.Rates.spend_address``: called with a cost and an address."""


class Credentials:
    """Reads what somebody shows."""

    def __init__(self, tokens: Tokens, authority: Authority, spend: Spend | None = None) -> None:
        self._tokens = tokens
        self._authority = authority
        self._spend = spend

    async def read(self, shown: str, address: str | None = None) -> Claims:
        """What valid credentials say, that are shown from this address.

        Raises Fault: "unauthenticated", the same for all that open nothing; "token_expired" for an
        access token that was valid; "rate_limited"; "backend_unavailable".
        """
        if not shown.startswith(PREFIX):
            return self._tokens.read(shown)
        holder = parse(shown)
        if holder is None:
            raise refused()
        if self._spend is not None and self._authority.known(holder) is None:
            await self._spend(LOOK_UP, address)
        standing = await self._authority.standing(holder)
        actor, until = standing.actor, standing.until
        return Claims(
            user_id=actor.user_id,
            tenant_id=actor.tenant_id,
            session_id=holder.key_id,
            token_id=holder.key_id,
            issued_at=0,
            expires_at=None if until is None else int(until.timestamp()),
            holder=holder,
        )
