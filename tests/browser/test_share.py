"""Sharing a conversation, as the two who share it see it in real browsers."""

from playwright.async_api import Page, expect

from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServedHub

ADA, BOB = "ada@hub.example", "bob@hub.example"


async def _sign_in(page: Page, url: str, email: str) -> None:
    await page.goto(url)
    form = page.locator("#sign-in")
    await form.get_by_label("E-mail").fill(email)
    await form.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="New conversation")).to_be_visible()


async def test_a_colleague_reads_what_is_shared_with_them_until_it_is_not(
    served_hub: ServedHub, browser_page: Page
) -> None:
    ada = browser_page
    session = await served_hub.sign_up(ADA)
    services = served_hub.hub.services
    tenant_id = services.tokens.read(session["access_token"]).tenant_id
    await services.accounts.create_user(BOB, PASSWORD, tenant_id, "member", "Bob")
    async with open_socket(served_hub.ws_url, session["access_token"]) as socket:
        await socket.ask("group.create", {"name": "readers"})
    await _sign_in(ada, served_hub.url, ADA)
    await expect(ada.get_by_role("button", name="Share…")).to_be_hidden()
    await ada.fill("#text", "one two three")
    await ada.keyboard.press("Enter")
    await expect(ada.locator("#messages li.assistant")).to_contain_text("three")

    await ada.get_by_role("button", name="Share…").click()
    dialog = ada.get_by_role("dialog", name="Share this conversation")
    await expect(dialog.get_by_text("It is shared with nobody.")).to_be_visible()
    await dialog.get_by_label("E-mail of a colleague").fill("nobody@hub.example")
    await ada.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("no such colleague")
    await dialog.get_by_label("E-mail of a colleague").fill(BOB)
    await ada.keyboard.press("Enter")
    await expect(dialog.get_by_role("listitem")).to_contain_text("Bob may read")

    await dialog.get_by_label("Or a group").select_option("readers")
    await dialog.get_by_label("Access").select_option("writer")
    await dialog.get_by_role("button", name="Share", exact=True).click()
    await expect(dialog.get_by_role("listitem")).to_contain_text(
        ["Bob may read", "readers may read and write"]
    )
    await dialog.get_by_role("button", name="Stop sharing with readers").click()
    await expect(dialog.get_by_role("listitem")).to_have_count(1)

    assert ada.context.browser is not None
    bob = await ada.context.browser.new_page()
    await _sign_in(bob, served_hub.url, BOB)
    await expect(bob.get_by_role("heading", name="Shared with you")).to_be_visible()
    await bob.locator("#shared").get_by_role("button", name="one two three").click()
    await expect(bob.locator("#messages li.assistant")).to_contain_text("three")
    await expect(bob.locator("#text")).to_be_disabled()
    await expect(bob.get_by_role("button", name="Share…")).to_be_hidden()

    await dialog.get_by_role("button", name="Stop sharing with Bob").click()
    await expect(bob.locator("#notice")).to_contain_text("not there for you any more")
    await expect(bob.locator("#messages li")).to_have_count(0)
    await expect(bob.get_by_role("heading", name="Shared with you")).to_be_hidden()
    await expect(bob.locator("#text")).to_be_enabled()
