"""A client on a plain WebSocket: requests, and the events of its channels as they came."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

DEADLINE_S = 15.0
TERMINAL = ("RUN_FINISHED", "RUN_ERROR")

Event = dict[str, Any]


class Refused(Exception):
    """An error reply; ``reason`` is of the fault table."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.reason = error["data"]["reason"]


class Client:
    """One connection. ``heard`` are the parameters of every event, in the order of arrival, and
    ``notices`` what the hub said of the session.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self.notices: list[tuple[str, dict[str, Any]]] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def closed(self) -> bool:
        """Whether nothing can come any more."""
        return self._reading.done()

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                frame = json.loads(text)
                if "id" in frame:
                    waiting = self._waiting.pop(frame["id"])
                    if not waiting.done():  # who asked may have been cancelled
                        waiting.set_result(frame)
                elif frame["method"] == "event":
                    self.heard.append(frame["params"])
                else:
                    self.notices.append((frame["method"], frame["params"]))
                self._more.set()
        except ConnectionClosed:
            pass
        finally:
            for future in self._waiting.values():
                future.cancel()
            self._more.set()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request. Raises Refused."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        await self.socket.send(json.dumps(request))
        async with asyncio.timeout(DEADLINE_S):
            frame = await future
        if "error" in frame:
            raise Refused(frame["error"])
        result: dict[str, Any] = frame["result"]
        return result

    async def until(self, true: Callable[[], object], within: float = DEADLINE_S) -> None:
        """Wait until what was heard satisfies ``true``."""
        async with asyncio.timeout(within):
            while not true():
                self._more.clear()
                await self._more.wait()

    # --- a conversation ---

    async def conversation(self, model: str = "echo", *, follow: bool = True, **more: Any) -> str:
        """A new conversation, followed from now on."""
        made = await self.call("conversation.create", model=model, **more)
        if follow:
            await self.subscribe(made["id"])
        return str(made["id"])

    async def subscribe(self, conversation_id: str, since: Any = None) -> dict[str, Any]:
        return await self.call(
            "channel.subscribe", channel=f"conversation:{conversation_id}", since=since
        )

    async def send(self, conversation_id: str, content: str, **params: Any) -> dict[str, Any]:
        params.setdefault("client_message_id", f"{id(self)}-{next(self._numbers)}")
        return await self.call(
            "message.send", conversation_id=conversation_id, content=content, **params
        )

    async def messages(self, conversation_id: str) -> list[dict[str, Any]]:
        return list((await self.call("message.list", conversation_id=conversation_id))["items"])

    async def past(self, conversation_id: str) -> list[Event]:
        """The whole log of a conversation, page by page."""
        channel = f"conversation:{conversation_id}"
        events: list[Event] = []
        after, last = 0, 1
        while after < last:
            page = await self.call("channel.history", channel=channel, after=after)
            events += [item["event"] for item in page["items"]]
            after, last = page["items"][-1]["seq"] if page["items"] else page["last"], page["last"]
        return events

    def events(self, conversation_id: str) -> list[Event]:
        channel = f"conversation:{conversation_id}"
        return [heard["event"] for heard in self.heard if heard["channel"] == channel]

    def ends(self, conversation_id: str) -> list[Event]:
        """The terminal events."""
        return [event for event in self.events(conversation_id) if event["type"] in TERMINAL]

    async def ended(self, conversation_id: str, runs: int = 1, within: float = DEADLINE_S) -> Event:
        """Wait for so many terminal events; the last of them."""
        await self.until(lambda: len(self.ends(conversation_id)) >= runs, within)
        return self.ends(conversation_id)[runs - 1]

    async def says(self, conversation_id: str, text: str, within: float = DEADLINE_S) -> None:
        """Wait until the deltas that came hold ``text``."""
        await self.until(lambda: text in said(self.events(conversation_id)), within)


def said(events: list[Event]) -> str:
    """The deltas of all text, in order."""
    kind = "TEXT_MESSAGE_CONTENT"
    return "".join(event["delta"] for event in events if event["type"] == kind)


def run_of(event: Event) -> str:
    """The run of a terminal event."""
    return str(event.get("runId") or event["metadata"]["runId"])


@asynccontextmanager
async def opened(url: str, token: str) -> AsyncIterator[Client]:
    """A connection to the hub at ``url``, until the block ends."""
    async with connect(
        url.replace("http", "ws", 1) + "/ws",
        subprotocols=["agenthub.v1"],  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {token}"},
        proxy=None,
        compression=None,
    ) as socket:
        client = Client(socket)
        try:
            await client.until(lambda: client.notices)
            yield client
        finally:
            await socket.close()
            await client._reading
