"""Somebody on the same hub who does nothing wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

from tests.interaction.drivers import Socket, open_socket
from tests.parts.hub import sign_up

TOKENS: Final = tuple(f"{number} " for number in range(40))
SCRIPT: Final = "#script " + json.dumps({"tokens": TOKENS, "delay_ms": 5})
_NUMBERS: Final = count(1)


def somebody() -> str:
    """An address that nobody has yet."""
    return f"somebody-{next(_NUMBERS)}@hostile.example"


class Neighbour:
    """Asks, and is answered, over and over; every event is looked at."""

    def __init__(self, socket: Socket, conversation: str, at: dict[str, Any]) -> None:
        self._socket = socket
        self._conversation = conversation
        self._epoch = at["epoch"]
        self._seq = at["seq"]
        self._answered = asyncio.Event()
        self.leaving = False
        self.answers = 0
        """Answers that came whole and in order."""

    async def talk(self) -> None:
        """Until it is to leave. Raises AssertionError at an event that is not as it has to be."""
        while not self.leaving:
            await self._ask()

    async def _ask(self) -> None:
        question = {
            "conversation_id": self._conversation,
            "client_message_id": f"{self.answers}",
            "content": SCRIPT,
        }
        await self._socket.ask("message.send", question)
        text, kind = "", ""
        while kind != "RUN_FINISHED":
            event = await self._socket.event()
            kind = event["event"]["type"]
            assert kind != "RUN_ERROR", event
            assert event["epoch"] == self._epoch
            assert event["seq"] - event.get("span", 1) == self._seq, "a gap, or a repeat"
            self._seq = event["seq"]
            text += event["event"].get("delta", "")
        assert text == "".join(TOKENS)
        self.answers += 1
        self._answered.set()

    async def answer(self) -> None:
        """Wait for an answer that was asked for after this."""
        for _ in range(2):
            self._answered.clear()
            await self._answered.wait()


@asynccontextmanager
async def neighbour(url: str) -> AsyncIterator[Neighbour]:
    """A neighbour who is answered while the block lasts, and once more at its end."""
    token = (await sign_up(url, somebody()))["access_token"]
    async with open_socket(url.replace("http", "ws", 1) + "/ws", token) as socket:
        made = await socket.ask("conversation.create", {"model": "echo"})
        at = await socket.ask("channel.subscribe", {"channel": f"conversation:{made['id']}"})
        healthy = Neighbour(socket, made["id"], at)
        talking = asyncio.create_task(healthy.talk())
        try:
            await _either(talking, healthy.answer())
            yield healthy
            await _either(talking, healthy.answer())
            healthy.leaving = True
            await talking
        finally:
            talking.cancel()


async def _either(talking: "asyncio.Task[None]", answer: Coroutine[Any, Any, None]) -> None:
    """Wait for the answer; raise what the talk raised, if it did."""
    waiting = asyncio.create_task(answer)
    await asyncio.wait({talking, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if talking.done():
        talking.result()
