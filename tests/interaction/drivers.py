"""Clients as plain as can be, one for each transport, so that a behaviour can be asked through all.

They know the frames of ``hub/protocol/README.md`` and the table of operations, and no code of the
SDK: what they see is what any client sees.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hub.faults import FAULTS
from hub.operations.operation import AnyOperation
from hub.operations.table import OPERATIONS

WITHIN_S: Final = 8.0
"""How long a test waits for what has to come."""

_TRACE_ID: Final = re.compile(rb'"trace_id":"[0-9a-f]{32}"')


class Refused(Exception):
    """An answer that is a fault. ``bytes`` is all of it that a caller sees, but its trace id."""

    def __init__(self, error: Mapping[str, Any], seen: bytes = b"") -> None:
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.reason: str = error["data"]["reason"]
        self.details: dict[str, Any] = error["data"].get("details", {})
        self.trace_id: str = error["data"].get("trace_id", "")
        self.bytes = _TRACE_ID.sub(b'"trace_id":""', seen)
        super().__init__(f"{self.reason}: {self.message}")


class Caller(Protocol):
    """Somebody, on one transport."""

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result. Raises Refused."""


class Socket:
    """A WebSocket client: requests by id, and everything else in the order in which it came."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.order: list[Any] = []
        """The ids of the replies, in the order in which they came."""
        self._heard: list[dict[str, Any]] = []
        self._waiting: dict[Any, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._news = asyncio.Event()
        self._numbers = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for text in self.websocket:
                frame = json.loads(text)
                waiting = self._waiting.pop(frame.get("id"), None)
                if waiting is None:
                    self._heard.append(frame)
                    self._news.set()
                else:
                    self.order.append(frame["id"])
                    if not waiting.done():  # whoever asked may have left
                        seen = text if isinstance(text, bytes) else text.encode()
                        waiting.set_result((frame, seen))
        except ConnectionClosed:
            pass
        finally:
            self._news.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError(f"closed: {self.websocket.close_code}"))
                    waiting.exception()  # which whoever asked may not wait for

    async def send(self, frame: str | bytes | Mapping[str, Any]) -> None:
        """Send a frame as it is."""
        text = json.dumps(frame, ensure_ascii=False) if isinstance(frame, Mapping) else frame
        await self.websocket.send(text)

    async def begin(
        self, method: str, params: Mapping[str, Any] | None = None, id: Any = None
    ) -> "asyncio.Future[tuple[dict[str, Any], bytes]]":
        """Send a request and do not wait for its reply."""
        self._numbers += 1
        number = self._numbers if id is None else id
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        frame = {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params or {})}
        await self.send(frame)
        return waiting

    async def ask(
        self, method: str, params: Mapping[str, Any] | None = None, id: Any = None
    ) -> dict[str, Any]:
        return await self.result(await self.begin(method, params, id))

    async def result(
        self, waiting: "asyncio.Future[tuple[dict[str, Any], bytes]]"
    ) -> dict[str, Any]:
        """The result of what was begun. Raises Refused, ConnectionError."""
        frame, text = await asyncio.wait_for(waiting, WITHIN_S)
        assert frame["jsonrpc"] == "2.0"
        if "error" in frame:
            numbered = b'"id":' + json.dumps(frame["id"]).encode()
            error = frame["error"]
            assert FAULTS[error["data"]["reason"]].code == error["code"]
            raise Refused(error, text.replace(numbered, b'"id":0'))
        result: dict[str, Any] = frame["result"]
        return result

    async def heard(
        self, wanted: Callable[[dict[str, Any]], bool], within: float = WITHIN_S
    ) -> dict[str, Any]:
        """Take the first frame that no request waited for and that is ``wanted``."""
        async with asyncio.timeout(within):
            while True:
                for at, frame in enumerate(self._heard):
                    if wanted(frame):
                        return self._heard.pop(at)
                if self._reader.done():
                    raise ConnectionError(f"closed: {self.websocket.close_code}")
                self._news.clear()
                await self._news.wait()

    async def notice(self, method: str, within: float = WITHIN_S) -> dict[str, Any]:
        """Take the next notice of this name: its params."""
        frame = await self.heard(lambda frame: frame.get("method") == method, within)
        params: dict[str, Any] = frame["params"]
        return params

    async def event(self, kind: str | None = None, within: float = WITHIN_S) -> dict[str, Any]:
        """Take the next event (of this type): ``{channel, epoch, seq, event}``."""

        def wanted(frame: dict[str, Any]) -> bool:
            return frame.get("method") == "event" and (
                kind is None or frame["params"]["event"]["type"] == kind
            )

        params: dict[str, Any] = (await self.heard(wanted, within))["params"]
        return params

    def left(self, method: str) -> list[dict[str, Any]]:
        """The params of the notices of this name that have come and were not taken."""
        return [frame["params"] for frame in self._heard if frame.get("method") == method]

    async def closed(self, within: float = WITHIN_S) -> tuple[int | None, str]:
        """Wait for the close: its code and reason."""
        async with asyncio.timeout(within):
            await self.websocket.wait_closed()
            await self._reader
        return self.websocket.close_code, self.websocket.close_reason or ""


@asynccontextmanager
async def open_socket(
    ws_url: str, token: str | None = None, *, subprotocol: str | None = "agenthub.v1", **more: Any
) -> AsyncIterator[Socket]:
    """A connection; with ``token`` in its handshake. ``more`` goes to ``websockets.connect``."""
    headers = dict(more.pop("headers", {}))
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with connect(
        ws_url,
        additional_headers=headers,
        subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]
        proxy=None,
        compression=None,
        close_timeout=1,
        max_size=None,
        **more,
    ) as websocket:
        socket = Socket(websocket)
        try:
            yield socket
        finally:
            await websocket.close()
            await socket._reader


class RestCaller:
    """Asks by the HTTP mapping of the table of operations."""

    def __init__(self, client: httpx.AsyncClient, token: str | None) -> None:
        self._client = client
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def respond(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The response, whatever it is."""
        http = OPERATIONS[method].http
        assert http is not None, f"{method} is not offered over REST"
        rest = dict(params or {})
        path = http.path.format(**{name: rest.pop(name) for name in http.path_parameters})
        sent: dict[str, Any] = (
            {"json": rest} if http.method in ("POST", "PATCH") else {"params": rest}
        )
        return await self._client.request(
            http.method, path, headers={**self._headers, **(headers or {})}, **sent
        )

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        response = await self.respond(method, params, headers)
        body: dict[str, Any] = response.json()
        if "error" in body:
            raise refused(response)
        http = OPERATIONS[method].http
        assert http is not None
        assert response.status_code == http.status
        return body


