"""Request ids over HTTP: the caller's ``X-Request-Id`` or one of ours, in log and answer."""

from collections.abc import MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from hub.telemetry.traces import request_id_of

REQUEST: Final = "hub.request"
"""The scope's key of the request's id, for who answers outside of ``RequestIds``."""


class RequestIds:
    """ASGI middleware: log lines inside carry ``request``, every answer ``x-request-id``."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._application(scope, receive, send)
        request_id = scope[REQUEST] = request_id_of(Headers(scope=scope).get("x-request-id"))

        async def named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with bound_contextvars(request=request_id):
            return await self._application(scope, receive, named)
