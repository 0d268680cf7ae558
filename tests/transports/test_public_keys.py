"""``/.well-known/jwks.json``, and tokens that others verify by it."""

import time
from datetime import UTC, datetime

import httpx
import jwt
import pytest

from hub.identity.tokens.access_tokens import AUDIENCE, ISSUER
from hub.identity.tokens.keyring import directory_of, make
from hub.transports.well_known import CACHED_S
from tests.interaction.drivers import open_socket
from tests.parts.hub import ServeHub

PATH = "/.well-known/jwks.json"


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
async def test_a_token_is_verified_by_others_with_the_public_keys_through_a_rotation(
    serve_hub: ServeHub, algorithm: str
) -> None:
    async with serve_hub(worker=False, JWT_ALGORITHM=algorithm) as hub:
        services = hub.hub.services
        session = await hub.sign_up("ada@hub.example")
        make(directory_of(services.settings), algorithm, datetime.now(UTC))
        services.tokens.keys._read_at = time.monotonic() - 61  # a minute has passed
        code = await services.accounts.login_code_for("ada@hub.example")
        after = (await services.accounts.redeem(code)).access_token
        async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
            response = await client.get(PATH)
        assert response.headers["cache-control"] == f"public, max-age={CACHED_S}"
        published = {key.key_id: key for key in jwt.PyJWKSet.from_dict(response.json()).keys}
        assert len(published) == 2
        kids = set()
        for token in (session["access_token"], after):
            kid = jwt.get_unverified_header(token)["kid"]
            kids.add(kid)
            claims = jwt.decode(
                token, published[kid], algorithms=[algorithm], audience=AUDIENCE, issuer=ISSUER
            )
            assert claims["typ"] == "access"
            async with open_socket(hub.ws_url, token) as socket:
                await socket.notice("session.ready")
        assert kids == set(published)
        private = {"d", "p", "q", "dp", "dq", "qi", "k"}
        assert not [key for key in response.json()["keys"] if private & set(key)]


async def test_a_shared_secret_is_published_to_nobody(serve_hub: ServeHub) -> None:
    async with serve_hub(worker=False) as hub, httpx.AsyncClient(base_url=hub.url) as client:
        response = await client.get(PATH)
        assert (response.status_code, response.json()) == (200, {"keys": []})


async def test_another_node_takes_a_token_of_a_key_that_it_has_not_read_yet(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub(worker=False) as one, serve_hub(worker=False) as two:
        session = await one.sign_up("ada@hub.example")
        make(directory_of(one.hub.services.settings), "HS256", datetime.now(UTC))
        one.hub.services.tokens.keys._read_at -= 61
        code = await one.hub.services.accounts.login_code_for("ada@hub.example")
        token = (await one.hub.services.accounts.redeem(code)).access_token
        old = session["access_token"]
        assert jwt.get_unverified_header(token)["kid"] != jwt.get_unverified_header(old)["kid"]
        two.hub.services.tokens.keys._read_at -= 1.1  # it has just read them, in this test
        for each in (token, old):
            async with open_socket(two.ws_url, each) as socket:
                await socket.notice("session.ready")
