"""Messages and runs, asked for through every transport."""

import asyncio
from typing import Any

import pytest

from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, eventually
from tests.parts.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _send(person: Person, conversation: str, content: str, **more: Any) -> dict[str, Any]:
    params = {"conversation_id": conversation, "client_message_id": "1", "content": content}
    return await person.ask("message.send", {**params, **more})


async def _status(person: Person, run_id: str) -> str:
    return str((await person.ask("run.get", {"run_id": run_id}))["status"])


async def _ended(person: Person, run_id: str) -> dict[str, Any]:
    async def over() -> bool:
        return await _status(person, run_id) not in ("queued", "running")

    await eventually(over)
    return await person.ask("run.get", {"run_id": run_id})


async def test_a_message_is_answered_by_a_run(world: World) -> None:
    ada = await world.owner()
    conversation = await ada.conversation()
    sent = await _send(ada, conversation, "Why is the sky blue?")
    run = await _ended(ada, sent["run_id"])
    assert run["status"] == "succeeded"
    assert run["message_id"] == sent["message_id"]
    assert run["usage"][0]["model"] == "echo"
    page = await ada.ask("message.list", {"conversation_id": conversation})
    assert [(m["role"], m["content"]) for m in page["items"]] == [
        ("user", "Why is the sky blue?"),
        ("assistant", "Why is the sky blue?"),
    ]
    assert all(m["run_id"] == run["id"] for m in page["items"])


async def test_the_same_client_message_id_gives_the_same_answer_and_no_second_run(
    world: World,
) -> None:
    ada = await world.owner()
    conversation = await ada.conversation()
    answers = await asyncio.gather(*(_send(ada, conversation, "Once.") for _ in range(5)))
    answers.append(await _send(ada, conversation, "Once."))
    assert all(answer == answers[0] for answer in answers)
    runs = await ada.ask("run.list", {"conversation_id": conversation})
    assert [run["id"] for run in runs["items"]] == [answers[0]["run_id"]]


async def test_the_same_client_message_id_with_other_words_is_a_conflict(world: World) -> None:
    ada = await world.owner()
    conversation = await ada.conversation()
    await _send(ada, conversation, "These words.")
    with pytest.raises(Refused) as refusal:
        await _send(ada, conversation, "Other words.")
    assert refusal.value.reason == "conflict"


async def test_a_client_message_id_is_of_its_conversation(world: World) -> None:
    ada = await world.owner()
    first = await _send(ada, await ada.conversation(), "Hello.")
    second = await _send(ada, await ada.conversation(), "Hello.")
    assert first["run_id"] != second["run_id"]


async def test_a_cancelled_run_stops_the_model_within_a_second_and_stays_cancelled(
    world: World, scripted_model: ScriptedModel
) -> None:
    ada = await world.owner()
    conversation = await ada.conversation(model="slow")
    asked = f"Count, {ada.email}."
    sent = await _send(ada, conversation, asked)
    generation = await scripted_model.asked(asked)
    await ada.ask("run.cancel", {"run_id": sent["run_id"]})
    assert (await generation.end(within=1.0)).disconnected
    assert (await _ended(ada, sent["run_id"]))["status"] == "cancelled"
    again = await ada.ask("run.cancel", {"run_id": sent["run_id"]})
    assert again["status"] == "cancelled"


async def test_a_run_that_has_ended_is_left_as_it_is_by_cancel(world: World) -> None:
    ada = await world.owner()
    sent = await _send(ada, await ada.conversation(), "Quick.")
    ended = await _ended(ada, sent["run_id"])
    assert await ada.ask("run.cancel", {"run_id": sent["run_id"]}) == ended


async def test_a_conversation_with_an_active_run_is_not_deleted(
    world: World, scripted_model: ScriptedModel
) -> None:
    ada = await world.owner()
    conversation = await ada.conversation(model="slow")
    sent = await _send(ada, conversation, f"Busy, {ada.email}.")
    await scripted_model.asked(f"Busy, {ada.email}.")
    with pytest.raises(Refused) as refusal:
        await ada.ask("conversation.delete", {"conversation_id": conversation})
    assert refusal.value.reason == "conversation_busy"
    with pytest.raises(Refused) as refusal:
        await _send(ada, conversation, "More.", client_message_id="2", on_busy="reject")
    assert refusal.value.reason == "conversation_busy"
    await ada.ask("run.cancel", {"run_id": sent["run_id"]})
    await _ended(ada, sent["run_id"])
    assert await ada.ask("conversation.delete", {"conversation_id": conversation}) == {}


async def test_a_page_of_long_messages_fits_into_a_frame_of_the_hub(world: World) -> None:
    """However many items are asked for, a page stays below what one outbox holds."""
    ada = await world.owner()
    conversation = await ada.conversation()
    words = "\u65e5" * 20_000
    for number in range(12):
        sent = await _send(ada, conversation, words, client_message_id=str(number))
    await _ended(ada, sent["run_id"])
    seen, cursor = 0, None
    while True:
        params = {"conversation_id": conversation, "limit": 200}
        page = await ada.ask("message.list", {**params, **({"cursor": cursor} if cursor else {})})
        assert page["items"]
        assert sum(len(item["content"].encode()) for item in page["items"]) <= 1_048_576
        seen += len(page["items"])
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert seen == 24


async def test_the_log_of_a_conversation_can_be_read_back(world: World) -> None:
    ada = await world.owner()
    conversation = await ada.conversation()
    sent = await _send(ada, conversation, "one two three")
    await _ended(ada, sent["run_id"])
    channel = {"channel": f"conversation:{conversation}"}

    async def finished() -> bool:
        items = (await ada.ask("channel.history", channel))["items"]
        return bool(items) and items[-1]["event"]["type"] == "RUN_FINISHED"

    await eventually(finished)
    whole = await ada.ask("channel.history", channel)
    seqs: list[int] = []
    for item in whole["items"]:
        seqs += range(item["seq"] - item.get("span", 1) + 1, item["seq"] + 1)
    assert seqs == list(range(1, whole["last"] + 1))
    rest = await ada.ask("channel.history", {**channel, "after": 2, "limit": 1})
    assert [(item["seq"], item.get("span", 1)) for item in rest["items"]] == [(3, 1)]
    with pytest.raises(Refused) as refusal:
        await ada.ask("channel.history", {**channel, "after": whole["last"] + 1})
    assert refusal.value.reason == "resume_gap"
