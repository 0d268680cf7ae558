"""The floor of a flood at the door: a server of its own that reads what it is sent and refuses it.

What the sockets of the hub feel of it is what they would feel of as much work next door: of clients
that send and a server that answers on the same cores, and of nothing in the hub.
"""

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.child import obey
from tests.bench.servers.listening import bare, loopback, serving


async def refuse(request: Request) -> JSONResponse:
    await request.json()
    return JSONResponse({"error": "no"}, 400)


async def main() -> None:
    listening, port = loopback()
    application = Starlette(routes=[Route("/v1/auth/login", refuse, methods=["POST"])])
    async with serving(bare(application), listening):
        await obey({"port": port}, {})


if __name__ == "__main__":
    uvloop.run(main())
