"""How answers leave the embedded model server: in lines or whole, and only while one listens."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hub.inference.local.wire import BadCall

Lines = AsyncGenerator[dict[str, Any], None]
Made = TypeVar("Made")


class _Stream(Response):
    """An answer line by line; the status waits for the first one. When the client goes, the lines
    are closed, whatever they are waiting for.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._lines):
            with contextlib.suppress(ClientDisconnect):
                await unless_gone(receive, self._send(scope, receive, send))

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._lines)
        except BadCall as error:
            answer = JSONResponse({"error": str(error)}, status_code=error.status)
            return await answer(scope, receive, send)
        kind = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send(_body(first))
        try:
            async for line in self._lines:
                await send(_body(line))
        except BadCall as error:
            await send(_body({"error": str(error)}))
        return await send({"type": "http.response.body", "body": b"", "more_body": False})


async def respond(request: Request, stream: bool, lines: Lines) -> Response:
    if stream:
        return _Stream(lines)
    async with contextlib.aclosing(lines):
        return JSONResponse(await unless_gone(request.receive, anext(lines)))


async def unless_gone(receive: Receive, making: Awaitable[Made]) -> Made:
    """What is made, unless the client goes first: then it is cancelled, and ClientDisconnect is
    raised.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    made, left = asyncio.ensure_future(making), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((made, left), return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            raise ClientDisconnect
        return made.result()
    finally:
        made.cancel()
        left.cancel()
        await asyncio.wait((made, left))


def _body(line: dict[str, Any]) -> dict[str, Any]:
    data = msgspec.json.encode(line) + b"\n"
    return {"type": "http.response.body", "body": data, "more_body": True}
