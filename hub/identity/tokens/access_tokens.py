"""Access tokens: JWTs (RFC 7519) that say who signed in where, and nothing of what they may do."""

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import jwt
import orjson

from hub.faults import Fault
from hub.identity.tokens.api_key_text import KeyHolder
from hub.identity.tokens.keyring import LEEWAY_S, KeyRing
from hub.identity.tokens.signing import SigningKey

ISSUER: Final = "realtime-agent-hub"
AUDIENCE: Final = "realtime-agent-hub"
TYPE: Final = "access"
MAX_CHARACTERS: Final = 4096

REFUSED: Final = "The credentials are not valid, or not any more. Sign in."
"""What is said of any credentials that open nothing, and nothing of why."""

_INSTANTS: Final = ("exp", "iat", "nbf")
_NAMES: Final = ("iss", "aud", "sub", "jti", "sid", "tid", "typ")


@dataclass(frozen=True, slots=True)
class Claims:
    """What valid credentials say. Instants are seconds since the epoch.

    Of an API key: ``session_id`` is the key's id, ``expires_at`` is None unless the key expires,
    and ``holder`` is what was shown.
    """

    user_id: str
    tenant_id: str
    session_id: str
    token_id: str
    issued_at: int
    expires_at: int | None
    holder: KeyHolder | None = None

    @property
    def key(self) -> str | KeyHolder:
        """By what the authority knows whoever shows them."""
        return self.session_id if self.holder is None else self.holder

    @property
    def end(self) -> datetime | None:
        """When they run out, if ever."""
        return None if self.expires_at is None else datetime.fromtimestamp(self.expires_at, UTC)

    def is_over(self, moment: float) -> bool:
        """Whether they have run out at ``moment``, the leeway included."""
        return self.expires_at is not None and self.expires_at + LEEWAY_S <= moment


class Tokens:
    """Issues access tokens by the key that signs, and reads them by the key that they name, with
    the one algorithm of that key.
    """

    def __init__(self, keys: KeyRing, minutes: int) -> None:
        """``minutes``: how long a token lives."""
        self.keys: Final = keys
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
        key = self.keys.signing
        return jwt.encode(claims, key.signs_with, key.algorithm, headers={"kid": key.kid})

    def read(self, token: str) -> Claims:
        """The claims of a valid token.

        Raises Fault("token_expired") for one that was valid, Fault("unauthenticated") for any
        other. Clocks may differ by 30 s. Of the header only ``kid`` and ``alg`` count: no key is
        taken from a token, nor from where it points to.
        """
        if len(token) > MAX_CHARACTERS:
            raise refused()
        try:
            key = self.keys.find(_kid(token.partition(".")[0]))
            if key is None:
                raise refused()
            claims = jwt.decode(
                token,
                key.verifies_with,
                algorithms=[key.algorithm],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_S,
                options={"require": [*_INSTANTS, *_NAMES], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise refused() from None
        # PyJWT takes "123" for an instant, and a list for the audience.
        if not all(_is_instant(claims[name]) for name in _INSTANTS):
            raise refused()
        if not all(isinstance(claims[name], str) and claims[name] for name in _NAMES):
            raise refused()
        if claims["typ"] != TYPE:
            raise refused()
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
        """32 bytes that only a holder of the key that signs can make of ``material``, for one
        purpose.
        """
        return _derive(self.keys.signing, purpose, material)

    def derived(self, purpose: str, material: str) -> list[bytes]:
        """What ``derive`` answers, and answered while a key that still verifies was the one that
        signs; the newest first.
        """
        keys = [key for key in self.keys.verifying() if key.secret]
        return [_derive(key, purpose, material) for key in keys]


def refused() -> Fault:
    """The fault of credentials that open nothing."""
    return Fault("unauthenticated", REFUSED)


@lru_cache(maxsize=256)  # all tokens of a key begin alike
def _kid(header: str) -> str:
    """The key that a token says it was signed by, in the first of its parts. It is to be found by
    it, and nothing else: the signature is over that part, too. Raises ValueError.
    """
    said = orjson.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    return str(said.get("kid")) if isinstance(said, dict) else ""


def _derive(key: SigningKey, purpose: str, material: str) -> bytes:
    return hmac.digest(key.secret, f"{purpose}\0{material}".encode(), hashlib.sha256)


def _is_instant(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 53
