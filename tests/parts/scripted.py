"""A scripted model server: Ollama's protocol with exact words, delays and faults.

The script is chosen by the model's name (``scripts.MODELS``) or by a directive in the last user
message::

    #script {"tokens": ["Hi", " there"], "first_ms": 50, "delay_ms": 5, "end": "stop"}

so that tests which share a server do not meet. As a program (for benchmarks)::

    python -m tests.parts.scripted --port 0 --tokens 40 --delay-ms 20 --first-ms 50

prints ``{"port": N, "model": "bench"}`` when it serves, and ends when its stdin does.
"""

import argparse
import asyncio
import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.parts.scripts import MODELS, Recorded, Script


class ScriptedModel:
    """The server and what it recorded. Usable from any thread or loop but its own."""

    def __init__(self, models: dict[str, Script]) -> None:
        self.models = models
        self.port = 0
        self.requests: list[Recorded] = []
        self.shown = 0
        """How often a model was described."""
        self.listed = 0
        """How often the catalogue was asked for."""
        self.pulled = 0
        """How often other models came by the names that there are."""
        self.refusing = False
        """Whether all that is asked is answered with HTTP 503."""
        self._changed = threading.Condition()

    @property
    def host(self) -> str:
        """The server's URL, as ``OLLAMA_HOST`` takes it."""
        return f"http://127.0.0.1:{self.port}"

    async def asked(self, text: str, within: float = 5.0) -> Recorded:
        """Wait for the latest chat whose last user message contains ``text``."""

        def find() -> Recorded | None:
            chats = (r for r in reversed(self.requests) if r.path == "/api/chat")
            return next((r for r in chats if text in r.prompt), None)

        def wait() -> Recorded | None:
            with self._changed:
                return self._changed.wait_for(find, within)

        found = await asyncio.to_thread(wait)
        if found is None:
            raise TimeoutError(f"nobody asked the scripted model {text!r} within {within} s")
        return found

    def record(self, path: str, body: dict[str, Any]) -> Recorded:
        recorded = Recorded(path, body, time.monotonic())
        with self._changed:
            self.requests.append(recorded)
            self._changed.notify_all()
        return recorded

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one kept-alive connection."""
        try:
            while (request := await _read_request(reader)) is not None:
                method, path, body = request
                if not await self._answer(method, path, body, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(
        self,
        method: str,
        path: str,
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the connection can be used again."""
        name = str(body.get("model", ""))
        if self.refusing:
            return _whole(writer, 503, {"error": "scripted refusal"})
        if path in ("/api/show", "/api/chat") and name not in self.models:
            self.record(path, body).finish(disconnected=False)
            return _whole(writer, 404, {"error": f"model '{name}' not found"})
        match path:
            case "/api/chat":
                recorded = self.record(path, body)
                return await _chat(
                    recorded, recorded.script(self.models[recorded.model]), reader, writer
                )
            case "/api/show":
                self.shown += 1
                _whole(writer, 200, _shown(self.models[name]))
            case "/api/tags":
                self.listed += 1
                tags = [_tag(name, self.pulled) for name in self.models]
                _whole(writer, 200, {"models": tags})
            case "/api/version":
                _whole(writer, 200, {"version": "0.0.0-scripted"})
            case "/":
                _whole(writer, 200, "Ollama is running", text=True, head=method == "HEAD")
            case _:
                _whole(writer, 404, {"error": "not scripted"})
        return True


