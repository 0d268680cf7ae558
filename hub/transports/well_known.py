"""``/.well-known/jwks.json``: the public keys by which others can verify access tokens."""

from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.identity.tokens.keyring import KeyRing

CACHED_S: Final = 60
"""How long a cache may keep the keys: much less than a key is there before it signs."""


def well_known_routes(keys: KeyRing) -> list[Route]:
    """The keys that verify now, as a JWK set (RFC 7517); a shared secret is in no such set."""

    async def jwks(request: Request) -> Response:
        return Response(
            orjson.dumps({"keys": keys.public()}),
            headers={"cache-control": f"public, max-age={CACHED_S}"},
            media_type="application/jwk-set+json",
        )

    return [Route("/.well-known/jwks.json", jwks)]
