"""Ollama, and whatever speaks its protocol, as a ``ModelClient``, on the official package."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx
import ollama
import pydantic
import structlog

from hub.faults import Fault
from hub.inference.interface import (
    ChatDone,
    ChatPart,
    ChatRequest,
    ModelInfo,
    ReasoningDelta,
    TextDelta,
)
from hub.inference.local.extra import STAND_IN_KEY
from hub.inference.plain_http import PlainHttp

USUAL_CONTEXT: Final = 8192
"""Tokens of context asked for when the model does not say. More costs the server memory."""

CONNECT_S: Final = 5.0
CATALOGUE_S: Final = 10.0
_SHOWN_AT_ONCE: Final = 4

_BROKEN = (
    httpx.HTTPError,
    httpx.StreamError,
    ConnectionError,
    json.JSONDecodeError,
    pydantic.ValidationError,
)
"""What the package raises for a server that is not there, breaks off, or talks nonsense."""

_log = structlog.get_logger(__name__)


class OllamaClient:
    """The model server at ``host`` (a URL).

    ``first_token_s`` bounds the wait for an answer's first part, ``next_token_s`` that between two
    parts; both in seconds. ``provider`` is what the catalogue calls this server.
    """

    def __init__(
        self, host: str, *, first_token_s: float, next_token_s: float, provider: str = "ollama"
    ) -> None:
        self.host = host
        self.provider = provider
        self.active = 0
        """Answers being streamed now."""
        self.trouble: str | None = None
        """Why the server could not be reached when it was last asked; None if it could."""
        self._closed = False
        self._first_token_s = first_token_s
        self._next_token_s = next_token_s
        self._shown: dict[str, ModelInfo | None] = {}
        self._contexts: dict[str, int] = {}
        self._api = ollama.AsyncClient(
            host=host, timeout=httpx.Timeout(None, connect=CONNECT_S), **_way_to(host)
        )

    @property
    def bare_host(self) -> str:
        """The URL without credentials, fit to be shown."""
        return _bare(self.host)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatPart, None]:
        """Stream an answer; see ``ModelClient.chat``."""
        self._refuse_when_closed()
        self.active += 1
        try:
            async with contextlib.aclosing(self._parts(request)) as parts:
                async for part in parts:
                    yield part
        except ollama.ResponseError as error:
            raise self._refused(error, request.model) from error
        except _BROKEN as error:
            raise self._away(error) from error
        finally:
            self.active -= 1

    async def _parts(self, request: ChatRequest) -> AsyncGenerator[ChatPart, None]:
        stream = await self._api.chat(
            request.model,
            [{"role": message.role, "content": message.content} for message in request.messages],
            stream=True,
            format=request.format,
            options=self._options(request),
        )
        # Annotated as an iterator, it is a generator; only closing it ends the generation.
        stream = cast("AsyncGenerator[ollama.ChatResponse, None]", stream)
        patience, done = self._first_token_s, False
        async with contextlib.aclosing(stream):
            while True:
                try:
                    async with asyncio.timeout(patience):
                        part = await anext(stream)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    if done:
                        break
                    raise self._slow(patience, request.model) from None
                if done:
                    continue
                self.trouble = None
                patience, message = self._next_token_s, part.message
                if message.thinking:
                    yield ReasoningDelta(message.thinking)
                if message.content:
                    yield TextDelta(message.content)
                if part.done:
                    # Reading on to the body's end lets the connection be used again.
                    patience, done = 1.0, True
                    yield ChatDone(
                        "length" if part.done_reason == "length" else "stop",
                        part.prompt_eval_count or 0,
                        part.eval_count or 0,
                    )
        if not done:
            # ollama#17118: a server that fails can end its answer as if it were whole.
            raise Fault(
                "model_unavailable",
                "The model server ended its answer without finishing it. Retry; if it "
                "happens again, look at the model server's log.",
            )

    def _options(self, request: ChatRequest) -> dict[str, Any]:
        # A server left to itself cuts a long prompt at a context of its own choosing, silently.
        context = self._contexts.get(request.model)
        return {**({"num_ctx": context} if context else {}), **request.options}

    async def models(self) -> tuple[ModelInfo, ...]:
        """The server's chat models, in its order. Raises Fault("model_unavailable")."""
        self._refuse_when_closed()
        try:
            async with asyncio.timeout(CATALOGUE_S):
                listed = (await self._api.list()).models
                gate = asyncio.Semaphore(_SHOWN_AT_ONCE)
                shown = await asyncio.gather(*(self._describe(item, gate) for item in listed))
        except (ollama.ResponseError, TimeoutError, *_BROKEN) as error:
            raise self._away(error) from error
        found = tuple(info for info in shown if info is not None)
        self._contexts = {info.name: info.context_length for info in found}
        self.trouble = None
        return found

    async def _describe(
        self, listed: ollama.ListResponse.Model, gate: asyncio.Semaphore
    ) -> ModelInfo | None:
        """None for a model that does not chat, or that cannot be shown."""
        name = listed.model or ""
        key = f"{name} {listed.digest}"
        if key not in self._shown:
            async with gate:
                try:
                    shown = await self._api.show(name)
                except (ollama.ResponseError, pydantic.ValidationError) as error:
                    _log.warning("model_not_shown", model=name, error=str(error))
                    return None
            facts = shown.modelinfo or {}
            chats = shown.capabilities is None or "completion" in shown.capabilities
            info = ModelInfo(
                name=name,
                provider=self.provider,
                context_length=_context_length(facts, shown.parameters),
                size_bytes=listed.size,
                stand_in=facts.get(STAND_IN_KEY) is True,
            )
            self._shown[key] = info if chats else None
        return self._shown[key]

    async def answers(self, within_s: float) -> bool:
        """Whether a model server answers at this host within ``within_s`` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._api.list()
        except (ollama.ResponseError, TimeoutError, *_BROKEN):
            return False
        self.trouble = None
        return True

    async def close(self) -> None:
        """Close connections; answers that stream now break off. Idempotent."""
        self._closed = True
        await self._api.close()  # type: ignore[no-untyped-call]

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Fault("model_unavailable", "The hub is closing its model server. Retry later.")

    def _slow(self, seconds: float, model: str) -> Fault:
        return Fault(
            "timeout",
            f'The model "{model}" gave nothing for {seconds:g} s. Retry, use a smaller model, or '
            "raise HUB_MODEL_FIRST_TOKEN_TIMEOUT or HUB_MODEL_NEXT_TOKEN_TIMEOUT.",
        )

    def _away(self, error: Exception) -> Fault:
        _log.warning("model_server_away", host=self.bare_host, error=repr(error))
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | ConnectionError):
            what = "Nothing answers there: start it"
        elif isinstance(error, json.JSONDecodeError | pydantic.ValidationError):
            what = "What answers there does not speak Ollama's protocol: correct OLLAMA_HOST"
        else:
            what = "The connection broke: see whether it still runs"
        self.trouble = f"The model server at {self.bare_host} is not available. {what}, then retry."
        return Fault("model_unavailable", self.trouble)

    def _refused(self, error: ollama.ResponseError, model: str) -> Fault:
        _log.warning("model_server_refused", status=error.status_code, error=error.error)
        if error.status_code == httpx.codes.NOT_FOUND:
            if self.provider == "ollama":
                advice = f"Run `ollama pull {model}`, or choose another model."
            else:
                advice = "Choose another model."
            return Fault("model_unavailable", f'There is no model "{model}". {advice}')
        words = re.sub(r"\S*[/\\]\S*", "…", str(error.error))[:200]
        where = "while answering" if error.status_code < 0 else f"with HTTP {error.status_code}"
        return Fault(
            "model_unavailable",
            f'The model server failed {where}: "{words}". Retry; if it happens again, look at '
            "the model server's log.",
        )


def _context_length(facts: Mapping[str, Any], parameters: str | None) -> int:
    """Tokens of context to use: what the model file sets, else what it was trained for, bounded."""
    set_to = re.search(r"(?m)^num_ctx\s+(\d+)", parameters or "")
    if set_to:
        return int(set_to[1])
    trained = facts.get(f"{facts.get('general.architecture')}.context_length")
    return min(trained, USUAL_CONTEXT) if isinstance(trained, int) else USUAL_CONTEXT


def _way_to(host: str) -> dict[str, Any]:
    """How httpx gets there."""
    if urlsplit(host).scheme == "http":
        return {"transport": PlainHttp(), "trust_env": False}
    # Not httpx's limit of 100 connections, which would queue the 101st run unseen.
    return {"limits": httpx.Limits(max_connections=None, max_keepalive_connections=32)}


def _bare(host: str) -> str:
    """The URL without credentials."""
    parts = urlsplit(host)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