async def _chat(
    recorded: Recorded,
    script: Script,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    if script.status != 200:
        recorded.finish(disconnected=False)
        return _whole(writer, script.status, {"error": "scripted failure"})
    generation = asyncio.create_task(_generate(recorded, script, writer))
    # A client sends nothing while it is being answered: a read that ends is a client that left.
    leaving = asyncio.create_task(reader.read(1))
    try:
        await asyncio.wait((generation, leaving), return_when=asyncio.FIRST_COMPLETED)
        gone = not generation.done()
        recorded.finish(disconnected=gone)
        return not gone and generation.result()
    finally:
        generation.cancel()
        leaving.cancel()
        await asyncio.wait((generation, leaving))


async def _generate(recorded: Recorded, script: Script, writer: asyncio.StreamWriter) -> bool:
    """Write the answer at the script's pace. Whether the connection can be used again."""
    loop = asyncio.get_running_loop()
    start, stream = loop.time(), recorded.body.get("stream", True)
    limit = int(recorded.options.get("num_predict", -1))
    tokens = script.tokens if limit < 0 else script.tokens[:limit]
    end = "length" if len(tokens) < len(script.tokens) else script.end
    parts = [("thinking", text) for text in script.thinking] + [("content", t) for t in tokens]
    write = _chunk if stream else _nothing
    # As Ollama does, the head goes out with the first line and not before.
    head = _head(200, "application/x-ndjson", "Transfer-Encoding: chunked") if stream else b""
    opening = f'{{"model":{json.dumps(recorded.model)},"created_at":"2026-01-01T00:00:00Z",'
    held = b""
    for number, (kind, text) in enumerate(parts):
        due = start + (script.first_ms + number * script.delay_ms) / 1000
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        content = "" if kind == "thinking" else text
        extra = f',"thinking":{json.dumps(text)}' if kind == "thinking" else ""
        message = f'{{"role":"assistant","content":{json.dumps(content)}{extra}}}'
        held += _framed(f'{opening}"message":{message},"done":false}}')
        recorded.sent += 1
        if (number + 1) % script.together and number + 1 < len(parts):
            continue
        if stream:
            writer.write(head + held)
        head = held = b""
        if writer.transport.get_write_buffer_size() > 65536:
            await writer.drain()
    match end:
        case "silent" | "stall":
            await asyncio.Event().wait()
        case "die":
            writer.write(head)
            return False
        case "error":
            write(writer, '{"error":"scripted failure mid-stream"}', head)
        case "stop" | "length":
            whole = "".join(text for kind, text in parts if kind == "content")
            words = sum(len(str(m.get("content", "")).split()) for m in recorded.messages)
            message = json.dumps({"role": "assistant", "content": "" if stream else whole})
            last = (
                f'{opening}"message":{message},"done":true,"done_reason":"{end}",'
                f'"total_duration":1,"load_duration":1,"prompt_eval_count":{words},'
                f'"prompt_eval_duration":1,"eval_count":{len(parts)},"eval_duration":1}}'
            )
            if not stream:
                return _whole(writer, 200, json.loads(last))
            write(writer, last, head)
    if not stream:
        return _whole(writer, 500, {"error": "scripted failure"})
    writer.write((head if end == "eof" else b"") + b"0\r\n\r\n")
    return True


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, Any]] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head.split(" ", 2)
    length = re.search(r"(?im)^content-length:\s*(\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return method, path, json.loads(body) if body else {}


def _head(status: int, kind: str, *more: str) -> bytes:
    lines = (f"HTTP/1.1 {status} Scripted", f"Content-Type: {kind}", *more)
    return "\r\n".join((*lines, "", "")).encode()


def _chunk(writer: asyncio.StreamWriter, line: str, head: bytes) -> None:
    writer.write(head + _framed(line))


def _framed(line: str) -> bytes:
    data = line.encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _nothing(writer: asyncio.StreamWriter, line: str, head: bytes) -> None:
    """An answer in one piece has no lines."""


def _whole(
    writer: asyncio.StreamWriter, status: int, body: Any, *, text: bool = False, head: bool = False
) -> bool:
    data = str(body).encode() if text else json.dumps(body).encode()
    kind = "text/plain" if text else "application/json"
    writer.write(_head(status, kind, f"Content-Length: {len(data)}") + (b"" if head else data))
    return True


def _tag(name: str, pulled: int) -> dict[str, Any]:
    digest = f"scripted-{name}-{pulled}"
    stamp = {"modified_at": "2026-01-01T00:00:00Z", "size": 1000, "digest": digest}
    return {"name": name, "model": name, **stamp, "details": {"family": "scripted"}}


def _shown(script: Script) -> dict[str, Any]:
    return {
        "details": {"family": "scripted"},
        "model_info": {
            "general.architecture": "scripted",
            "scripted.context_length": script.context,
        },
        "capabilities": ["embedding" if script.embeds else "completion"],
    }


@contextlib.contextmanager
def scripted_server(models: dict[str, Script] | None = None) -> Iterator[ScriptedModel]:
    """A scripted server of its own, in a thread, until the block ends."""
    model = ScriptedModel({**MODELS, **(models or {})})
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        await _serve(model, 0, ready.set, stop)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    if not ready.wait(5):
        raise TimeoutError("the scripted model did not start")
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


async def _serve(
    model: ScriptedModel, port: int, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await model.connection(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", port, backlog=1024)
    model.port = server.sockets[0].getsockname()[1]
    ready()
    await stop.wait()
    server.close()
    for task in tuple(connections):
        task.cancel()
    if connections:
        await asyncio.wait(tuple(connections), timeout=2)


@pytest.fixture(scope="session")
def scripted_model() -> Iterator[ScriptedModel]:
    """A scripted model server that all tests may share; ask it something of your own."""
    with scripted_server() as model:
        yield model


def main(argv: list[str]) -> int:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description="A scripted model server for benchmarks.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=40, help="tokens of an answer")
    parser.add_argument("--delay-ms", type=float, default=20, help="between two tokens")
    parser.add_argument("--first-ms", type=float, default=50, help="before the first token")
    given = parser.parse_args(argv)
    tokens = tuple(f" token{n}" for n in range(given.tokens))
    bench = Script(tokens=tokens, first_ms=given.first_ms, delay_ms=given.delay_ms)
    others = {name: script for name, script in MODELS.items() if name != "bench"}
    model = ScriptedModel({"bench": bench, **others})

    def announce() -> None:
        print(json.dumps({"port": model.port, "model": "bench"}), flush=True)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def watch() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch, daemon=True).start()
        await _serve(model, given.port, announce, stop)

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
