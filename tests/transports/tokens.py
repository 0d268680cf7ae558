"""Access tokens whose life is as long as a test wants."""

import time
from typing import Any

import jwt

from hub.identity.signing import signing_key
from hub.identity.tokens import AUDIENCE
from tests.parts.hub import ServedHub


def lasting(hub: ServedHub, token: str, seconds: int, **changes: Any) -> str:
    """The same token with another end: this many seconds from now. ``changes`` are claims."""
    settings = hub.hub.services.settings
    key, algorithm = signing_key(settings), settings.jwt_algorithm
    claims = jwt.decode(token, key, algorithms=[algorithm], audience=AUDIENCE)
    return jwt.encode(
        {**claims, "exp": int(time.time()) + seconds, **changes}, key, algorithm=algorithm
    )
