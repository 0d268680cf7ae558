"""Ollama, and whatever speaks its protocol, as a ``ModelClient``, on the official package."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import ollama
import orjson
import pydantic
import structlog

from hub.faults import Fault
from hub.inference.interface import (
    ChatPart,
    ChatRequest,
    ModelInfo,
)
from hub.inference.local.extra import STAND_IN_KEY
from hub.inference.ollama_answer import Answer, NotOllama
from hub.inference.patience import Patience
from hub.inference.plain_http import BODY, Body, PlainHttp

USUAL_CONTEXT: Final = 8192
"""Tokens of context asked for when the model does not say. More costs the server memory."""

CONNECT_S: Final = 5.0
CATALOGUE_S: Final = 10.0
END_S: Final = 1.0
"""How long the end of an answer's body is waited for once the answer is whole."""
_SHOWN_AT_ONCE: Final = 4

_NOTHING: Final = httpx.ByteStream(b"")

_BROKEN = (
    httpx.HTTPError,
    httpx.StreamError,
    ConnectionError,
    json.JSONDecodeError,
    pydantic.ValidationError,
    NotOllama,
)
"""What the package raises for a server that is not there, breaks off, or talks nonsense."""

_log = structlog.get_logger(__name__)


class _Api(ollama.AsyncClient):
    """The package's client, and answers as bytes; ``hub.inference.ollama_answer`` says why."""

    async def answer(self, body: dict[str, Any]) -> httpx.Response:
        """An answer of which the head has come. Close it. Raises as the package's ``chat``."""
        client: httpx.AsyncClient = self._client
        request = client.build_request(
            "POST",
            "/api/chat",
            content=orjson.dumps({**body, "stream": True}),
            headers={"Accept-Encoding": "identity"},
        )
        response = await client.send(request, stream=True)
        if not response.is_success:
            async with _closing(response):
                await response.aread()
            raise ollama.ResponseError(response.text, response.status_code)
        return response


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
        self._api = _Api(host=host, timeout=httpx.Timeout(None, connect=CONNECT_S), **_way_to(host))

    @property
    def bare_host(self) -> str:
        """The URL without credentials, fit to be shown."""
        return _bare(self.host)

    @property
    def has_credentials(self) -> bool:
        """Whether it is asked as somebody, by the URL or by the package's OLLAMA_API_KEY."""
        client: httpx.AsyncClient = self._api._client
        return "@" in urlsplit(self.host).netloc or "authorization" in client.headers

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatPart, None]:
        """Stream an answer; see ``ModelClient.chat``."""
        self._refuse_when_closed()
        self.active += 1
        answer, patience = Answer(), Patience()
        clock, bound = asyncio.get_running_loop().time, self._first_token_s
        due = clock() + bound
        try:
            with patience.until(due):
                response = await self._api.answer(self._body(request))
            async with _closing(response):
                read = _reading(response)
                while True:
                    with patience.until(due):
                        data = await read()
                    self.trouble = None
                    for part in answer.feed(data) if data else answer.end():
                        yield part
                    if answer.failure is not None:
                        raise answer.failure
                    if not data:
                        break
                    # Reading on to the body's end lets the connection be used again.
                    bound = END_S if answer.done else self._next_token_s
                    due = clock() + bound
        except TimeoutError:
            if not answer.done:
                raise self._slow(bound, request.model) from None
        except ollama.ResponseError as error:
            raise self._refused(error, request.model) from error
        except _BROKEN as error:
            if not answer.done:
                raise self._away(error) from error
        finally:
            patience.close()
            self.active -= 1
        if not answer.done:
            # ollama#17118: a server that fails can end its answer as if it were whole.
            raise Fault(
                "model_unavailable",
                "The model server ended its answer without finishing it. Retry; if it "
                "happens again, look at the model server's log.",
            )

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        messages = [{"role": said.role, "content": said.content} for said in request.messages]
        body = {"model": request.model, "messages": messages, "options": self._options(request)}
        return body if request.format is None else {**body, "format": request.format}

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
        self.learn(found)
        self.trouble = None
        return found

    def learn(self, models: Iterable[ModelInfo]) -> None:
        """Know what the server has as if it had been asked: another node was told."""
        self._contexts = {info.name: info.context_length for info in models}

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
                digest=listed.digest or "",
            )
            self._shown[key] = info if chats else None
        return self._shown[key]

    async def answers(self, within_s: float) -> bool:
        """Whether a model server answers at this host within ``within_s`` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._api.list()
        except (ollama.ResponseError, TimeoutError, *_BROKEN) as error:
            self._note(error)
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
        return Fault("model_unavailable", self._note(error))

    def _note(self, error: Exception) -> str:
        """The trouble with the server, and what to do about it."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | ConnectionError):
            what = "Nothing answers there: start it"
        elif isinstance(error, json.JSONDecodeError | pydantic.ValidationError | NotOllama):
            what = "What answers there does not speak Ollama's protocol: correct OLLAMA_HOST"
        else:
            what = "The connection broke: see whether it still runs"
        self.trouble = f"The model server at {self.bare_host} is not available. {what}, then retry."
        return self.trouble

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


@contextlib.asynccontextmanager
async def _closing(response: httpx.Response) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await response.aclose()
        # httpx lays a circle around it, which a garbage collection would have to find.
        response.stream = _NOTHING


def _reading(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    """Gives more of the body at each call, and nothing when it is over."""
    body = response.extensions.get(BODY)
    if isinstance(body, Body) and "content-encoding" not in response.headers:
        return body.read
    pieces = response.aiter_bytes()
    return lambda: anext(pieces, b"")


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
