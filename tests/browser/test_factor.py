"""The second factor and the identity provider, as somebody sees them in a real browser."""

import time

import pyotp
from playwright.async_api import Page, expect

from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.mail import MailServer
from tests.parts.provider import IdentityProvider

EMAIL = "ada@hub.example"


async def _sign_in(page: Page, url: str) -> None:
    await page.goto(url)
    form = page.locator("#sign-in")
    await form.get_by_label("E-mail").fill(EMAIL)
    await form.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")


async def _sign_out(page: Page) -> None:
    await page.get_by_role("button", name="Sign out").click()
    # The page loads itself again then: what is opened before that would be interrupted.
    await expect(page.locator("#sign-in")).to_be_visible()


async def test_who_must_have_a_second_factor_sets_one_up_and_signs_in_with_it(
    served_hub: ServedHub,
    browser_page: Page,
) -> None:
    page = browser_page
    session = await served_hub.sign_up(EMAIL)
    claims = served_hub.hub.services.tokens.read(session["access_token"])
    await served_hub.hub.services.factor_rules.demand(claims.tenant_id, None, "owner")

    await _sign_in(page, served_hub.url)
    await expect(page.get_by_role("heading", name="Set up a second factor")).to_be_visible()
    secret = (await page.locator("#enrolment-secret").inner_text()).replace(" ", "")
    moment = time.time()
    await page.locator("#enrolment").get_by_label("Code").fill(pyotp.TOTP(secret).at(int(moment)))
    await page.keyboard.press("Enter")
    await expect(page.locator("#recovery-codes li")).to_have_count(10)
    await page.get_by_role("button", name="I have kept them").click()
    await _sign_out(page)

    await _sign_in(page, served_hub.url)
    await expect(page.get_by_role("heading", name="Second factor", exact=True)).to_be_visible()
    code = page.locator("#second-factor").get_by_label("Code")
    await expect(code).to_be_focused()
    await code.fill("000000")
    await page.keyboard.press("Enter")
    await expect(page.locator("#second-factor-problem")).not_to_be_empty()
    await code.fill(pyotp.TOTP(secret).at(int(moment) + 30))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="New conversation")).to_be_visible()


async def test_who_has_a_factor_shows_it_in_a_session_that_began_without(
    served_hub: ServedHub,
    browser_page: Page,
) -> None:
    page, services = browser_page, served_hub.hub.services
    claims = services.tokens.read((await served_hub.sign_up(EMAIL))["access_token"])
    await _sign_in(page, served_hub.url)
    await expect(page.get_by_role("button", name="New conversation")).to_be_visible()
    secret = (await services.factors.enrol(claims.user_id, claims.tenant_id)).secret
    moment = int(time.time())
    await services.factors.confirm(
        claims.user_id, claims.tenant_id, pyotp.TOTP(secret).at(moment), claims.session_id
    )
    await services.factor_rules.demand(claims.tenant_id, None, "owner")

    await page.reload()
    await expect(page.get_by_role("heading", name="Second factor", exact=True)).to_be_visible()
    code = page.locator("#second-factor").get_by_label("Code")
    await code.fill(pyotp.TOTP(secret).at(moment + 30))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="New conversation")).to_be_visible()


async def test_a_lost_factor_is_taken_away_by_the_link_of_a_letter_and_a_click(
    serve_hub: ServeHub, browser_page: Page, mail: MailServer
) -> None:
    page = browser_page
    async with serve_hub(HUB_SMTP_URL=mail.url) as hub:
        services = hub.hub.services
        claims = services.tokens.read((await hub.sign_up(EMAIL))["access_token"])
        secret = (await services.factors.enrol(claims.user_id, claims.tenant_id)).secret
        code = pyotp.TOTP(secret).now()
        await services.factors.confirm(claims.user_id, claims.tenant_id, code)
        services.recovery._mailing.want("factor", EMAIL)
        token = await mail.token_to(EMAIL, "factor")

        await page.goto(f"{hub.url}/#factor={token}")
        button = page.get_by_role("button", name="Take it away")
        await expect(button).to_be_focused()
        assert token not in page.url
        assert (await services.factors.state(claims.user_id)).confirmed_at is not None
        await button.click()
        await expect(page.locator("#sign-in-notice")).to_contain_text("password alone")
        assert (await services.factors.state(claims.user_id)).confirmed_at is None
        await page.goto("about:blank")
        await page.goto(f"{hub.url}/#factor={token}")
        await button.click()
        await expect(page.locator("#lost-factor-problem")).to_contain_text("Ask for another")
        await page.goto("about:blank")
        await _sign_in(page, hub.url)
        await expect(page.get_by_role("button", name="New conversation")).to_be_visible()


async def test_a_button_leads_through_the_provider_and_back(
    serve_hub: ServeHub,
    identity_provider: IdentityProvider,
    browser_page: Page,
) -> None:
    page, provider = browser_page, identity_provider
    async with serve_hub(HUB_OIDC_PROVIDERS=provider.settings()) as hub:
        await hub.hub.services.accounts.ensure_administrator()
        provider.account("grace")
        provider.start(hub.url)
        await page.goto(hub.url)
        await page.get_by_role("link", name="Sign in with Main Street").click()
        await page.locator("input[name=login]").fill("grace")
        await page.locator("input[name=password]").fill("anything")
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("button", name="New conversation")).to_be_visible()
        assert page.url == f"{hub.url}/"

        await _sign_out(page)
        await page.goto(f"{hub.url}/?again#problem=permission_denied")
        await expect(page.get_by_role("alert")).to_contain_text("did not sign you in")
        assert "problem" not in page.url
