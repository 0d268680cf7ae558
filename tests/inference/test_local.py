"""The embedded model server, asked over real HTTP by Ollama's official client."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import httpx
import ollama
import pytest

from hub.inference.interface import ChatDone
from hub.inference.local.engine import SLOTS
from hub.inference.ollama import OllamaClient
from tests.inference.conftest import ask, collect, text

MODEL = "smollm2:135m"
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"


@pytest.fixture
async def api(local_model: str) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=local_model, timeout=60)
    yield client
    await client.close()  # type: ignore[no-untyped-call]


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


async def stream(
    api: ollama.AsyncClient, content: str, **options: Any
) -> AsyncGenerator[ollama.ChatResponse, None]:
    answer = await api.chat(MODEL, user(content), stream=True, options=options)
    return cast("AsyncGenerator[ollama.ChatResponse, None]", answer)


async def test_it_answers_in_words(api: ollama.AsyncClient) -> None:
    # What it says is not to be relied on; that it says something and ends is.
    answer = await api.chat(MODEL, user("What is the capital of France?"))
    assert len((answer.message.content or "").split()) > 2
    assert answer.message.role == "assistant"
    assert answer.done
    assert 0 < (answer.eval_count or 0) <= 512


async def test_a_streamed_chat_counts_what_it_generates(api: ollama.AsyncClient) -> None:
    parts = [part async for part in await stream(api, "Tell me a story.", num_predict=20)]
    *pieces, last = parts
    assert all(not piece.done and piece.message.content for piece in pieces)
    assert last.done
    assert last.done_reason == "length"
    assert last.eval_count == len(pieces) == 20
    assert (last.prompt_eval_count or 0) > 20
    assert (last.eval_duration or 0) > 1_000_000
    assert (last.total_duration or 0) >= (last.eval_duration or 0)


async def test_the_prompt_is_counted_whole_when_part_of_it_is_remembered(
    api: ollama.AsyncClient,
) -> None:
    asked = [await api.chat(MODEL, user("Name a tree."), options={"num_predict": 2}) for _ in "ab"]
    assert asked[0].prompt_eval_count == asked[1].prompt_eval_count


async def test_a_whole_answer_has_the_same_ends(api: ollama.AsyncClient) -> None:
    cut = await api.chat(MODEL, user("Tell me a story."), options={"num_predict": 5})
    assert (cut.done_reason, cut.eval_count) == ("length", 5)


@pytest.mark.parametrize("streamed", [True, False])
async def test_generate_completes_raw_text(api: ollama.AsyncClient, streamed: bool) -> None:
    options = {"num_predict": 12, "temperature": 0, "repeat_penalty": 1.0}
    generate = cast(Any, api.generate)
    answer = await generate(MODEL, COUNTING, raw=True, stream=streamed, options=options)
    if streamed:
        parts = [part async for part in answer]
        said, last = "".join(part.response for part in parts), parts[-1]
    else:
        said, last = answer.response, answer
    assert "11, 12" in said
    assert (last.done_reason, last.eval_count) == ("length", 12)


async def test_generate_answers_as_in_a_chat(api: ollama.AsyncClient) -> None:
    brief = {"num_predict": 9}
    raw = await api.generate(MODEL, "Say hello.", raw=True, options=brief)
    chat = await api.generate(MODEL, "Say hello.", system="You are polite.", options=brief)
    # The template around the prompt, and the system message, are tokens too.
    assert (chat.prompt_eval_count or 0) > (raw.prompt_eval_count or 0) + 8
    assert chat.response


async def test_a_stop_word_stops_and_is_not_said(api: ollama.AsyncClient) -> None:
    options = {"stop": ["13"], "num_predict": 40, "temperature": 0, "repeat_penalty": 1.0}
    answer = await api.generate(MODEL, COUNTING, raw=True, options=options)
    assert answer.done_reason == "stop"
    assert "12" in (answer.response or "")
    assert "13" not in (answer.response or "")


async def test_a_schema_is_followed(api: ollama.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    question = user("A colour and a count, please.")
    answer = await api.chat(MODEL, question, format=schema, options={"num_predict": 100})
    made = json.loads(answer.message.content or "")
    assert made.keys() == {"colour", "count"}
    assert made["colour"] in ("red", "blue")
    assert isinstance(made["count"], int)


async def test_json_is_json(api: ollama.AsyncClient) -> None:
    question = user("Describe a cat with two fields.")
    answer = await api.chat(MODEL, question, format="json", options={"num_predict": 300, "seed": 1})
    if answer.done_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    assert (answer.message.content or "").lstrip().startswith("{")


async def test_embeddings_are_unit_vectors_that_tell_texts_apart(api: ollama.AsyncClient) -> None:
    texts = ["a cat sleeps", "a cat sleeps", "stock markets fell", "word " * 600]
    answer = await api.embed(MODEL, texts)
    first, same, other, long = answer.embeddings
    assert len(first) == len(long) == 576
    assert first == pytest.approx(same, abs=1e-3)
    assert sum(a * b for a, b in zip(first, other, strict=True)) < 0.99
    for vector in answer.embeddings:
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-3)
    short = await api.embed(MODEL, "a cat sleeps", dimensions=8)
    assert len(short.embeddings[0]) == 8
    assert (short.prompt_eval_count or 0) > 2


async def test_it_says_what_it_is(api: ollama.AsyncClient, local_model: str) -> None:
    (listed,) = (await api.list()).models
    assert listed.model == MODEL
    assert (listed.size or 0) > 90_000_000
    shown = await api.show(MODEL)
    facts = dict(shown.modelinfo or {})
    assert facts["general.architecture"] == "llama"
    assert facts["llama.context_length"] == 8192
    assert facts["hub.stand_in"] is True
    assert shown.capabilities == ["completion"]
    assert shown.details is not None
    assert shown.details.quantization_level == "Q4_1"
    (loaded,) = (await api.ps()).models
    assert loaded.context_length == 8192
    async with httpx.AsyncClient(base_url=local_model) as http:
        assert (await http.get("/api/version")).json()["version"]
        assert (await http.get("/")).text == "Ollama is running"
        assert (await http.head("/")).status_code == 200


async def test_the_hubs_client_knows_it_for_a_stand_in(local_model: str) -> None:
    client = OllamaClient(local_model, first_token_s=30, next_token_s=10, provider="local")
    (info,) = await client.models()
    assert (info.name, info.provider, info.stand_in) == (MODEL, "local", True)
    assert info.context_length == 8192
    parts = await collect(client, ask(MODEL, "Tell me a story.", num_predict=9))
    assert parts[-1] == ChatDone("length", cast(ChatDone, parts[-1]).input_tokens, 9)
    assert len(text(parts).split()) > 3
    await client.close()


async def test_two_are_answered_at_once(api: ollama.AsyncClient) -> None:
    heard: list[str] = []

    async def listen(name: str) -> None:
        async for _ in await stream(api, f"Tell me a story about {name}.", num_predict=30):
            heard.append(name)  # noqa: PERF401

    await asyncio.gather(listen("a fox"), listen("a crow"))
    assert heard.index("a crow") < len(heard) - 1 - heard[::-1].index("a fox")
    assert heard.index("a fox") < len(heard) - 1 - heard[::-1].index("a crow")


@pytest.mark.parametrize(
    "prompt", ["Tell me a long story.", "word " * 1500], ids=["words", "prompt"]
)
async def test_a_client_that_goes_frees_its_place_at_once(
    api: ollama.AsyncClient, prompt: str
) -> None:
    """Every place is taken, by answers or by reading prompts, and then left."""

    async def occupy(number: int) -> None:
        async with contextlib.aclosing(
            await stream(api, f"{number} {prompt}", num_predict=2000)
        ) as parts:
            async for _ in parts:
                taken.release()

    taken = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(occupy(number)) for number in range(SLOTS)]
    if prompt.startswith("Tell"):
        async with asyncio.timeout(20):
            for _ in range(SLOTS * 3):
                await taken.acquire()
    else:
        # Only the server knows when it reads a prompt; that it does not answer yet shows it.
        await asyncio.wait(tasks, timeout=0.5)
        assert taken.locked()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    left = time.monotonic()
    await api.chat(MODEL, user("Hi"), options={"num_predict": 1})
    # Left alone, the answers would go on for a minute, and the prompts for twenty seconds.
    assert time.monotonic() - left < 3


async def test_a_prompt_beyond_the_context_loses_its_oldest_messages(
    api: ollama.AsyncClient,
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "word " * 400},
        {"role": "assistant", "content": "word " * 100},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    answer = await api.chat(MODEL, messages, options={"num_ctx": 256, "num_predict": 20})
    assert (answer.prompt_eval_count or 0) < 256
    with pytest.raises(ollama.ResponseError, match="the context holds 256") as refused:
        await api.chat(MODEL, user("word " * 400), options={"num_ctx": 256})
    assert refused.value.status_code == 400


async def test_an_answer_ends_where_a_smaller_context_does(api: ollama.AsyncClient) -> None:
    answer = await api.chat(MODEL, user("Tell me a long story."), options={"num_ctx": 64})
    assert answer.done_reason == "length"
    assert (answer.prompt_eval_count or 0) + (answer.eval_count or 0) == 64


async def test_an_unknown_model_is_not_found(api: ollama.AsyncClient) -> None:
    for attempt in (api.chat("nonesuch", user("Hi")), api.show("nonesuch"), api.embed("nope", "x")):
        with pytest.raises(ollama.ResponseError, match="not found") as refused:
            await attempt
        assert refused.value.status_code == 404


HI = {"model": MODEL, "messages": user("Hi")}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/api/chat", None, "missing request body"),
        ("/api/chat", "{", "truncated"),
        ("/api/chat", [], "object"),
        ("/api/chat", {"messages": user("Hi")}, "model is required"),
        ("/api/chat", {**HI, "messages": "Hi"}, "array"),
        ("/api/chat", {**HI, "options": {"temperature": "hot"}}, "temperature"),
        ("/api/chat", {**HI, "options": {"num_predict": 10**12}}, "num_predict"),
        ("/api/chat", {**HI, "format": "xml"}, "invalid format"),
        ("/api/chat", {**HI, "format": {"type": "nonsense"}}, "nonsense"),
        ("/api/chat", {**HI, "format": {"$ref": "#/$defs/gone"}, "stream": False}, "gone"),
        ("/api/chat", {**HI, "tools": [{"type": "function"}]}, "does not support tools"),
        ("/api/chat", {**HI, "think": True}, "does not support thinking"),
        ("/api/generate", {"model": MODEL, "prompt": "x", "images": ["eA=="]}, "images"),
        ("/api/embed", {"model": MODEL, "input": [""]}, "empty"),
        ("/api/embed", {"model": MODEL, "input": "x", "dimensions": 9999}, "dimensions"),
    ],
)
async def test_a_bad_request_is_answered_with_its_reason(
    local_model: str, path: str, body: Any, words: str
) -> None:
    content = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    async with httpx.AsyncClient(base_url=local_model, timeout=20) as http:
        answer = await http.post(path, content=content)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


async def test_what_is_not_there_is_said(local_model: str) -> None:
    async with httpx.AsyncClient(base_url=local_model) as http:
        assert (await http.get("/api/pull")).status_code == 404
        assert (await http.get("/api/chat")).status_code == 405
        # A page in a browser that points a name of its own at this machine gets nothing.
        strange = await http.get("/api/tags", headers={"host": "evil.example"})
        assert strange.status_code == 400


async def test_an_empty_request_only_loads(api: ollama.AsyncClient) -> None:
    assert (await api.chat(MODEL, [])).done_reason == "load"
    assert (await api.generate(MODEL)).done_reason == "load"
