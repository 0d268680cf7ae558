"""Accounts through the SDK: forgotten and changed passwords, and addresses."""

from typing import Any

import pyotp
import pytest
from hub_client import (
    accept_invitation,
    connect,
    recover,
    register,
    resend,
    reset_factor,
    reset_password,
    verify_email,
)
from hub_client.faults import (
    InvalidParams,
    PermissionDenied,
    SecondFactorRequired,
    Unauthenticated,
)

from hub.identity.keys.api_keys import Wanted
from tests.parts.hub import ServeHub
from tests.parts.mail import MailServer

EMAIL, PASSWORD, NEW = "you@example.org", "correct horse battery", "a better horse and battery"


async def test_an_account_is_verified_and_recovered_by_letters(
    serve_hub: ServeHub, mail: MailServer
) -> None:
    async with serve_hub(HUB_SMTP_URL=mail.url, HUB_REQUIRE_VERIFIED="true") as served:
        url = served.url
        await register(url, email=EMAIL, password=PASSWORD)
        with pytest.raises(Unauthenticated):
            await connect(url, email=EMAIL, password=PASSWORD)
        first = await mail.token_to(EMAIL, "verify")
        await resend(url, email=EMAIL)
        await verify_email(url, token=await mail.token_to(EMAIL, "verify"))
        await verify_email(url, token=first)
        await recover(url, email=EMAIL)
        token = await mail.token_to(EMAIL, "reset")
        with pytest.raises(InvalidParams):
            await reset_password(url, token=token, password="too short")
        await reset_password(url, token=token, password=NEW, keys=False)
        with pytest.raises(Unauthenticated):
            await reset_password(url, token=token, password=NEW)
        async with connect(url, email=EMAIL, password=NEW) as hub:
            await hub.ping()


async def test_an_invitation_is_accepted_with_the_account_that_one_has(serve_hub: ServeHub) -> None:
    async with serve_hub() as served:
        accounts = served.hub.services.accounts
        await register(served.url, email=EMAIL, password=PASSWORD)
        _, house = await accounts.create_user("boss@example.org", PASSWORD, "house", "owner")
        account: Any = {"email": EMAIL, "password": PASSWORD}
        with pytest.raises(PermissionDenied):
            await accept_invitation(served.url, **account, invitation="made up")
        code = await accounts.invite(house.id, "member")
        await accept_invitation(served.url, **account, invitation=code)
        async with connect(served.url, **account, tenant="house") as hub:
            assert hub.session["tenant"] == house.id


async def test_a_password_is_changed_and_the_client_goes_on_with_it(serve_hub: ServeHub) -> None:
    async with serve_hub() as served:
        await register(served.url, email=EMAIL, password=PASSWORD)
        async with connect(served.url, email=EMAIL, password=PASSWORD) as hub:
            with pytest.raises(PermissionDenied):
                await hub.change_password(NEW, NEW)
            await hub.change_password(PASSWORD, NEW, keys=True)
            await hub.ping()
            session = served.hub.services.tokens.read(await hub._auth.access()).session_id
            await served.hub.services.accounts.logout(session)
            assert await hub._auth.access(renew=True), "it signs in again, with the new password"


async def test_who_has_lost_the_second_factor_comes_in_without_it_by_a_letter(
    serve_hub: ServeHub, mail: MailServer
) -> None:
    async with serve_hub(HUB_SMTP_URL=mail.url) as served:
        services = served.hub.services
        await register(served.url, email=EMAIL, password=PASSWORD)
        boss: Any = {"email": "boss@example.org", "password": PASSWORD}
        _, house = await services.accounts.create_user(**boss, tenant="house", role="owner")
        async with connect(served.url, email=EMAIL, password=PASSWORD) as hub:
            me = (await hub.call("session.info"))["user_id"]
            secret = (await hub.call("factor.enrol"))["secret"]
            await hub.call("factor.confirm", code=pyotp.TOTP(secret).now())
        with pytest.raises(SecondFactorRequired):
            await connect(served.url, email=EMAIL, password=PASSWORD)
        await services.members.join(me, await services.accounts.invite(house.id, "member"))
        async with connect(served.url, **boss) as hub:
            await hub.call("factor.reset", user_id=me)
        token = await mail.token_to(EMAIL, "factor")
        await reset_factor(served.url, token=token)
        with pytest.raises(Unauthenticated):
            await reset_factor(served.url, token=token)
        async with connect(served.url, email=EMAIL, password=PASSWORD) as hub:
            await hub.ping()


async def test_an_account_gets_another_name_and_another_address(
    serve_hub: ServeHub, mail: MailServer
) -> None:
    async with serve_hub(HUB_SMTP_URL=mail.url) as served:
        await register(served.url, email=EMAIL, password=PASSWORD)
        async with connect(served.url, email=EMAIL, password=PASSWORD) as hub:
            await hub.rename("You")
            with pytest.raises(InvalidParams):
                await hub.rename("")
            with pytest.raises(PermissionDenied):
                await hub.change_email("new@example.org", NEW)
            await hub.change_email("new@example.org", PASSWORD)
            await verify_email(served.url, token=await mail.token_to("new@example.org", "verify"))
            await hub.ping()
        async with connect(served.url, email="new@example.org", password=PASSWORD) as hub:
            await hub.ping()


async def test_logging_out_everywhere_ends_the_other_sessions(serve_hub: ServeHub) -> None:
    async with serve_hub() as served:
        await register(served.url, email=EMAIL, password=PASSWORD)
        other = await connect(served.url, email=EMAIL, password=PASSWORD)
        hub = await connect(served.url, email=EMAIL, password=PASSWORD)
        who = served.hub.services.tokens.read(await hub._auth.access())
        keys = served.hub.services.api_keys
        key, _ = await keys.create(None, who.user_id, who.tenant_id, Wanted("a bot"))
        await hub.logout(everywhere=True, keys=True)
        assert (await keys.get(who.tenant_id, key.id)).revoked_at is not None
        await other.wait_closed()
        await other.close()
