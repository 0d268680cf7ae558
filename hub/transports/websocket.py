"""The WebSocket endpoint: who may open one, and the loop that reads it."""

import asyncio
import re
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from hub.faults import Fault
from hub.operations.call import Services
from hub.operations.dispatcher import Dispatcher
from hub.protocol.limits import SESSION_KEY_PATTERN, SUBPROTOCOL
from hub.protocol.session import Event
from hub.transports.asgi import AsgiWriter
from hub.transports.connection import SocketConnection
from hub.transports.seats import House
from hub.transports.wire import ConnectionWriter

SESSION_KEY_HEADER: Final = "Hub-Session-Key"
"""Names the persistent session of a client that shows its token in the handshake too."""

_DEVICE: Final = 400
_SESSION_KEY: Final = re.compile(SESSION_KEY_PATTERN)


class Connections:
    """The open connections of this node."""

    def __init__(self, services: Services) -> None:
        self._all: set[SocketConnection] = set()
        self._left = asyncio.Event()
        self._shut = False
        self._services = services
        services.authority.on_change(self._changed)
        services.resources.on_gone(self._gone)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: SocketConnection) -> None:
        self._all.add(connection)
        self._services.metrics.connections.inc()
        if self._shut:
            connection.told(0.0)

    def remove(self, connection: SocketConnection) -> None:
        self._all.discard(connection)
        self._left.set()
        self._services.metrics.connections.dec()
        connection.close()

    def shut(self) -> Collection[SocketConnection]:
        """The node is going away: whoever comes from now on is told so. Those who are here."""
        self._shut = True
        return list(self._all)

    async def empty(self) -> None:
        """Return when all have left."""
        while self._all:
            self._left.clear()
            await self._left.wait()

    def waiting(self) -> list[int]:
        """The bytes that wait for each connection."""
        return [connection.waiting for connection in self._all]

    def _changed(self, kind: str, identifier: str) -> None:
        channel = f"conversation:{identifier}"
        # The other kinds are of standings, which each login watches.
        if kind == "conversation" and self._services.fanout.follows(channel):
            for connection in list(self._all):
                connection.login.shared(channel)

    def _gone(self, channel: str) -> None:
        if self._services.fanout.follows(channel):
            for connection in list(self._all):
                connection.login.end(channel, "not_found")


class SocketEndpoint:
    """``GET /ws``: an ASGI application. Other things than WebSockets get 426."""

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        origins: Collection[str],
        house: House,
    ) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._origins = frozenset(origins)
        metrics = services.metrics
        self._scheduler = services.outboxes
        self.connections = Connections(services)
        metrics.waiting.sizes.append(self.connections.waiting)
        self._house = house
        # Made once, not for each connection.
        self._ponged = services.metrics.ping_seconds.observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            fault = Fault("invalid_request", f"Open a WebSocket here, subprotocol {SUBPROTOCOL}.")
            response = JSONResponse({"error": fault.body()}, 426, headers={"upgrade": "websocket"})
            await response(scope, receive, send)
            return
        websocket = WebSocket(scope, receive, send)
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        await websocket.accept(SUBPROTOCOL)
        await self._serve(websocket, receive, send)

    def _refusal(self, websocket: WebSocket) -> JSONResponse | None:
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            fault = Fault("invalid_request", f"Offer the subprotocol {SUBPROTOCOL}.")
            return JSONResponse({"error": fault.body()}, 400)
        if websocket.scope["query_string"]:
            # A query string ends up in logs and histories: no place for credentials.
            fault = Fault(
                "invalid_request",
                "No query string, please: send the token in the Authorization header, or as "
                "session.authenticate.",
            )
            return JSONResponse({"error": fault.body()}, 400)
        origin = websocket.headers.get("origin")
        if origin is not None and origin not in self._origins:
            fault = Fault(
                "permission_denied", "This origin may not connect; see HUB_ALLOWED_ORIGINS."
            )
            return JSONResponse({"error": fault.body()}, 403)
        key = websocket.headers.get(SESSION_KEY_HEADER)
        if key is not None and not _SESSION_KEY.fullmatch(key):
            fault = Fault("invalid_request", f"{SESSION_KEY_HEADER}: 1 to 128 visible characters.")
            return JSONResponse({"error": fault.body()}, 400)
        if key is not None and bearer(websocket.headers) is None:
            fault = Fault(
                "invalid_request",
                f"{SESSION_KEY_HEADER} goes with Authorization: Bearer …; without, name the "
                "session_key in session.authenticate.",
            )
            return JSONResponse({"error": fault.body()}, 400)
        return None

    async def _serve(self, websocket: WebSocket, receive: Receive, send: Send) -> None:
        wire = websocket.scope.get("extensions", {}).get("hub.wire")
        writer: ConnectionWriter
        if wire is not None:
            writer = wire
            wire.ponged = self._ponged
        else:
            writer = plain = AsgiWriter(receive, send)
            receive = plain.receive
        client = websocket.client
        connection = SocketConnection(
            self._services,
            self._dispatcher,
            writer,
            self._scheduler,
            house=self._house,
            address=client.host if client else None,
            device=websocket.headers.get("user-agent", "")[:_DEVICE] or None,
        )
        if wire is not None:
            wire.closing = connection.closing
            wire.heard = connection.heard
        self.connections.add(connection)
        try:
            connection.begin()
            token = bearer(websocket.headers)
            key = websocket.headers.get(SESSION_KEY_HEADER)
            if (
                connection.open
                and token is not None
                and not await self._authenticate(connection, token, key)
            ):
                return
            while connection.open:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    connection.closing(message.get("code") or 1005, by="peer")
                    return
                text = message.get("text")
                if text is None:
                    connection.on(Event.BINARY_FRAME)
                    return
                connection.received(text)
        finally:
            self.connections.remove(connection)
            await connection.settled()
            await writer.settled()

    async def _authenticate(
        self, connection: SocketConnection, token: str, session_key: str | None
    ) -> bool:
        try:
            await connection.authenticate(token, session_key)
        except Fault as fault:
            connection.refused(fault)
            return False
        return True


_BEARER = re.compile(r"bearer +([\x21-\x7e]+)", re.IGNORECASE)


def bearer(headers: Headers) -> str | None:
    """The token of an ``Authorization: Bearer …`` header, if there is one."""
    match = _BEARER.fullmatch(headers.get("authorization", "").strip())
    return match[1] if match else None
