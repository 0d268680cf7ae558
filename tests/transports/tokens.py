"""Access tokens whose life is as long as a test wants."""

import time
from typing import Any

import jwt

from hub.identity.tokens.access_tokens import AUDIENCE
from tests.parts.hub import ServedHub


def lasting(hub: ServedHub, token: str, seconds: int, **changes: Any) -> str:
    """The same token with another end: this many seconds from now. ``changes`` are claims."""
    key = hub.hub.services.tokens.keys.signing
    claims = jwt.decode(token, key.verifies_with, algorithms=[key.algorithm], audience=AUDIENCE)
    changed = {**claims, "exp": int(time.time()) + seconds, **changes}
    return jwt.encode(changed, key.signs_with, key.algorithm, headers={"kid": key.kid})
