"""What members are called in a tenant, through every transport."""

from typing import Any

import pytest

from hub.events import roster
from tests.interaction.conftest import World
from tests.interaction.drivers import open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_name_that_a_tenant_gives_is_shown_wherever_it_shows_names_and_nowhere_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "LINGER_S", 0.0)  # who comes again is told of anew
    services = world.hub.hub.services
    ada, eve = await world.owner(), await world.owner()
    bob = await world.colleague(ada, "member")
    about = {"user_id": (await bob.ask("session.info"))["user_id"]}
    await bob.ask("account.update", {"name": "Bob"})
    eves = services.tokens.read(eve.token).tenant_id
    await services.members.join(about["user_id"], await services.accounts.invite(eves, "member"))
    abroad = await world.login(bob.email, eves)
    conversation = {"conversation_id": await ada.conversation()}
    channel = f"conversation:{conversation['conversation_id']}"
    group = {"group_id": (await ada.ask("group.create", {"name": "night shift"}))["id"]}
    await ada.ask("group.add", {**group, **about})

    async def present() -> Any:
        async with open_socket(world.hub.ws_url, bob.token) as socket:
            there = await socket.ask("channel.subscribe", {"channel": channel, "presence": True})
            (himself,) = there["presence"]
            return himself["name"]

    async def shown() -> set[str]:
        """Every name of Bob in the tenant of Ada."""
        shared = await ada.ask(
            "conversation.share", {**conversation, "email": bob.email, "access": "reader"}
        )
        lists = [
            await ada.ask("user.list", {"email": bob.email}),
            await ada.ask("member.list"),
            await ada.ask("group.members", group),
            await ada.ask("conversation.shares", conversation),
        ]
        names = [
            each["name"]
            for page in lists
            for each in page["items"]
            if about["user_id"] in (each.get("id"), each.get("user_id"))
        ]
        assert len(names) == len(lists)
        return {
            *names,
            shared["name"],
            (await ada.ask("user.get", about))["name"],
            await present(),
        }

    assert await shown() == {"Bob"}
    await ada.ask("user.update", {**about, "name": "Bobby"})
    assert await shown() == {"Bobby"}
    assert (await eve.ask("user.get", about))["name"] == "Bob"
    for session in (bob, abroad):
        assert (await session.ask("account.get"))["name"] == "Bob"
    await ada.ask("user.update", {**about, "name": None})
    assert await shown() == {"Bob"}
