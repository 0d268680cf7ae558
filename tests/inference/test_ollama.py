"""The Ollama client against a scripted server: every way in which a model server can fail."""

import asyncio
import contextlib
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest

from hub.faults import Fault
from hub.inference.interface import (
    ChatDone,
    ChatMessage,
    ChatPart,
    ChatRequest,
    ReasoningDelta,
    TextDelta,
)
from hub.inference.ollama import OllamaClient
from tests.inference.conftest import ask, collect, text
from tests.parts.scripted import ScriptedModel, scripted_server
from tests.parts.scripts import DIRECTIVE, Script


@pytest.fixture
async def client(scripted_model: ScriptedModel) -> AsyncIterator[OllamaClient]:
    client = OllamaClient(scripted_model.host, first_token_s=5, next_token_s=5)
    yield client
    await client.close()


async def until_fault(client: OllamaClient, request: ChatRequest) -> tuple[list[ChatPart], Fault]:
    parts: list[ChatPart] = []
    try:
        async for part in client.chat(request):
            parts.append(part)  # noqa: PERF401
    except Fault as fault:
        return parts, fault
    raise AssertionError(f"no fault after {parts}")


async def test_an_answer_is_its_words_and_then_one_end(client: OllamaClient) -> None:
    parts = await collect(client, ask("count", "count to 5"))
    assert text(parts) == "1 2 3 4 5 "
    assert parts[-1] == ChatDone("stop", 3, 5)
    assert sum(isinstance(part, ChatDone) for part in parts) == 1


async def test_an_answer_that_was_cut_says_so(client: OllamaClient) -> None:
    parts = await collect(client, ask("count", "count to 9", num_predict=4))
    assert text(parts) == "1 2 3 4 "
    assert parts[-1] == ChatDone("length", 3, 4)


async def test_thinking_is_told_from_the_answer(client: OllamaClient) -> None:
    parts = await collect(client, ask("thinking"))
    thought = [part.text for part in parts if isinstance(part, ReasoningDelta)]
    assert "".join(thought) == "Let me see."
    assert text(parts) == "The answer"


async def test_messages_options_and_format_reach_the_server(
    client: OllamaClient, scripted_model: ScriptedModel
) -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/y"}}, "$defs": {"y": {}}}
    messages = (ChatMessage("system", "be brief"), ChatMessage("user", "what reaches you"))
    request = ChatRequest("echo", messages, {"temperature": 0.5, "seed": 7}, schema)
    await collect(client, request)
    seen = await scripted_model.asked("what reaches you")
    assert [(m["role"], m["content"]) for m in seen.messages] == [
        ("system", "be brief"),
        ("user", "what reaches you"),
    ]
    assert seen.options["temperature"] == 0.5
    assert seen.options["seed"] == 7
    assert seen.body["format"] == schema


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("eof", "without finishing"),
        ("die-mid", "connection broke"),
        ("error-mid", "scripted failure mid-stream"),
        ("error-500", "HTTP 500"),
    ],
)
async def test_an_answer_that_breaks_off_is_a_failure_and_not_a_short_answer(
    client: OllamaClient, model: str, words: str
) -> None:
    parts, fault = await until_fault(client, ask(model))
    assert fault.reason == "model_unavailable"
    assert words in fault.message
    assert text(parts) == ("" if model == "error-500" else "one two three ")
    assert not any(isinstance(part, ChatDone) for part in parts)


async def test_an_unknown_model_comes_with_the_command_that_gets_it(client: OllamaClient) -> None:
    with pytest.raises(Fault, match="ollama pull nonesuch") as failure:
        await collect(client, ask("nonesuch"))
    assert failure.value.reason == "model_unavailable"


async def test_nobody_listening_is_a_fault_that_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = OllamaClient(f"http://user:pw@127.0.0.1:{port}", first_token_s=5, next_token_s=5)
    for attempt in (collect(client, ask("echo")), client.models()):
        with pytest.raises(Fault, match=f"http://127.0.0.1:{port} ") as failure:
            await attempt
        assert failure.value.reason == "model_unavailable"
        assert "pw" not in failure.value.message
    assert not await client.answers(2)
    await client.close()


