"""People who send without pause through a fault, and what became of what was acknowledged."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

from websockets.exceptions import ConnectionClosed

from tests.agents.client import TERMINAL, Client, Refused, opened, run_of
from tests.faults.ongoing import Ongoing

REFUSALS: Final = ("backend_unavailable", "conversation_busy")
"""What may be answered to a message while something is away."""
ENDED_S: Final = 30.0
"""What was acknowledged has ended within this once nothing is away, however much of it there is."""
ENDED: Final = {"succeeded", "failed", "cancelled"}


class Acknowledged(NamedTuple):
    """A message that was, its run, and when it was sent and answered (``time.monotonic()``)."""

    message_id: str
    run_id: str
    content: str
    asked_at: float
    answered_at: float


class Sender(Ongoing):
    """Sends into a conversation of its own on a client, until the block ends or the node is gone.
    Use as ``async with``; ``refused`` counts the messages that were, by reason.

    ``pace_s``: the pause after each message; after one that was refused it is four times that.
    """

    def __init__(
        self,
        client: Client,
        conversation: str,
        *,
        on_busy: Literal["queue", "interrupt"] = "queue",
        pace_s: float = 0.05,
    ) -> None:
        super().__init__()
        self.client = client
        self.conversation = conversation
        self.acknowledged: list[Acknowledged] = []
        self.refused: Counter[str] = Counter()
        self._on_busy = on_busy
        self._pace_s = pace_s
        self._enough = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._begin(self._send_on())
        await self.until(lambda: self.acknowledged)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is None:
            await self.stop()
        else:
            await self._break_off()

    async def stop(self) -> None:
        """Send no more, once what is under way was answered. Raises what went wrong."""
        assert self._task is not None
        self._enough.set()
        await self._task

    def under_way(self, since: float, until: float) -> int:
        """How many were acknowledged that somebody waited for at some time between these."""
        return sum(e.asked_at < until and e.answered_at >= since for e in self.acknowledged)

    async def takes_again(self) -> float:
        """Wait until one is acknowledged that is asked for from now on; when that is."""
        now = time.monotonic()
        await self.until(lambda: self.acknowledged and self.acknowledged[-1].asked_at >= now)
        return self.acknowledged[-1].answered_at

    async def _send_on(self) -> None:
        number = 0
        pause_s = self._pace_s
        while not self._enough.is_set():
            number += 1
            content = f"message {number} of {self.conversation}"
            asked_at = time.monotonic()
            try:
                sent = await self.client.send(self.conversation, content, on_busy=self._on_busy)
            except Refused as refused:
                assert refused.reason in REFUSALS, refused  # noqa: PT017
                self.refused[refused.reason] += 1
                pause_s = 4 * self._pace_s
            except ConnectionClosed:
                return
            except asyncio.CancelledError:
                if self.client.closed:  # the node is gone, and what became of this nobody knows
                    return
                raise
            else:
                ids = (sent["message_id"], sent["run_id"])
                self.acknowledged.append(Acknowledged(*ids, content, asked_at, time.monotonic()))
                pause_s = self._pace_s
            self._more.set()
            await asyncio.sleep(pause_s)

    # --- what became of it ---

    async def judge(self, client: Client, since: float) -> None:
        """Hold what was acknowledged against what ``client`` reads, on whichever node: each message
        is there as it was sent, its run has ended, and one answer is kept of a run, none at most of
        one that was interrupted. The log that all nodes read tells no end twice, and that of each
        run that was asked for ``since``, which is no sooner than the log's beginning.
        """
        lasting = {each.run_id for each in self.acknowledged if each.asked_at >= since}
        async with asyncio.timeout(ENDED_S):
            while True:
                items = await every(client, "run.list", self.conversation)
                runs = {run["id"]: run["status"] for run in items}
                past = await client.past(self.conversation)
                told = Counter(run_of(event) for event in past if event["type"] in TERMINAL)
                if set(runs.values()) <= ENDED and lasting <= set(told):
                    break
                await asyncio.sleep(0.1)
        assert set(told.values()) <= {1}
        kept = await every(client, "message.list", self.conversation)
        asked = {message["id"]: message["content"] for message in kept if message["role"] == "user"}
        answers = Counter(m["run_id"] for m in kept if m["role"] == "assistant")
        for sent in self.acknowledged:
            assert asked[sent.message_id] == sent.content
            interrupted = (runs[sent.run_id], self._on_busy) == ("cancelled", "interrupt")
            assert runs[sent.run_id] == "succeeded" or interrupted
            assert answers[sent.run_id] == 1 or interrupted
        assert set(answers.values()) == {1}


@asynccontextmanager
async def two_senders(url: str, token: str) -> AsyncIterator[tuple[Sender, Sender]]:
    """One whose messages wait for the answers to those before, and one whose interrupt them."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(opened(url, token))
        waits = Sender(client, await client.conversation(follow=False))
        interrupts = Sender(
            client, await client.conversation(follow=False), on_busy="interrupt", pace_s=0.2
        )
        for sender in (waits, interrupts):
            await stack.enter_async_context(sender)
        yield waits, interrupts


async def every(client: Client, method: str, conversation: str) -> list[dict[str, Any]]:
    """What a list of the conversation holds, all pages of it."""
    items: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        page = await client.call(method, conversation_id=conversation, limit=200, **more)
        items += page["items"]
        if page.get("next_cursor") is None:
            return items
        more = {"cursor": page["next_cursor"]}
