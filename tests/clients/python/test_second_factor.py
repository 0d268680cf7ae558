"""The SDK signs in with a second factor, at a real hub."""

import time

import pyotp
import pytest
from hub_client import connect
from hub_client.faults import SecondFactorRequired, Unauthenticated

from tests.parts.hub import PASSWORD, ServedHub

EMAIL = "ada@hub.example"


async def test_whoever_has_a_second_factor_is_asked_for_its_code(served_hub: ServedHub) -> None:
    session = await served_hub.sign_up(EMAIL)
    services = served_hub.hub.services
    claims = services.tokens.read(session["access_token"])
    secret = (await services.factors.enrol(claims.user_id, claims.tenant_id)).secret
    await services.factors.confirm(claims.user_id, claims.tenant_id, pyotp.TOTP(secret).now())

    with pytest.raises(SecondFactorRequired):
        await connect(served_hub.url, email=EMAIL, password=PASSWORD).open()

    async def wrong() -> str:
        return "no code"

    with pytest.raises(Unauthenticated):
        await connect(served_hub.url, email=EMAIL, password=PASSWORD, second_factor=wrong).open()

    async def code() -> str:
        return pyotp.TOTP(secret).at(int(time.time()) + 30)

    async with connect(served_hub.url, email=EMAIL, password=PASSWORD, second_factor=code) as hub:
        assert hub.session["user"] == claims.user_id
