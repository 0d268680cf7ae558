"""Conversations, asked for through every transport."""

import pytest

from tests.interaction.conftest import World
from tests.interaction.drivers import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_new_conversation_is_ones_own_and_can_be_read(world: World) -> None:
    ada = await world.owner()
    made = await ada.ask("conversation.create", {"title": "Sky", "instructions": "Be brief."})
    assert made["title"] == "Sky"
    assert "model" not in made, "what there is not is left out, never null"
    who = await ada.ask("session.info")
    assert made["owner_id"] == who["user_id"]
    assert await ada.ask("conversation.get", {"conversation_id": made["id"]}) == made


async def test_an_update_changes_what_it_names_and_null_takes_away(world: World) -> None:
    ada = await world.owner()
    made = await ada.ask("conversation.create", {"title": "Sky", "model": "echo"})
    named = {"conversation_id": made["id"]}
    changed = await ada.ask("conversation.update", {**named, "title": "Sea"})
    assert (changed["title"], changed["model"]) == ("Sea", "echo")
    assert changed["updated_at"] > made["updated_at"]
    assert changed["created_at"] == made["created_at"]
    cleared = await ada.ask("conversation.update", {**named, "model": None})
    assert "model" not in cleared
    assert await ada.ask("conversation.get", named) == cleared


async def test_a_deleted_conversation_is_gone_with_all_that_was_in_it(world: World) -> None:
    ada = await world.owner()
    conversation = await ada.conversation()
    named = {"conversation_id": conversation}
    channel = {"channel": f"conversation:{conversation}"}
    await ada.ask("channel.history", channel)
    assert await ada.ask("conversation.delete", named) == {}
    assert (await ada.ask("conversation.list"))["items"] == []
    for method, params in (
        ("conversation.get", named),
        ("conversation.update", {**named, "title": "again"}),
        ("conversation.delete", named),
        ("message.list", named),
        ("run.list", named),
        ("message.send", {**named, "client_message_id": "1", "content": "Are you there?"}),
        ("channel.history", channel),
    ):
        with pytest.raises(Refused) as refusal:
            await ada.ask(method, params)
        assert refusal.value.reason == "not_found", method


async def test_a_list_is_paged_by_cursor_the_newest_first(world: World) -> None:
    ada = await world.owner()
    made = [await ada.conversation(title=f"number {n}") for n in range(7)]
    pages, cursor = [], None
    while True:
        page = await ada.ask(
            "conversation.list", {"limit": 3, **({"cursor": cursor} if cursor else {})}
        )
        pages.append([item["id"] for item in page["items"]])
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [item for page in pages for item in page] == sorted(made, reverse=True)


async def test_a_full_last_page_has_no_next_cursor(world: World) -> None:
    ada = await world.owner()
    for _ in range(2):
        await ada.conversation()
    assert "next_cursor" not in await ada.ask("conversation.list", {"limit": 2})


async def test_a_list_holds_ones_own_conversations_only(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    await ada.conversation()
    own = await bob.conversation()
    assert [item["id"] for item in (await bob.ask("conversation.list"))["items"]] == [own]


async def test_a_cursor_that_no_list_gave_is_refused(world: World) -> None:
    ada = await world.owner()
    conversation = {"conversation_id": await ada.conversation()}
    for method, params in (
        ("conversation.list", {}),
        ("message.list", conversation),
        ("run.list", conversation),
    ):
        for cursor in ("yesterday", "1-", "-", "1-2-3", "\u0000", "9999999999-1"):
            with pytest.raises(Refused) as refusal:
                await ada.ask(method, {**params, "cursor": cursor})
            assert refusal.value.reason == "invalid_params", (method, cursor)
            assert "cursor" in refusal.value.message


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("conversation.create", {"color": "blue"}, "color"),
        ("conversation.create", {"title": 7}, "title"),
        ("conversation.create", {"title": ""}, "title"),
        ("conversation.create", {"title": "a\u0000b"}, "title"),
        ("conversation.create", {"title": "x" * 201}, "title"),
        ("conversation.list", {"limit": "many"}, "limit"),
        ("conversation.list", {"limit": 0}, "limit"),
        ("conversation.list", {"limit": 201}, "limit"),
        ("conversation.list", {"page": 1}, "page"),
        ("message.send", {"client_message_id": "1"}, "content"),
        ("message.send", {"content": "Hello"}, "client_message_id"),
        (
            "message.send",
            {"client_message_id": "1", "content": "Hello", "on_busy": "shout"},
            "on_busy",
        ),
    ],
)
async def test_a_wrong_parameter_is_refused_by_its_name(
    world: World, method: str, params: dict[str, object], field: str
) -> None:
    ada = await world.owner()
    if method == "message.send":
        params = {**params, "conversation_id": await ada.conversation()}
    with pytest.raises(Refused) as refusal:
        await ada.ask(method, params)
    assert refusal.value.reason == "invalid_params"
    assert refusal.value.message.startswith(f"{field}: ")
    assert refusal.value.details["problems"][0]["field"] == field


async def test_a_refusal_does_not_repeat_the_value(world: World) -> None:
    ada = await world.owner()
    with pytest.raises(Refused) as refusal:
        await ada.ask("conversation.create", {"title": {"pin": "hunter-4711"}})
    assert b"hunter-4711" not in refusal.value.bytes
