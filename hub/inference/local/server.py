"""Ollama's protocol over an engine: the routes of the embedded model server."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hub import __version__
from hub.inference.local.answers import Lines, respond, unless_gone
from hub.inference.local.engine import Finish, Piece
from hub.inference.local.served import Served
from hub.inference.local.wire import (
    BadCall,
    Call,
    ChatCall,
    EmbedCall,
    GenerateCall,
    Message,
    PromptTooLong,
    ShowCall,
    grammar,
    sampling,
    shortened,
)

MAX_BODY: Final = 16 << 20

_CallT = TypeVar("_CallT", ChatCall, GenerateCall, EmbedCall, ShowCall)
_Parts = AsyncGenerator[Piece | Finish, None]


class ModelServer:
    """The endpoints. ``app`` is the ASGI application; it answers ``hosts`` only, so that a web
    page cannot reach it by a name of its own.
    """

    def __init__(self, served: Served, *, hosts: list[str]) -> None:
        self._served = served
        post, get = ["POST"], ["GET"]
        self.app = Starlette(
            routes=[
                Route("/", _running, methods=["GET", "HEAD"]),
                Route("/api/version", _version, methods=get),
                Route("/api/tags", self._tags, methods=get),
                Route("/api/ps", self._ps, methods=get),
                Route("/api/show", self._show, methods=post),
                Route("/api/chat", self._chat, methods=post),
                Route("/api/generate", self._generate, methods=post),
                Route("/api/embed", self._embed, methods=post),
            ],
            exception_handlers={
                BadCall: _bad_call,
                ClientDisconnect: _gone,
                HTTPException: _no_route,
                Exception: _failed,
            },
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        )

    async def _tags(self, request: Request) -> Response:
        return JSONResponse({"models": [self._served.tag()]})

    async def _ps(self, request: Request) -> Response:
        return JSONResponse({"models": [self._served.loaded()]})

    async def _show(self, request: Request) -> Response:
        call = await _read(request, ShowCall)
        self._check(call.model or call.name)
        return JSONResponse(self._served.shown())

    async def _chat(self, request: Request) -> Response:
        call = await _read(request, ChatCall)
        self._accept(call)
        if call.tools:
            raise BadCall(400, f"{self._served.name} does not support tools")
        if any(message.images for message in call.messages):
            raise BadCall(400, f"{self._served.name} does not support images")
        if not call.messages:
            return self._loaded(message={"role": "assistant", "content": ""})
        parts = self._fitting(call, call.messages)

        def shape(piece: Piece) -> dict[str, Any]:
            content = {"content": "" if piece.thinking else piece.text}
            thinking = {"thinking": piece.text} if piece.thinking else {}
            return {"message": {"role": "assistant", **content, **thinking}}

        return await respond(request, call.stream, self._lines(parts, shape, stream=call.stream))

    async def _generate(self, request: Request) -> Response:
        call = await _read(request, GenerateCall)
        self._accept(call)
        if call.images or call.suffix:
            what = "images" if call.images else "insert"
            raise BadCall(400, f"{self._served.name} does not support {what}")
        if not call.prompt:
            return self._loaded(response="")
        if call.raw:
            asked = {"prompt": call.prompt, **self._sampled(call)}
            parts = self._served.engine.generate("raw", asked, limit=call.options.num_ctx)
        else:
            system = [Message("system", call.system)] if call.system else []
            parts = self._fitting(call, [*system, Message("user", call.prompt)])

        def shape(piece: Piece) -> dict[str, Any]:
            thinking = {"thinking": piece.text} if piece.thinking else {}
            return {"response": "" if piece.thinking else piece.text, **thinking}

        return await respond(request, call.stream, self._lines(parts, shape, stream=call.stream))

    async def _embed(self, request: Request) -> Response:
        call = await _read(request, EmbedCall)
        self._check(call.model)
        began = time.monotonic_ns()
        texts = [call.input] if isinstance(call.input, str) else call.input
        if not all(texts):
            raise BadCall(400, "input cannot be empty")
        engine = self._served.engine
        embedding = engine.embed(texts, truncate=call.truncate)
        vectors, tokens = await unless_gone(request.receive, embedding)
        if call.dimensions is not None:
            vectors = [_cut(vector, call.dimensions) for vector in vectors]
        return JSONResponse(
            {
                "model": self._served.name,
                "embeddings": vectors,
                "total_duration": time.monotonic_ns() - began,
                "load_duration": 0,
                "prompt_eval_count": tokens,
            }
        )

    async def _fitting(self, call: Call, messages: list[Message]) -> _Parts:
        """An answer to as many of the latest messages as the context holds, as Ollama does it."""
        while True:
            asked = {
                "messages": [{"role": m.role, "content": m.content} for m in messages],
                **self._sampled(call),
            }
            if isinstance(call.think, bool):
                asked["chat_template_kwargs"] = {"enable_thinking": call.think}
            parts = self._served.engine.generate("chat", asked, limit=call.options.num_ctx)
            try:
                async with contextlib.aclosing(parts):
                    async for part in parts:
                        yield part
                return
            except PromptTooLong as error:
                if not call.truncate:
                    raise
                messages = shortened(messages, error)

    async def _lines(
        self, parts: _Parts, shape: Callable[[Piece], dict[str, Any]], *, stream: bool
    ) -> Lines:
        """The lines of a streamed answer, or the one object of another."""
        began, held = time.monotonic_ns(), {True: "", False: ""}
        name = self._served.name
        async with contextlib.aclosing(parts):
            async for part in parts:
                if isinstance(part, Piece):
                    if stream:
                        yield {"model": name, "created_at": _now(), **shape(part), "done": False}
                    else:
                        held[part.thinking] += part.text
                    continue
                whole = shape(Piece(held[False]))
                if held[True]:
                    whole = _merged(shape(Piece(held[True], thinking=True)), whole)
                yield {
                    "model": name,
                    "created_at": _now(),
                    **whole,
                    "done": True,
                    "done_reason": part.reason,
                    "total_duration": time.monotonic_ns() - began,
                    "load_duration": 0,
                    "prompt_eval_count": part.prompt_tokens,
                    "prompt_eval_duration": part.prompt_ns,
                    "eval_count": part.output_tokens,
                    "eval_duration": part.output_ns,
                }

    def _sampled(self, call: Call) -> dict[str, Any]:
        return {**sampling(call.options, self._served.sampling), **grammar(call.format)}

    def _accept(self, call: Call) -> None:
        self._check(call.model)
        if call.think and not self._served.thinks:
            raise BadCall(400, f'"{self._served.name}" does not support thinking')

    def _check(self, name: str) -> None:
        if not name:
            raise BadCall(400, "model is required")
        if name.removesuffix(":latest") != self._served.name:
            raise BadCall(404, f"model '{name}' not found")

    def _loaded(self, **empty: Any) -> Response:
        done = {"done": True, "done_reason": "load"}
        return JSONResponse({"model": self._served.name, "created_at": _now(), **empty, **done})


async def _read(request: Request, kind: type[_CallT]) -> _CallT:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise BadCall(413, "request body too large")
    if not body:
        raise BadCall(400, "missing request body")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadCall(400, str(error)) from error


def _cut(vector: list[float], dimensions: int) -> list[float]:
    if not 0 < dimensions <= len(vector):
        raise BadCall(400, f"dimensions must be between 1 and {len(vector)}")
    kept = vector[:dimensions]
    length = sum(value * value for value in kept) ** 0.5 or 1.0
    return [value / length for value in kept]


def _merged(thought: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    if "message" in thought:
        return {"message": {**thought["message"], **said["message"]}}
    return {**thought, **said}


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def _running(request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _version(request: Request) -> Response:
    return JSONResponse({"version": __version__})


async def _bad_call(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadCall)
    return JSONResponse({"error": str(error)}, status_code=error.status)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nginx's word for it; nobody reads it


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the model server failed"}, status_code=500)