async def test_another_kind_of_server_is_not_mistaken_for_ollama() -> None:
    async def teapot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html>hi</html")
        writer.close()

    async with await asyncio.start_server(teapot, "127.0.0.1", 0) as server:
        host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = OllamaClient(host, first_token_s=5, next_token_s=5)
        assert not await client.answers(2)
        with pytest.raises(Fault, match="does not speak"):
            await collect(client, ask("echo"))
        await client.close()


@pytest.mark.parametrize(("model", "heard"), [("silent", ""), ("stall", "one two three ")])
async def test_a_model_that_says_nothing_more_times_out(
    scripted_model: ScriptedModel, model: str, heard: str
) -> None:
    client = OllamaClient(scripted_model.host, first_token_s=0.2, next_token_s=0.2)
    prompt = f"time out {model}"
    parts, fault = await until_fault(client, ask(model, prompt))
    assert fault.reason == "timeout"
    assert text(parts) == heard
    seen = await (await scripted_model.asked(prompt)).end(within=1)
    assert seen.disconnected
    await client.close()


@contextlib.asynccontextmanager
async def raw(*writes: bytes, after_s: float = 0.0) -> AsyncIterator[str]:
    """A server that answers anything with these bytes, and then waits for the client to leave."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            for data in writes:
                writer.write(data)
                await asyncio.sleep(after_s)
            await reader.readexactly(10**6)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def spoken(*tokens: str, done: bool = True) -> bytes:
    lines = [{"message": {"role": "assistant", "content": token}} for token in tokens]
    end = [{"message": {"role": "assistant", "content": ""}, "done": True}] if done else []
    return b"".join(json.dumps(line).encode() + b"\n" for line in (*lines, *end))


def with_length(body: bytes, *headers: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
    return b"".join((head, *(header + b"\r\n" for header in headers), b"\r\n", body))


async def test_the_tokens_that_one_read_brings_are_one_delta() -> None:
    async with raw(with_length(spoken("one ", "two ", "three"))) as host:
        client = OllamaClient(host, first_token_s=5, next_token_s=5)
        assert await collect(client, ask("any")) == [
            TextDelta("one two three"),
            ChatDone("stop", 0, 0),
        ]
        await client.close()


async def test_an_answer_that_a_proxy_has_packed_is_unpacked() -> None:
    packed = gzip.compress(spoken("one ", "two"))
    async with raw(with_length(packed, b"Content-Encoding: gzip")) as host:
        client = OllamaClient(host, first_token_s=5, next_token_s=5)
        assert text(await collect(client, ask("any"))) == "one two"
        await client.close()


async def test_a_whole_answer_is_whole_even_if_its_body_does_not_end() -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + spoken("whole")
    async with raw(endless) as host:
        client = OllamaClient(host, first_token_s=5, next_token_s=5)
        parts = await collect(client, ask("any"))
        assert parts == [TextDelta("whole"), ChatDone("stop", 0, 0)]
        await client.close()


async def test_the_time_to_the_first_token_is_one_however_it_is_spent() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
    # Each wait is shorter than what is allowed, and both together are longer.
    writes = (b"HTTP/1.1 100 Continue\r\n\r\n", head, spoken("late"))
    async with raw(*writes, after_s=0.3) as host:
        client = OllamaClient(host, first_token_s=0.5, next_token_s=30)
        _, fault = await until_fault(client, ask("any"))
        assert fault.reason == "timeout"
        assert "0.5 s" in fault.message
        assert client.active == 0
        await client.close()


async def test_the_first_token_may_take_longer_than_the_next(scripted_model: ScriptedModel) -> None:
    client = OllamaClient(scripted_model.host, first_token_s=5, next_token_s=0.1)
    prompt = DIRECTIVE + json.dumps({"tokens": ["late"], "first_ms": 300})
    assert text(await collect(client, ask("echo", prompt))) == "late"
    await client.close()


async def test_cancelling_the_reader_stops_the_generation(
    client: OllamaClient, scripted_model: ScriptedModel
) -> None:
    prompt, started = "cancel me", asyncio.Event()

    async def read() -> None:
        async for _ in client.chat(ask("slow", prompt)):
            started.set()

    reader = asyncio.create_task(read())
    await asyncio.wait_for(started.wait(), 5)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    asked = time.monotonic()
    seen = await (await scripted_model.asked(prompt)).end(within=1)
    assert seen.disconnected
    assert (seen.ended_at or 0) - asked < 0.5
    assert client.active == 0


async def test_cancelling_before_the_first_token_stops_the_generation(
    client: OllamaClient, scripted_model: ScriptedModel
) -> None:
    prompt = "cancel me early"
    reader = asyncio.create_task(collect(client, ask("silent", prompt)))
    seen = await scripted_model.asked(prompt)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await seen.end(within=1)).disconnected


async def test_closing_the_answer_stops_the_generation(
    client: OllamaClient, scripted_model: ScriptedModel
) -> None:
    prompt = "close me"
    async with contextlib.aclosing(client.chat(ask("slow", prompt))) as parts:
        await anext(parts)
    seen = await (await scripted_model.asked(prompt)).end(within=1)
    assert seen.disconnected
    assert seen.sent < 10


async def test_more_answers_stream_at_once_than_a_pool_of_connections_usually_holds(
    client: OllamaClient,
) -> None:
    prompt = DIRECTIVE + json.dumps({"tokens": ["a", "b"], "first_ms": 300})
    began = time.monotonic()
    answers = await asyncio.gather(*(collect(client, ask("echo", prompt)) for _ in range(150)))
    assert {text(parts) for parts in answers} == {"ab"}
    assert time.monotonic() - began < 5


async def test_a_whole_answer_leaves_its_connection_for_the_next() -> None:
    with scripted_server() as model:
        accepted: list[int] = []
        serve = model.connection

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(1)
            await serve(reader, writer)

        model.connection = counted  # type: ignore[method-assign]
        client = OllamaClient(model.host, first_token_s=5, next_token_s=5)
        for _ in range(3):
            await collect(client, ask("count", "3"))
        await client.close()
        assert len(accepted) == 1


async def test_the_catalogue_holds_chat_models_with_their_context() -> None:
    with scripted_server({"long": Script(context=131072), "mind": Script(embeds=True)}) as model:
        client = OllamaClient(model.host, first_token_s=5, next_token_s=5)
        found = {info.name: info for info in await client.models()}
        assert found["small"].context_length == 128
        assert found["echo"].context_length == 8192
        # What a model could hold is not what a server gives it without being asked.
        assert found["long"].context_length == 8192
        assert "mind" not in found
        assert not any(info.stand_in for info in found.values())

        await collect(client, ask("small", "with the context known"))
        seen = await model.asked("with the context known")
        assert seen.options["num_ctx"] == 128
        await client.close()


async def test_a_model_is_described_once_while_it_stays_the_same() -> None:
    with scripted_server() as model:
        client = OllamaClient(model.host, first_token_s=5, next_token_s=5)
        first = await client.models()
        shown = model.shown
        assert await client.models() == first
        assert model.shown == shown
        await client.close()


async def test_closing_the_client_breaks_off_what_streams(scripted_model: ScriptedModel) -> None:
    client = OllamaClient(scripted_model.host, first_token_s=5, next_token_s=5)
    answer = client.chat(ask("slow", "closed under me"))
    await anext(answer)
    await client.close()
    with pytest.raises(Fault) as failure:
        async for _ in answer:
            pass
    assert failure.value.reason == "model_unavailable"
    seen = await (await scripted_model.asked("closed under me")).end(within=1)
    assert seen.disconnected
