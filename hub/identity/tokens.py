"""Access tokens: JWTs (RFC 7519) that say who signed in where, and nothing of what they may do."""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

import jwt

from hub.faults import Fault

ISSUER: Final = "realtime-agent-hub"
AUDIENCE: Final = "realtime-agent-hub"
TYPE: Final = "access"
LEEWAY_S: Final = 30
MAX_CHARACTERS: Final = 4096

_INSTANTS: Final = ("exp", "iat", "nbf")
_NAMES: Final = ("iss", "aud", "sub", "jti", "sid", "tid", "typ")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid access token says. Instants are seconds since the epoch."""

    user_id: str
    tenant_id: str
    session_id: str
    token_id: str
    issued_at: int
    expires_at: int


class Tokens:
    """Issues and reads access tokens, with one key and one algorithm."""

    def __init__(self, key: bytes, algorithm: str, minutes: int) -> None:
        """``key``: at least 32 bytes; ``algorithm``: HS256, HS384 or HS512; ``minutes``: life."""
        self._key = key
        self._algorithm = algorithm
        self.life_s: Final = minutes * 60

    def issue(self, user_id: str, tenant_id: str, session_id: str) -> str:
        """A token for this user, in this tenant, of this login session."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "typ": TYPE,
            "sub": user_id,
            "tid": tenant_id,
            "sid": session_id,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "nbf": now,
            "exp": now + self.life_s,
        }
        return jwt.encode(claims, self._key, algorithm=self._algorithm)

    def read(self, token: str) -> Claims:
        """The claims of a valid token.

        Raises Fault("token_expired") for one that was valid, Fault("unauthenticated") for any
        other. Clocks may differ by 30 s.
        """
        if len(token) > MAX_CHARACTERS:
            raise _invalid()
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_S,
                options={"require": [*_INSTANTS, *_NAMES], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _invalid() from None
        # PyJWT takes "123" for an instant, and a list for the audience.
        if not all(_is_instant(claims[name]) for name in _INSTANTS):
            raise _invalid()
        if not all(isinstance(claims[name], str) and claims[name] for name in _NAMES):
            raise _invalid()
        if claims["typ"] != TYPE:
            raise _invalid()
        # Last, so that only a token that was ours is called expired.
        if claims["exp"] + LEEWAY_S <= time.time():
            raise Fault("token_expired")
        return Claims(
            user_id=claims["sub"],
            tenant_id=claims["tid"],
            session_id=claims["sid"],
            token_id=claims["jti"],
            issued_at=claims["iat"],
            expires_at=claims["exp"],
        )

    def derive(self, purpose: str, material: str) -> bytes:
        """32 bytes that only a holder of the key can make of ``material``, for one purpose."""
        return hmac.digest(self._key, f"{purpose}\0{material}".encode(), hashlib.sha256)


def _is_instant(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 53


def _invalid() -> Fault:
    return Fault("unauthenticated", "The access token is not valid. Sign in.")
