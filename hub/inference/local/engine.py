"""llama.cpp in this process: a chat instance, an embedding instance made on first use.

It holds the one import of the extra ``local-model``.
"""

import asyncio
import concurrent.futures
import importlib
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from hub.inference.local.gguf import Gguf
from hub.inference.local.wire import BadCall, PromptTooLong

SLOTS: Final = 4
"""Answers generated at once; further requests wait."""

MAX_WAITING: Final = 64
MAX_CONTEXT: Final = 8192

SMALL_BYTES: Final = 300_000_000
"""Below this size of file a second thread slows generation down: the threads meet after every
operation, and the operations are short (135M: 130 tokens/s with one thread, 45 with two that
sleep at the barrier, and a collapse with two that spin on a busy machine)."""

SPIN: Final = "2000"
"""Turns that a thread of OpenMP spins before it sleeps: enough to be there when the other one
comes, too few to burn a shared core."""


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the answer, or of the thinking before it."""

    text: str
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the answer. Counts are tokens, durations nanoseconds."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    prompt_ns: int
    output_tokens: int
    output_ns: int


class Engine:
    """One model, loaded. Making it blocks for as long as loading takes."""

    def __init__(self, model: Gguf) -> None:
        self.model = model
        self.context = min(model.context_length, MAX_CONTEXT)
        self._small = model.size < SMALL_BYTES
        self._server = self._open(context=self.context, slots=SLOTS, embeds=False)
        self._embedder: Any = None
        self._threads = concurrent.futures.ThreadPoolExecutor(SLOTS, "generate")
        self._embed_thread = concurrent.futures.ThreadPoolExecutor(1, "embed")
        self._cancels: set[threading.Event] = set()

    def _open(self, *, context: int, slots: int, embeds: bool) -> Any:
        library = _library()
        params = library.CommonParams()
        params.model.path = str(self.model.path)
        params.n_ctx = context
        params.n_parallel = slots
        params.kv_unified = True
        cores = min(os.cpu_count() or 1, 8)
        params.cpuparams.n_threads = 1 if self._small else cores
        params.cpuparams_batch.n_threads = cores
        # Between two batches of a prompt a cancellation is seen and other answers go on.
        params.n_batch = params.n_ubatch = context if embeds else 64 if self._small else 512
        params.embedding = embeds
        if embeds:
            params.pooling_type = library.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.ctx_shift = False
        params.cache_ram_mib = 0
        params.warmup = False
        params.verbosity = -1
        # It opens a port of its own, whether one wants it or not: nobody shall get in there.
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [secrets.token_urlsafe(32)]
        return library.Server(params)

    async def generate(
        self, kind: Literal["chat", "raw"], request: dict[str, Any], *, limit: int | None = None
    ) -> AsyncGenerator[Piece | Finish, None]:
        """Pieces, then one Finish. ``limit`` is a context smaller than the loaded one, in tokens.

        Closing the generator, or cancelling its task, stops the generation. Raises BadCall.
        """
        if len(self._cancels) >= SLOTS + MAX_WAITING:
            raise BadCall(503, "server busy, please try again. maximum pending requests exceeded")
        server = self._server
        handler = server.handle_chat_completions if kind == "chat" else server.handle_completions
        loop, chunks = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | Exception]()
        cancel = threading.Event()
        self._cancels.add(cancel)
        asked = {**request, "stream": True, "timings_per_token": True, "return_progress": True}
        work = self._threads.submit(_run, handler, asked, _Relay(loop, chunks, cancel))
        room = min(limit or self.context, self.context)
        try:
            while True:
                chunk = await chunks.get()
                if isinstance(chunk, Exception):
                    raise BadCall(400, str(chunk)) from chunk
                for part in _parts(chunk, room):
                    yield part
                    if isinstance(part, Finish):
                        return
        finally:
            cancel.set()
            work.cancel()
            self._cancels.discard(cancel)

    async def embed(self, texts: list[str], *, truncate: bool) -> tuple[list[list[float]], int]:
        """A vector for each text, of length 1, and the tokens that were read. Raises BadCall."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._embed_thread, self._embed, texts, truncate)

    def _embed(self, texts: list[str], truncate: bool) -> tuple[list[list[float]], int]:
        if self._embedder is None:
            # A text is read in one batch, which takes the memory and the time of all its tokens.
            context = min(self.model.context_length, 512 if self._small else 2048)
            self._embedder = self._open(context=context, slots=1, embeds=True)
        vectors, tokens = [], 0
        for text in texts:
            vector, read = self._embed_one(text, truncate)
            vectors.append(vector)
            tokens += read
        return vectors, tokens

    def _embed_one(self, text: str, truncate: bool) -> tuple[list[float], int]:
        while True:
            answer = self._embedder.handle_embeddings({"input": [text]})
            error = answer.get("error")
            if error is None:
                return answer["data"][0]["embedding"], int(answer["usage"]["prompt_tokens"])
            if "too large" not in error["message"]:
                raise BadCall(int(error.get("code", 500)), error["message"])
            if not truncate:
                raise BadCall(400, "the input length exceeds the context length")
            text = text[: len(text) * 3 // 4]

    def stop(self) -> None:
        """End all generations; each notices within a token."""
        for cancel in tuple(self._cancels):
            cancel.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._embed_thread.shutdown(wait=False, cancel_futures=True)


class _Relay:
    """Takes chunks from a thread of the engine to the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chunks: "asyncio.Queue[dict[str, Any] | Exception]",
        cancel: threading.Event,
    ) -> None:
        self._loop, self._chunks, self.cancel = loop, chunks, cancel

    def __call__(self, chunk: dict[str, Any] | Exception) -> bool:
        """Whether to stop."""
        try:
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)
        except RuntimeError:  # the loop is closed: the process ends
            return True
        return self.cancel.is_set()


def _run(handler: Callable[..., None], request: dict[str, Any], relay: _Relay) -> None:
    if relay.cancel.is_set():
        return
    try:
        handler(request, relay)
    except Exception as error:  # the library's, whatever they are: told to who asked
        relay(error)


def _parts(chunk: dict[str, Any], limit: int) -> list[Piece | Finish]:
    """What a chunk of the engine holds; chunks are OpenAI's with timings added."""
    if error := chunk.get("error"):
        if error.get("type") == "exceed_context_size_error":
            raise PromptTooLong(int(error["n_prompt_tokens"]), limit)
        raise BadCall(int(error.get("code", 500)), str(error.get("message")))
    progress = chunk.get("prompt_progress")
    if progress is not None:
        if progress["total"] >= limit:
            raise PromptTooLong(progress["total"], limit)
        return []
    found: list[Piece | Finish] = []
    timings, reason = chunk.get("timings"), None
    for choice in chunk.get("choices", ()):
        reason = choice.get("finish_reason")
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content"):
            found.append(Piece(thought, thinking=True))
        if text := delta.get("content") or choice.get("text"):
            found.append(Piece(text))
    if timings is None:
        return found
    prompt, output = timings["cache_n"] + timings["prompt_n"], timings["predicted_n"]
    if reason is None and prompt + output >= limit:
        reason = "length"
    if reason is not None:
        found.append(
            Finish(
                reason="length" if reason == "length" else "stop",
                prompt_tokens=prompt,
                prompt_ns=int(timings["prompt_ms"] * 1e6),
                output_tokens=output,
                output_ns=int(timings["predicted_ms"] * 1e6),
            )
        )
    return found


def _library() -> Any:
    # OpenMP reads this when it is loaded, which the import does.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    return importlib.import_module("xllamacpp")
