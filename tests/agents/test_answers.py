"""The answer cache: only where a tenant wants it, for the very same prompt, on every node."""

from dataclasses import replace
from typing import Any

import pytest

from hub.agents.answers import Shelf, name_of
from hub.inference.interface import ChatMessage, ChatRequest
from tests.agents.client import Client, opened
from tests.agents.conftest import someone
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisProcess
from tests.parts.scripted import ScriptedModel


async def opted_in(client: Client, wanted: bool = True) -> str:
    tenant = str((await client.call("session.info"))["tenant_id"])
    await client.call("tenant.update", tenant_id=tenant, settings={"answer_cache": wanted})
    return tenant


async def answered(client: Client, content: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The answer in a new conversation, and its run's end."""
    conversation = await client.conversation(**more)
    await client.send(conversation, content)
    end = await client.ended(conversation)
    return (await client.messages(conversation))[-1]["content"], end


def asked(model: ScriptedModel) -> int:
    return sum(request.path == "/api/chat" for request in model.requests)


def looked_up(hub: ServedHub, cache: str, outcome: str) -> float:
    registry = hub.hub.services.metrics.registry
    labels = {"cache": cache, "outcome": outcome}
    return registry.get_sample_value("hub_cache_lookups_total", labels) or 0.0


def test_an_answer_is_to_one_prompt_of_one_model_with_one_set_of_parameters() -> None:
    shelf = Shelf("t_1", "2026-01-01", "digest")
    asked = ChatRequest("echo", (ChatMessage("user", "why"),), {"num_ctx": 1}, {"type": "object"})
    others = [
        replace(asked, model="other"),
        replace(asked, messages=(ChatMessage("user", "how"),)),
        replace(asked, messages=(ChatMessage("system", "why"),)),
        replace(asked, options={"num_ctx": 2}),
        replace(asked, options={}),
        replace(asked, format=None),
    ]
    names = [name_of(each, shelf) for each in (asked, *others)]
    names += [
        name_of(asked, shelf._replace(**{name: "another"}))
        for name in ("tenant_id", "since", "model")
    ]
    assert len(set(names)) == len(names)
    assert name_of(replace(asked), Shelf(*shelf)) == names[0]


async def test_a_tenant_that_wants_it_gets_an_answer_again_and_pays_for_it_once(
    any_hub: ServedHub, scripted_model: ScriptedModel
) -> None:
    async with opened(any_hub.url, await someone(any_hub)) as client:
        await opted_in(client)
        before = asked(scripted_model)
        first, paid = await answered(client, "say this twice")
        again, free = await answered(client, "say this twice")
        other, _ = await answered(client, "say another thing")
        assert (first, again) == ("say this twice", "say this twice")
        assert other == "say another thing"
        assert asked(scripted_model) == before + 2
        assert paid["usage"][0]["totalTokens"] > 0
        assert sum(one["totalTokens"] for one in free.get("usage", [])) == 0
        assert (looked_up(any_hub, "answers", "hit"), looked_up(any_hub, "answers", "miss")) == (
            1,
            2,
        )


async def test_what_a_conversation_instructs_and_has_said_before_is_part_of_the_prompt(
    any_hub: ServedHub, scripted_model: ScriptedModel
) -> None:
    async with opened(any_hub.url, await someone(any_hub)) as client:
        await opted_in(client)
        before = asked(scripted_model)
        await answered(client, "the same words")
        await answered(client, "the same words", instructions="Be brief.")
        conversation = await client.conversation()
        for turn in (1, 2):
            await client.send(conversation, "the same words")
            await client.ended(conversation, turn)
        assert asked(scripted_model) == before + 3, "the first turn alone was asked before"


async def test_a_tenant_that_did_not_ask_for_it_is_answered_anew_each_time(
    any_hub: ServedHub, scripted_model: ScriptedModel
) -> None:
    async with opened(any_hub.url, await someone(any_hub)) as client:
        before = asked(scripted_model)
        for _ in range(2):
            await answered(client, "not kept")
        await opted_in(client)
        await answered(client, "not kept")
        await opted_in(client, wanted=False)
        await answered(client, "not kept")
        assert asked(scripted_model) == before + 4


async def test_another_tenant_is_never_given_the_answer(
    any_hub: ServedHub, scripted_model: ScriptedModel
) -> None:
    for _ in range(2):
        async with opened(any_hub.url, await someone(any_hub)) as client:
            await opted_in(client)
            before = asked(scripted_model)
            await answered(client, "whose is it")
            assert asked(scripted_model) == before + 1


async def test_an_answer_that_was_cut_off_is_not_given_again(
    any_hub: ServedHub, scripted_model: ScriptedModel
) -> None:
    async with opened(any_hub.url, await someone(any_hub)) as client:
        await opted_in(client)
        slowly = '#script {"tokens": ["one ", "two ", "three ", "four "], "delay_ms": 200}'
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly)
        await client.says(conversation, "one ")
        await client.call("run.cancel", run_id=sent["run_id"])
        await client.ended(conversation)
        whole, _ = await answered(client, slowly)
        assert whole == "one two three four "


async def test_every_node_gives_what_another_was_answered(
    serve_hub: ServeHub,
    redis_server: RedisProcess,
    sqlite_url: str,
    scripted_model: ScriptedModel,
) -> None:
    shared = {"HUB_REDIS_URL": redis_server.url, "HUB_DATABASE_URL": sqlite_url}
    async with serve_hub(**shared) as one:
        token = await someone(one)
        async with opened(one.url, token) as client:
            await opted_in(client)
            before = asked(scripted_model)
            await answered(client, "said on one node")
    async with serve_hub(**shared) as two, opened(two.url, token) as client:
        again, _ = await answered(client, "said on one node")
        assert (again, asked(scripted_model)) == ("said on one node", before + 1)


@pytest.mark.parametrize("cache", ["permissions", "resources", "models"])
async def test_what_is_remembered_is_counted_with_what_is_not(
    served_hub: ServedHub, cache: str
) -> None:
    async with opened(served_hub.url, await someone(served_hub)) as client:
        conversation = await client.conversation()
        for _ in range(20):
            await client.call("conversation.get", conversation_id=conversation)
            await client.call("model.list")
        assert looked_up(served_hub, cache, "hit") >= 15
        assert looked_up(served_hub, cache, "miss") >= 1
