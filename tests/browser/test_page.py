"""The web client in a real browser, on a real hub."""

from typing import Any

import pytest
from playwright.async_api import Page, expect

from hub.faults import Fault
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.mail import MailServer


async def test_a_login_link_signs_in_and_an_answer_streams(
    served_hub: ServedHub, browser_page: Page
) -> None:
    accounts = served_hub.hub.services.accounts
    await accounts.ensure_administrator()
    code = await accounts.login_code_for()
    await browser_page.goto(f"{served_hub.url}/#code={code}")
    await browser_page.fill("#text", "one two three")
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.locator("#messages li.user")).to_have_text("one two three")
    await expect(browser_page.locator("#messages li.assistant")).to_contain_text("three")
    assert "code=" not in browser_page.url

    await browser_page.reload()  # the session outlives a reload, and the conversation is there
    await expect(browser_page.locator("#messages li.assistant")).to_contain_text("three")


async def test_a_wrong_password_is_told_and_the_right_one_signs_in(
    served_hub: ServedHub, browser_page: Page
) -> None:
    await served_hub.sign_up("ada@hub.example")
    await browser_page.goto(served_hub.url)
    await browser_page.fill("input[name=email]", "ada@hub.example")
    await browser_page.fill("#sign-in input[name=password]", "a wrong password")
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.get_by_role("alert")).not_to_be_empty()
    await browser_page.fill("#sign-in input[name=password]", PASSWORD)
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.get_by_role("button", name="New conversation")).to_be_visible()


async def test_a_forgotten_password_is_chosen_anew_by_the_link_of_a_letter(
    serve_hub: ServeHub, browser_page: Page, mail: MailServer
) -> None:
    async with serve_hub(HUB_SMTP_URL=mail.url) as hub:
        await hub.sign_up("ada@hub.example")
        await browser_page.goto(hub.url)
        await browser_page.fill("input[name=email]", "ada@hub.example")
        await browser_page.get_by_role("button", name="forgotten").click()
        await expect(browser_page.locator("#sign-in-notice")).to_contain_text("a letter is on")
        token = await mail.token_to("ada@hub.example", "reset")
        await browser_page.goto("about:blank")
        await browser_page.goto(f"{hub.url}/#reset={token}")
        field = browser_page.locator("#new-password input")
        await field.fill("passwordpassword")
        await browser_page.keyboard.press("Enter")
        problem = browser_page.locator("#new-password-problem")
        await expect(problem).to_contain_text("many people use")
        await field.fill("a better horse and battery")
        await browser_page.keyboard.press("Enter")
        await expect(browser_page.locator("#sign-in-notice")).to_contain_text("is set")
        assert token not in browser_page.url
        await browser_page.fill("input[name=email]", "ada@hub.example")
        await browser_page.fill("#sign-in input[name=password]", "a better horse and battery")
        await browser_page.keyboard.press("Enter")
        await expect(browser_page.get_by_role("button", name="New conversation")).to_be_visible()


async def test_stop_ends_the_answer_and_keeps_what_was_said(
    serve_hub: ServeHub, browser_page: Page
) -> None:
    async with serve_hub(HUB_DEFAULT_MODEL="slow") as hub:
        accounts = hub.hub.services.accounts
        await accounts.ensure_administrator()
        code = await accounts.login_code_for()
        await browser_page.goto(f"{hub.url}/#code={code}")
        await browser_page.fill("#text", "go on")
        await browser_page.keyboard.press("Enter")
        answer = browser_page.locator("#messages li.assistant")
        await expect(answer).not_to_be_empty()
        await browser_page.get_by_role("button", name="Stop").click()
        await expect(browser_page.get_by_role("button", name="Stop")).to_be_hidden()
        await expect(answer).not_to_be_empty()


async def test_the_page_shows_who_else_is_here_and_tells_others_of_typing(
    served_hub: ServedHub, browser_page: Page
) -> None:
    accounts = served_hub.hub.services.accounts
    session = await served_hub.sign_up("ada@hub.example")
    tenant_id = served_hub.hub.services.tokens.read(session["access_token"]).tenant_id
    await accounts.create_user("bob@hub.example", PASSWORD, tenant_id, "admin", "Bob")
    bob = await accounts.login("bob@hub.example", PASSWORD)
    await browser_page.goto(served_hub.url)
    await browser_page.fill("input[name=email]", "ada@hub.example")
    await browser_page.fill("#sign-in input[name=password]", PASSWORD)
    await browser_page.keyboard.press("Enter")
    await browser_page.fill("#text", "one two three")
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.locator("#messages li.assistant")).to_contain_text("three")
    conversation = await browser_page.locator("#conversations button").get_attribute("data-id")
    here = browser_page.get_by_role("status", name="Who is here")
    await expect(here).to_be_empty()
    channel = f"conversation:{conversation}"
    async with open_socket(served_hub.ws_url, bob.access_token) as socket:
        await socket.ask("channel.subscribe", {"channel": channel, "presence": True})
        await expect(here).to_have_text("Also here: Bob.")
        await socket.ask("channel.typing", {"channel": channel, "typing": True})
        await expect(here).to_have_text("Also here: Bob. Bob is typing…")
        await browser_page.locator("#text").press_sequentially("and")
        assert (await socket.event("CUSTOM"))["event"]["value"]["typing"] is True
        await browser_page.keyboard.press("Enter")
        assert (await socket.event("CUSTOM"))["event"]["value"]["typing"] is False
    await expect(here).to_be_empty()


async def test_the_page_follows_again_what_the_hub_could_not_carry_for_a_while(
    served_hub: ServedHub, browser_page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, services = served_hub.hub.services.accounts, served_hub.hub.services
    await accounts.ensure_administrator()
    code = await accounts.login_code_for()
    await browser_page.goto(f"{served_hub.url}/#code={code}")
    await browser_page.fill("#text", "one two three")
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.locator("#messages li.assistant")).to_contain_text("three")
    refused: list[str] = []
    join = services.fanout.join

    async def away_at_first(channel: str, reader: Any, since: Any) -> Any:
        if len(refused) < 2:
            refused.append(channel)
            raise Fault("backend_unavailable")
        return await join(channel, reader, since)

    monkeypatch.setattr(services.fanout, "join", away_at_first)
    (connection,) = served_hub.hub.socket.connections._all
    (channel,) = connection.subscriptions
    connection.login.end(channel, "backend_unavailable")
    await browser_page.fill("#text", "four five six")
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.locator("#messages li.assistant").last).to_contain_text("six")
    assert refused == [channel] * 2