def refused(response: httpx.Response) -> Refused:
    """The fault that a response is, which has the status of its kind."""
    error = response.json()["error"]
    kind = FAULTS[error["data"]["reason"]]
    assert (kind.http, kind.code) == (response.status_code, error["code"])
    assert response.headers["x-trace-id"] == error["data"]["trace_id"]
    heads = sorted(
        (name, value)
        for name, value in response.headers.multi_items()
        if name not in ("date", "x-trace-id", "x-request-id")
    )
    return Refused(error, repr((response.status_code, heads)).encode() + response.content)


class Transport(Protocol):
    """A way to ask a hub."""

    def offers(self, operation: AnyOperation) -> bool:
        """Whether the operation can be asked here."""

    async def caller(self, token: str | None) -> Caller:
        """Somebody with this access token, or without any."""


class OverSockets:
    """One connection for each caller."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url.replace("http", "ws", 1) + "/ws"
        self._stack = stack

    def offers(self, operation: AnyOperation) -> bool:
        return operation.socket

    async def caller(self, token: str | None) -> Caller:
        return await self._stack.enter_async_context(open_socket(self._url, token))


class OverRest:
    """One HTTP client for all callers."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._client = httpx.AsyncClient(base_url=url, trust_env=False)
        stack.push_async_callback(self._client.aclose)

    def offers(self, operation: AnyOperation) -> bool:
        return operation.http is not None

    async def caller(self, token: str | None) -> Caller:
        return RestCaller(self._client, token)


TRANSPORTS: Final[Mapping[str, Callable[[str, AsyncExitStack], Transport]]] = {
    "websocket": OverSockets,
    "rest": OverRest,
}
"""Every transport that offers operations."""


async def eventually(ask: Callable[[], Awaitable[bool]], within: float = WITHIN_S) -> None:
    """Wait until ``ask`` answers true. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while not await ask():  # noqa: ASYNC110  # an answer has no event to wait for
            await asyncio.sleep(0.01)
