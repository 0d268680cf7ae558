"""The floor of a token's way: a model's stream read on a raw transport, parsed, and appended.

The line of JSON is parsed with orjson, the event is made with orjson, and the hub's backplane
appends it. There is no run, no lease, no timeout, nothing that is kept, and nobody who subscribes.
"""

import asyncio
import json
import os
from typing import cast

import orjson
import uvloop

from hub.backplane.choice import open_backplane
from hub.backplane.interface import Backplane
from hub.events.vocabulary import text_content
from hub.ids import new_id
from tests.bench.child import obey


class Stream(asyncio.Protocol):
    """One answer of the model."""

    def __init__(self, backplane: Backplane, request: bytes) -> None:
        self._backplane = backplane
        self._request = request
        self._channel = f"conversation:{new_id('c')}"
        self._message = new_id("m")
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._appending: set[asyncio.Task[object]] = set()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports do not inherit.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            # Between them are the head and the sizes of the chunks.
            if line.startswith(b"{"):
                self._line(line)

    def _line(self, line: bytes) -> None:
        said = orjson.loads(line)
        if said["done"]:
            assert self._transport is not None
            self._transport.close()
            return
        event = text_content(self._message, said["message"]["content"])
        task = asyncio.ensure_future(self._backplane.append(self._channel, event))
        self._appending.add(task)
        task.add_done_callback(self._appending.discard)

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)


async def main() -> None:
    backplane = open_backplane(os.environ.get("HUB_REDIS_URL"), new_id("n"))
    await backplane.start()

    async def read(port: int, model: str, content: str, streams: int) -> None:
        """Ask so many times at once, and read all the answers to their ends."""
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": model, "messages": messages, "stream": True})
        head = f"POST /api/chat HTTP/1.1\r\nHost: model\r\nContent-Length: {len(body)}\r\n\r\n"
        request = (head + body).encode()
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(streams):
            _, stream = await loop.create_connection(
                lambda: Stream(backplane, request), "127.0.0.1", port
            )
            made.append(stream)
            await asyncio.sleep(0.01)  # so that they are not in step
        await asyncio.gather(*(stream.ended for stream in made))

    await obey({}, {"read": read})
    await backplane.close()


if __name__ == "__main__":
    uvloop.run(main())
