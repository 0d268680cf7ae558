"""Credentials, as they are shown: an access token or an API key, wherever one of them is."""

from hub.identity.api_key_text import PREFIX, parse
from hub.identity.authority import Authority
from hub.identity.tokens import Claims, Tokens, refused


class Credentials:
    """Reads what somebody shows."""

    def __init__(self, tokens: Tokens, authority: Authority) -> None:
        self._tokens = tokens
        self._authority = authority

    async def read(self, shown: str) -> Claims:
        """What valid credentials say.

        Raises Fault: "unauthenticated", the same for all that open nothing; "token_expired" for an
        access token that was valid; "backend_unavailable".
        """
        if not shown.startswith(PREFIX):
            return self._tokens.read(shown)
        holder = parse(shown)
        if holder is None:
            raise refused()
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
