"""Soakers: a child with clients that let runs go on and on, and lose their connections meanwhile.

One asks again at once, the others after a while of their own, so that one to all of them run; or,
in haste, all of them at once.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

import uvloop

from tests.bench.child import obey
from tests.bench.socket import Refused, Socket, open_sockets

ANSWERS: Final = 5
"""Messages in a conversation, before it is deleted for another."""
CUT: Final = 0.5
"""How often an answer is interrupted by a lost connection."""
PAUSE_S: Final = 6.0
CUT_WITHIN_S: Final = 1.0
"""How long after an answer's first token, at most, the connection is lost."""
WITHIN_S: Final = 60.0

_PLACE: Final = re.compile(rb'"epoch":"([^"]*)","seq":(\d+)')


class Soaker:
    """A client with one conversation at a time. ``pause_s``: before it asks again, at most;
    ``cut_s``: after a first token, at most, before it loses its connection.
    """

    def __init__(self, port: int, token: str, model: str, *, pause_s: float, cut_s: float) -> None:
        self._port = port
        self._token = token
        self._model = model
        self._pause_s = pause_s
        self._cut_s = cut_s
        self._numbers = count(1)
        self._socket: Socket | None = None
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._at: dict[str, Any] | None = None
        self._speaking, self._ended = asyncio.Event(), asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def go_on(self) -> None:
        """Until it is cancelled."""
        await self._connect()
        while True:
            try:
                async with asyncio.timeout(WITHIN_S * ANSWERS):
                    await self._converse()
                self.counts["conversations"] += 1
            except (Refused, TimeoutError, OSError) as failure:
                self.counts[f"failed: {str(failure)[:200] or type(failure).__name__}"] += 1
                await asyncio.sleep(1.0)
                await self._connect()

    async def _converse(self) -> None:
        made = await self._call("conversation.create", model=self._model)
        where = {"channel": f"conversation:{made['id']}"}
        self._at = None
        await self._call("channel.subscribe", **where)
        for _ in range(ANSWERS):
            self._speaking.clear()
            self._ended.clear()
            await self._call(
                "message.send",
                conversation_id=made["id"],
                client_message_id=str(next(self._numbers)),
                content="Why is the sky blue?",
            )
            await self._speaking.wait()
            if random.random() < CUT:
                await asyncio.sleep(random.uniform(0, self._cut_s))
                await self._connect()
                resumed = await self._call("channel.subscribe", **where, since=self._at)
                self.counts["resumed" if resumed["recovered"] else "not resumed"] += 1
            await self._ended.wait()
            self.counts["answers"] += 1
            await asyncio.sleep(random.uniform(0, self._pause_s))
        await self._call("conversation.delete", conversation_id=made["id"])

    async def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._replies.clear()
        [socket] = await open_sockets(
            self._port, "/ws", 1, subprotocol="agenthub.v1", tokens=[self._token]
        )
        socket.heard = self._heard
        self._socket = socket

    async def _call(self, method: str, **params: Any) -> Any:
        assert self._socket is not None
        number = next(self._numbers)
        self._replies[number] = asyncio.get_running_loop().create_future()
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self._socket.send(json.dumps(request))
        async with asyncio.timeout(WITHIN_S):
            return await self._replies[number]

    def _heard(self, payload: bytes) -> None:
        if b'"method":"event"' in payload[:40]:
            self._event(payload)
            return
        message = json.loads(payload)
        reply = self._replies.pop(message.get("id", 0), None)
        if reply is not None and "error" in message:
            reply.set_exception(Refused(json.dumps(message["error"])))
        elif reply is not None:
            reply.set_result(message["result"])

    def _event(self, payload: bytes) -> None:
        found = _PLACE.search(payload, 0, 300)
        assert found is not None, payload
        self._at = {"epoch": found[1].decode(), "seq": int(found[2])}
        if b'"TEXT_MESSAGE_CONTENT"' in payload:
            self._speaking.set()
        elif b'"RUN_FINISHED"' in payload or b'"RUN_ERROR"' in payload:
            self.counts["run errors"] += b'"RUN_ERROR"' in payload
            self._speaking.set()
            self._ended.set()


class Soakers:
    """All of them."""

    def __init__(self) -> None:
        self._all: list[Soaker] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, port: int, tokens: list[str], model: str, haste: bool) -> None:
        pause_s, cut_s = (0.0, 0.0) if haste else (PAUSE_S, CUT_WITHIN_S)
        pauses = [0.0, *([pause_s] * (len(tokens) - 1))]
        self._all = [
            Soaker(port, token, model, pause_s=pause, cut_s=cut_s)
            for token, pause in zip(tokens, pauses, strict=True)
        ]
        self._tasks = [asyncio.create_task(one.go_on()) for one in self._all]

    async def counts(self) -> dict[str, int]:
        """What has happened so far. Raises what ended one of them."""
        for task in self._tasks:
            if task.done():
                task.result()
        return dict(sum((one.counts for one in self._all), Counter()))


async def main() -> None:
    soakers = Soakers()
    commands: dict[str, Callable[..., Awaitable[Any]]] = {
        "begin": soakers.begin,
        "counts": soakers.counts,
    }
    await obey({}, commands)


if __name__ == "__main__":
    uvloop.run(main())
