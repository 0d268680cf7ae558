"""How a cell is asked: over few connections, with as little beside the request as can be."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, Self
from urllib.parse import quote, urlencode

from hub.operations.table import OPERATIONS
from tests.interaction.drivers import Socket

_ASIDE: Final = re.compile(
    rb'"trace_id":"[0-9a-f]{32}"|^(date|x-trace-id|x-request-id):.*\r\n', re.MULTILINE | re.I
)
"""What differs between two answers that are alike."""
EVENTS: Final = "channel.events"
"""Server-sent events: offered over HTTP, beside the operations."""


class Answer(NamedTuple):
    """``said``: ``done``, or the reason and the message of a fault. ``seen``: all its bytes, but
    for the trace id.
    """

    said: str
    seen: bytes


class Asker(Protocol):
    """Somebody, on one connection."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> Answer:
        """Its answer."""


class OverWebSocket:
    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def ask(self, method: str, params: Mapping[str, Any]) -> Answer:
        frame, text = await (await self._socket.begin(method, params))
        numbered = b'"id":' + json.dumps(frame["id"]).encode()
        return _answer(frame, text.replace(numbered, b'"id":0', 1))


class OverHttp:
    """One HTTP/1.1 connection that is kept open, and opened again after a stream."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self._host, self._port = host, port
        bearer = f"authorization: Bearer {token}\r\n" if token else ""
        self._heads = f"host: {host}:{port}\r\n{bearer}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._close()

    async def ask(self, method: str, params: Mapping[str, Any]) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(self._request(method, dict(params)))
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"^content-length: (\d+)", head, re.MULTILINE | re.I)
        if length is None:  # a stream has begun: it is let in
            self._close()
            return Answer("done", head)
        body = await reader.readexactly(int(length[1]))
        return _answer(json.loads(body), head + body)

    def _request(self, method: str, params: dict[str, Any]) -> bytes:
        verb, path = "GET", "/v1/channels/{channel}/events"
        names: tuple[str, ...] = ("channel",)
        if method != EVENTS:
            http = OPERATIONS[method].http
            assert http is not None
            verb, path, names = http.method, http.path, http.path_parameters
        path = path.format(**{name: quote(params.pop(name), safe="") for name in names})
        if verb not in ("POST", "PATCH"):
            query = f"?{urlencode(params)}" if params else ""
            return f"{verb} {path}{query} HTTP/1.1\r\n{self._heads}\r\n".encode()
        body = json.dumps(params)
        kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{verb} {path} HTTP/1.1\r\n{self._heads}{kind}\r\n{body}".encode()

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _answer(body: Mapping[str, Any], seen: bytes) -> Answer:
    error = body.get("error")
    said = f"{error['data']['reason']}: {error['message']}" if error else "done"
    return Answer(said, _ASIDE.sub(b"", seen))
