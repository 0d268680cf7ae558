"""Runs as clients see them, through a hub that serves: what is asked, said, kept and stopped."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from tests.agents.agui import Reading, judge, told_alike
from tests.agents.client import Client, Refused, opened, run_of, said
from tests.agents.conftest import someone
from tests.parts.hub import ServedHub
from tests.parts.scripted import ScriptedModel


def script(**fields: Any) -> str:
    """A message that tells the scripted model what to answer."""
    return "#script " + json.dumps(fields)


def slowly(words: int, delay_ms: int = 20) -> str:
    return script(tokens=[f"w{number} " for number in range(words)], delay_ms=delay_ms)


async def status(client: Client, run_id: str) -> dict[str, Any]:
    return await client.call("run.get", run_id=run_id)


async def answer(client: Client, conversation: str) -> dict[str, Any]:
    """The last message that is kept."""
    return (await client.messages(conversation))[-1]


# --- whole streams, judged ---


async def test_a_plain_answer(any_client: Client) -> None:
    conversation = await any_client.conversation()
    sent = await any_client.send(conversation, "one two three")
    end = await any_client.ended(conversation)
    events = any_client.events(conversation)
    judge(events)
    assert [heard["seq"] for heard in any_client.heard] == list(range(1, len(events) + 1))
    assert (end["outcome"], end["runId"]) == ({"type": "success"}, sent["run_id"])
    assert events[0]["input"]["messages"] == [
        {"id": sent["message_id"], "role": "user", "content": "one two three"}
    ]
    kept = await answer(any_client, conversation)
    assert said(events) == kept["content"] == "one two three"
    assert kept["complete"]
    assert kept["run_id"] == sent["run_id"]


async def test_the_usage_is_durable_and_in_the_end(any_client: Client) -> None:
    conversation = await any_client.conversation()
    sent = await any_client.send(conversation, "four words are here")
    end = await any_client.ended(conversation)
    assert end["usage"] == [
        {
            "provider": "ollama",
            "model": "echo",
            "inputTokens": 4,
            "outputTokens": 4,
            "totalTokens": 8,
        }
    ]
    run = await status(any_client, sent["run_id"])
    assert run["status"] == "succeeded"
    assert run["usage"] == [
        {"provider": "ollama", "model": "echo", "input_tokens": 4, "output_tokens": 4}
    ]


async def test_a_run_that_names_no_model_has_its_tenants_own(any_client: Client) -> None:
    made = await any_client.call("conversation.create")
    await any_client.subscribe(made["id"])
    house = (await any_client.call("session.info"))["tenant_id"]
    settled = {"default_model": "thinking"}
    await any_client.call("tenant.update", tenant_id=house, settings=settled)
    await any_client.send(made["id"], "Hm?")
    end = await any_client.ended(made["id"])
    assert [used["model"] for used in end["usage"]] == ["thinking"]
    await any_client.send(made["id"], "Hm?", model="echo")
    end = await any_client.ended(made["id"], 2)
    assert [used["model"] for used in end["usage"]] == ["echo"]


async def test_tokens_that_arrive_together_are_one_event(any_client: Client) -> None:
    conversation = await any_client.conversation()
    tokens = [f"{number:>3} 😀" for number in range(12)]
    await any_client.send(conversation, script(tokens=tokens, together=4, delay_ms=10))
    await any_client.ended(conversation)
    events = any_client.events(conversation)
    judge(events)
    assert said(events) == "".join(tokens)
    deltas = [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]
    # Two writes can come in one read, but never half of one.
    assert 1 <= len(deltas) <= 3
    assert all(len(delta) % len("".join(tokens[:4])) == 0 for delta in deltas)


async def test_half_a_character_from_the_model_does_not_end_the_run(any_client: Client) -> None:
    conversation = await any_client.conversation()
    await any_client.send(conversation, script(tokens=["a", "\ud83d", "\ude00b", "é\u0301", "😀"]))
    end = await any_client.ended(conversation)
    assert end["outcome"] == {"type": "success"}
    kept = await answer(any_client, conversation)
    assert said(any_client.events(conversation)) == kept["content"] == "a\ufffd\ufffdbé\u0301😀"


async def test_a_thinking_model_thinks_before_it_answers(client: Client) -> None:
    conversation = await client.conversation("thinking")
    await client.send(conversation, "Hm?")
    await client.ended(conversation)
    events = client.events(conversation)
    judge(events)
    kinds = [event["type"] for event in events]
    assert kinds.index("REASONING_END") < kinds.index("TEXT_MESSAGE_START")
    thoughts = [e["delta"] for e in events if e["type"] == "REASONING_MESSAGE_CONTENT"]
    assert ("".join(thoughts), said(events)) == ("Let me see.", "The answer")
    assert (await answer(client, conversation))["content"] == "The answer"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("error-500", None),
        ("nowhere", None),
        ("die-mid", "one two three "),
        ("error-mid", "one two three "),
        ("eof", "one two three "),
    ],
)
async def test_a_failure_of_the_model_ends_the_run_and_keeps_what_was_said(
    any_client: Client, model: str, text: str | None
) -> None:
    conversation = await any_client.conversation(model)
    sent = await any_client.send(conversation, "Go on.")
    end = await any_client.ended(conversation)
    judge(any_client.events(conversation))
    assert (end["type"], end["code"]) == ("RUN_ERROR", "model_unavailable")
    assert run_of(end) == sent["run_id"]
    run = await status(any_client, sent["run_id"])
    assert (run["status"], run["error"]["code"]) == ("failed", "model_unavailable")
    last = await answer(any_client, conversation)
    if text is None:
        assert last["role"] == "user"
    else:
        assert (last["content"], last["complete"]) == (text, False)
    # And the conversation goes on.
    await any_client.send(conversation, "again please", model="echo")
    assert (await any_client.ended(conversation, 2))["type"] == "RUN_FINISHED"
    judge(any_client.events(conversation))


# --- cancel ---


async def test_a_cancel_stops_the_model_within_a_second_and_keeps_the_partial_answer(
    any_client: Client, scripted_model: ScriptedModel
) -> None:
    conversation = await any_client.conversation()
    question = slowly(1_000)
    sent = await any_client.send(conversation, question)
    await any_client.says(conversation, "w2 ")
    recorded = await scripted_model.asked(question)
    asked_at = time.monotonic()
    await any_client.call("run.cancel", run_id=sent["run_id"])
    await recorded.end()
    assert recorded.disconnected
    assert recorded.ended_at is not None
    assert recorded.ended_at - asked_at < 1.0
    end = await any_client.ended(conversation)
    assert (end["type"], end["outcome"]) == ("RUN_FINISHED", {"type": "cancelled"})
    events = any_client.events(conversation)
    judge(events)
    kept = await answer(any_client, conversation)
    assert (kept["content"], kept["complete"]) == (said(events), False)
    assert kept["content"].startswith("w0 w1 w2 ")
    assert (await status(any_client, sent["run_id"]))["status"] == "cancelled"


async def test_a_model_that_says_nothing_can_be_cancelled(
    client: Client, scripted_model: ScriptedModel
) -> None:
    conversation = await client.conversation("silent")
    sent = await client.send(conversation, "Anybody there?")
    recorded = await scripted_model.asked("Anybody there?")
    await client.call("run.cancel", run_id=sent["run_id"])
    end = await client.ended(conversation, within=1.0)
    assert end["outcome"] == {"type": "cancelled"}
    assert (await recorded.end()).disconnected
    judge(client.events(conversation))
    assert [message["role"] for message in await client.messages(conversation)] == ["user"]


async def test_a_run_that_is_cancelled_before_it_began_ends_once_and_never_begins(
    any_client: Client, scripted_model: ScriptedModel
) -> None:
    conversation = await any_client.conversation("stall")
    first = await any_client.send(conversation, "The first.")
    await any_client.says(conversation, "three ")
    queued = await any_client.send(conversation, "Never asked of any model.")
    run = await any_client.call("run.cancel", run_id=queued["run_id"])
    assert run["status"] == "cancelled"
    await any_client.call("run.cancel", run_id=first["run_id"])
    await any_client.ended(conversation, 2)
    await any_client.send(conversation, "The last.", model="echo")
    await any_client.ended(conversation, 3)
    judge(any_client.events(conversation))
    ends = any_client.ends(conversation)
    assert [run_of(end) for end in ends[:2]] == [first["run_id"], queued["run_id"]]
    assert ends[1]["outcome"] == {"type": "cancelled"}
    asked = [recorded.prompt for recorded in scripted_model.requests]
    assert "Never asked of any model." not in asked


async def test_to_cancel_again_or_too_late_changes_nothing(client: Client) -> None:
    conversation = await client.conversation()
    sent = await client.send(conversation, "short")
    await client.ended(conversation)
    for _ in range(2):
        assert (await client.call("run.cancel", run_id=sent["run_id"]))["status"] == "succeeded"
    await client.send(conversation, "next")
    await client.ended(conversation, 2)
    assert len(client.ends(conversation)) == 2


# --- a busy conversation ---


async def test_queued_runs_wait_and_are_answered_in_order(any_client: Client) -> None:
    conversation = await any_client.conversation()
    sent = [await any_client.send(conversation, f"number {at}") for at in range(5)]
    await any_client.ended(conversation, 5)
    judge(any_client.events(conversation))
    assert [run_of(end) for end in any_client.ends(conversation)] == [
        each["run_id"] for each in sent
    ]
    assert [message["content"] for message in await any_client.messages(conversation)] == [
        f"number {at // 2}" for at in range(10)
    ]


async def test_reject_refuses_while_a_run_is_active_and_not_after(any_client: Client) -> None:
    conversation = await any_client.conversation("stall")
    sent = await any_client.send(conversation, "Hold it.")
    await any_client.says(conversation, "three ")
    with pytest.raises(Refused) as refused:
        await any_client.send(conversation, "Now!", on_busy="reject")
    assert refused.value.reason == "conversation_busy"
    await any_client.call("run.cancel", run_id=sent["run_id"])
    await any_client.ended(conversation)
    await any_client.send(conversation, "Now?", on_busy="reject", model="echo")
    await any_client.ended(conversation, 2)
    contents = [message["content"] for message in await any_client.messages(conversation)]
    assert contents == ["Hold it.", "one two three ", "Now?", "Now?"]


async def test_interrupt_ends_the_current_run_alone_and_keeps_its_words(
    any_client: Client,
) -> None:
    conversation = await any_client.conversation("stall")
    first = await any_client.send(conversation, "Hold it.")
    await any_client.says(conversation, "three ")
    queued = await any_client.send(conversation, "This waits.", model="echo")
    third = await any_client.send(conversation, "Stop that.", on_busy="interrupt", model="echo")
    await any_client.ended(conversation, 3)
    judge(any_client.events(conversation))
    outcomes = {run_of(end): end["outcome"]["type"] for end in any_client.ends(conversation)}
    assert outcomes == {
        first["run_id"]: "cancelled",
        queued["run_id"]: "success",
        third["run_id"]: "success",
    }
    kept = [(m["content"], m["complete"]) for m in await any_client.messages(conversation)]
    assert kept == [
        ("Hold it.", True),
        ("one two three ", False),
        ("This waits.", True),
        ("This waits.", True),
        ("Stop that.", True),
        ("Stop that.", True),
    ]


async def test_steering_is_taken_up_by_the_run_at_its_next_step(
    any_client: Client, scripted_model: ScriptedModel
) -> None:
    conversation = await any_client.conversation()
    question = slowly(30)
    first = await any_client.send(conversation, question)
    await any_client.says(conversation, "w1 ")
    steering = await any_client.send(conversation, "Be brief then.", on_busy="steer")
    assert steering["run_id"] == first["run_id"]
    await any_client.ended(conversation)
    events = any_client.events(conversation)
    judge(events)
    assert len(any_client.ends(conversation)) == 1
    kept = [(m["role"], m["content"]) for m in await any_client.messages(conversation)]
    whole = "".join(f"w{at} " for at in range(30))
    assert kept == [
        ("user", question),
        ("assistant", whole),
        ("user", "Be brief then."),
        ("assistant", "Be brief then."),
    ]
    recorded = await scripted_model.asked("Be brief then.")
    assert [message["content"] for message in recorded.messages] == [
        question,
        whole,
        "Be brief then.",
    ]
    spoken = Reading()
    for event in events:
        spoken.feed(event)
    assert list(spoken.texts.values()) == [content for _, content in kept]


async def test_steering_an_idle_conversation_is_sending(client: Client) -> None:
    conversation = await client.conversation()
    await client.send(conversation, "Hello there.", on_busy="steer")
    await client.ended(conversation)
    assert (await answer(client, conversation))["content"] == "Hello there."


async def test_no_more_runs_wait_than_the_limit(client: Client) -> None:
    conversation = await client.conversation("stall")
    for at in range(20):
        await client.send(conversation, f"number {at}")
    with pytest.raises(Refused) as refused:
        await client.send(conversation, "one too many")
    assert refused.value.reason == "conversation_busy"


# --- idempotency ---


async def test_the_same_message_sent_at_once_by_many_is_one_message_and_one_run(
    any_hub: ServedHub,
) -> None:
    token = await someone(any_hub)
    async with opened(any_hub.url, token) as client:
        conversation = await client.conversation()
        url = f"{any_hub.url}/v1/conversations/{conversation}/messages"
        body = {"client_message_id": "the one", "content": "just once"}
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
            posts = [http.post(url, json=body) for _ in range(10)]
            sends = [
                client.send(conversation, "just once", client_message_id="the one")
                for _ in range(10)
            ]
            answers: list[Any] = await asyncio.gather(*posts, *sends)
        results: list[dict[str, Any]] = [
            a.json() if isinstance(a, httpx.Response) else a for a in answers
        ]
        assert len({(a["message_id"], a["run_id"]) for a in results}) == 1
        await client.ended(conversation)
        assert len(await client.messages(conversation)) == 2
        again = await client.send(conversation, "just once", client_message_id="the one")
        assert again["run_id"] == results[0]["run_id"]
        with pytest.raises(Refused) as refused:
            await client.send(conversation, "other words", client_message_id="the one")
        assert refused.value.reason == "conflict"
        await client.send(conversation, "and another")
        await client.ended(conversation, 2)
        assert len(await client.messages(conversation)) == 4
        judge(client.events(conversation))


# --- memory of the conversation ---


async def test_earlier_turns_reach_the_model_in_order(
    any_client: Client, scripted_model: ScriptedModel
) -> None:
    conversation = await any_client.conversation()
    for at in range(3):
        await any_client.send(conversation, f"turn {at} of {conversation}")
        await any_client.ended(conversation, at + 1)
    recorded = await scripted_model.asked(f"turn 2 of {conversation}")
    told = [(message["role"], message["content"][:6]) for message in recorded.messages]
    assert told == [
        ("user", "turn 0"),
        ("assistant", "turn 0"),
        ("user", "turn 1"),
        ("assistant", "turn 1"),
        ("user", "turn 2"),
    ]


async def test_a_small_model_is_told_no_more_than_it_can_hold(
    client: Client, scripted_model: ScriptedModel
) -> None:
    conversation = await client.conversation("small")
    for at in range(6):
        await client.send(conversation, f"{at} of {conversation} " + "and so on " * 4)
        await client.ended(conversation, at + 1)
    recorded = await scripted_model.asked(f"5 of {conversation}")
    assert recorded.options["num_ctx"] == 128
    assert recorded.messages[0]["role"] == "user"
    assert 1 <= len(recorded.messages) < 11
    assert recorded.messages[-1]["content"].startswith("5 of")


# --- runs and sockets ---


async def test_a_closed_socket_does_not_stop_the_run(hub: ServedHub) -> None:
    token = await someone(hub)
    async with opened(hub.url, token) as client:
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(15))
        await client.says(conversation, "w1 ")
    async with opened(hub.url, token) as client:
        answered = await client.subscribe(conversation, "start")
        assert answered["recovered"]
        end = await client.ended(conversation)
        assert (run_of(end), end["outcome"]["type"]) == (sent["run_id"], "success")
        judge(client.events(conversation))
        whole = "".join(f"w{at} " for at in range(15))
        assert said(client.events(conversation)) == whole
        assert (await answer(client, conversation))["content"] == whole


async def test_a_late_joiner_gets_the_same_events(any_hub: ServedHub) -> None:
    token = await someone(any_hub)
    async with opened(any_hub.url, token) as early, opened(any_hub.url, token) as late:
        conversation = await early.conversation()
        await early.send(conversation, "before it came")
        await early.ended(conversation)
        await early.send(conversation, slowly(10))
        await early.says(conversation, "w2 ")
        answered = await late.subscribe(conversation, "start")
        assert (answered["recovered"], answered["seq"]) == (True, 0)
        await asyncio.gather(early.ended(conversation, 2), late.ended(conversation, 2))
        assert told_alike(late.heard) == told_alike(early.heard)
        judge(late.events(conversation))


async def test_a_client_that_comes_back_continues_after_its_position(any_hub: ServedHub) -> None:
    token = await someone(any_hub)
    async with opened(any_hub.url, token) as witness:
        conversation = await witness.conversation()
        heard: list[dict[str, Any]] = []
        since: Any = None
        for visit in range(4):
            async with opened(any_hub.url, token) as client:
                answered = await client.subscribe(conversation, since)
                assert answered["recovered"]
                if visit == 0:
                    await witness.send(conversation, slowly(60, 15))
                if visit == 3:
                    await client.ended(conversation)
                else:
                    await client.until(lambda client=client: len(client.heard) >= 5)  # type: ignore[misc]
            heard += client.heard
            since = {"epoch": heard[-1]["epoch"], "seq": heard[-1]["seq"]}
        await witness.ended(conversation)
        assert told_alike(heard) == told_alike(witness.heard)


@pytest.mark.parametrize("word", ["w0 ", "w7 "])
async def test_a_snapshot_has_the_partial_text_exactly_at_its_position(
    any_hub: ServedHub, word: str
) -> None:
    token = await someone(any_hub)
    async with opened(any_hub.url, token) as early:
        conversation = await early.conversation()
        await early.send(conversation, "an earlier turn")
        await early.ended(conversation)
        sent = await early.send(conversation, slowly(40, 15))
        waits = await early.send(conversation, "This waits for its turn.")
        await early.says(conversation, word)
        async with opened(any_hub.url, token) as late:
            answered = await late.subscribe(conversation, {"epoch": "e_lost", "seq": 4})
            snapshot = answered["snapshot"]
            assert (answered["recovered"], snapshot["type"]) == (False, "MESSAGES_SNAPSHOT")
            told = [message["id"] for message in snapshot["messages"]]
            # What waits for a run of its own comes after the answer that is being given.
            assert told.index(sent["message_id"]) + 1 == told.index(waits["message_id"]) - 1
            await late.ended(conversation, 2)
            await early.ended(conversation, 3)
        first = late.heard[0]
        assert first["seq"] - first.get("span", 1) == answered["seq"]
        since = [told for told in early.heard if told["seq"] > answered["seq"]]
        assert told_alike(late.heard) == told_alike(since)
        reading = Reading(snapshot)
        for event in late.events(conversation):
            reading.feed(event)
        kept = {m["id"]: m["content"] for m in await early.messages(conversation)}
        assert reading.texts == kept
        assert list(reading.texts) == list(kept)
        judge(early.events(conversation))
