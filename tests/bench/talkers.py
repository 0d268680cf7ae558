"""Talkers: a child with clients that send a message, read the answer to its end, and send again.

``direct`` asks the model server the same without the hub: what that takes is not the hub's doing.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

import uvloop

from tests.bench.child import obey
from tests.bench.socket import Socket, open_sockets

FIRST: Final = b'"TEXT_MESSAGE_CONTENT"'
ENDED: Final = b'"RUN_FINISHED"'
FAILED: Final = b'"RUN_ERROR"'
PAUSE_S: Final = 0.1
"""Up to so long a talker waits before its next message, so that they do not fall into step."""

Ask = Callable[[], Awaitable[tuple[float, float, float]]]
"""One exchange: seconds to the acknowledgement, to the first token, and to the end."""


Told = dict[str, list[Any]]
"""``samples`` of exchanges, and the ``failures`` of those that were answered with an error."""


class Failed(Exception):
    """The hub answered with an error; the message is its frame."""


class Talker:
    """A client of the hub with a conversation of its own."""

    def __init__(self, socket: Socket, conversation_id: str, content: str) -> None:
        self._socket = socket
        self._conversation_id = conversation_id
        self._content = content
        self._numbers = count(10)
        self._acknowledged = self._first = 0.0
        self._ended: asyncio.Future[float] | None = None
        socket.heard = self._heard

    async def ask(self) -> tuple[float, float, float]:
        self._acknowledged = self._first = 0.0
        self._ended = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        params = {
            "conversation_id": self._conversation_id,
            "client_message_id": str(number),
            "content": self._content,
        }
        request = {"jsonrpc": "2.0", "id": number, "method": "message.send", "params": params}
        text = json.dumps(request)
        began = time.perf_counter()
        self._socket.send(text)
        ended = await self._ended
        return self._acknowledged - began, self._first - began, ended - began

    def _heard(self, payload: bytes) -> None:
        if not self._first and FIRST in payload:
            self._first = time.perf_counter()
        elif b'"result"' in payload[:60]:
            self._acknowledged = time.perf_counter()
        elif self._ended is None or self._ended.done():
            return
        elif ENDED in payload:
            self._ended.set_result(time.perf_counter())
        elif FAILED in payload or b'"error"' in payload[:60]:
            self._ended.set_exception(Failed(payload.decode()))


class Talkers:
    """The clients of the hub."""

    def __init__(self) -> None:
        self._talkers: list[Talker] = []

    async def connect(
        self, port: int, tokens: list[str], conversations: list[str], content: str
    ) -> None:
        """A socket for each token, subscribed to the conversation beside it."""
        sockets = await open_sockets(
            port, "/ws", len(tokens), subprotocol="agenthub.v1", tokens=tokens
        )
        for socket, conversation in zip(sockets, conversations, strict=True):
            params = {"channel": f"conversation:{conversation}"}
            subscribe = {"jsonrpc": "2.0", "id": 1, "method": "channel.subscribe", "params": params}
            socket.send(json.dumps(subscribe))
            self._talkers.append(Talker(socket, conversation, content))

    async def talk(self, seconds: float, stagger: float) -> Told:
        """All of them, for so long; started over ``stagger`` seconds."""
        return await _repeat([talker.ask for talker in self._talkers], seconds, stagger)


async def direct(
    *, port: int, model: str, content: str, clients: int, seconds: float, stagger: float
) -> Told:
    """So many clients of the model server itself, on raw connections."""
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": content}], "stream": True}
    )
    head = f"POST /api/chat HTTP/1.1\r\nHost: model\r\nContent-Length: {len(body)}\r\n\r\n"
    request = (head + body).encode()

    async def asker() -> Ask:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)

        async def ask() -> tuple[float, float, float]:
            began = time.perf_counter()
            writer.write(request)
            await reader.readuntil(b'"content"')
            first = time.perf_counter()
            await reader.readuntil(b"\r\n0\r\n\r\n")
            return 0.0, first - began, time.perf_counter() - began

        return ask

    asks = [await asker() for _ in range(clients)]
    return await _repeat(asks, seconds, stagger)


async def _repeat(asks: list[Ask], seconds: float, stagger: float) -> Told:
    """Each asks again and again until the time is over; what began in the stagger is left out."""
    random.seed(7)
    samples: list[tuple[float, float, float]] = []
    failures: list[str] = []
    start = time.perf_counter()

    async def loop(number: int, ask: Ask) -> None:
        await asyncio.sleep(stagger * number / len(asks))
        while (began := time.perf_counter() - start) < stagger + seconds:
            try:
                sample = await ask()
            except Failed as failure:
                failures.append(str(failure))
            else:
                if began >= stagger:
                    samples.append(sample)
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    await asyncio.gather(*(loop(number, ask) for number, ask in enumerate(asks)))
    return {"samples": samples, "failures": failures}


async def main() -> None:
    talkers = Talkers()
    commands: dict[str, Callable[..., Awaitable[Any]]] = {
        "connect": talkers.connect,
        "talk": talkers.talk,
        "direct": direct,
    }
    await obey({}, commands)


if __name__ == "__main__":
    uvloop.run(main())
