"""The documents derived from the table of operations, as they are served."""

from functools import cache
from typing import NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from hub.operations.table import OPERATIONS
from hub.transports.asyncapi import asyncapi
from hub.transports.openapi import openapi
from hub.transports.reference import page, reference
from hub.transports.rest import json_response


class _Documents(NamedTuple):
    openapi: bytes
    asyncapi: bytes
    docs: str


@cache
def _documents() -> _Documents:
    """Made when the hub starts, since a tenth of a second is too long for a loop that streams; and
    once in a process, since they are the same for every hub in it.
    """
    return _Documents(
        orjson.dumps(openapi(OPERATIONS)),
        orjson.dumps(asyncapi(OPERATIONS)),
        page(reference(OPERATIONS)),
    )


def document_routes() -> list[BaseRoute]:
    """``/openapi.json``, ``/asyncapi.json`` and ``/docs``."""
    made = _documents()

    async def openapi_json(request: Request) -> Response:
        return json_response(made.openapi, 200)

    async def asyncapi_json(request: Request) -> Response:
        return json_response(made.asyncapi, 200)

    async def docs(request: Request) -> Response:
        return HTMLResponse(made.docs)

    return [
        Route("/openapi.json", openapi_json),
        Route("/asyncapi.json", asyncapi_json),
        Route("/docs", docs),
    ]
