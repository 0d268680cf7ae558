"""A reader that comes back by itself, and what a fault cost it."""

import asyncio
import itertools
import time
from types import TracebackType
from typing import Any

import httpx

from tests.agents.agui import Reading
from tests.agents.client import Client, Refused, run_of, said
from tests.backplane.sinks import eventually
from tests.faults.ongoing import Ongoing
from tests.parts.figures import Figures

NOTICE = "subscription.ended"


class Following(Ongoing):
    """Follows a conversation on a client, through every end of its subscription, and has of it what
    it was told: a snapshot where it could not go on, and each event once. Use as ``async with``.

    ``since`` and ``has``: where it was, and what it has from before. ``at`` is where it is now;
    ``joins`` are the answers to its subscriptions, ``ends`` the reasons for which they ended.
    """

    def __init__(
        self, client: Client, conversation: str, since: Any = None, has: Reading | None = None
    ) -> None:
        super().__init__()
        self.client = client
        self.conversation = conversation
        self.reading = has or Reading()
        self.joins: list[dict[str, Any]] = []
        self.ends: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.moments: list[float] = []
        self.at = since

    async def __aenter__(self) -> "Following":
        self._begin(self._follow())
        await self.until(lambda: self.joins)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._break_off()

    async def says(self, text: str, within: float = 15.0) -> None:
        await self.until(lambda: any(text in each for each in self.reading.texts.values()), within)

    def terminal(self, run_id: str) -> list[str]:
        """The epochs of the logs in which it was told that the run has ended."""
        return [
            epoch
            for epoch, event in self.events
            if event["type"] in ("RUN_FINISHED", "RUN_ERROR") and run_of(event) == run_id
        ]

    async def ended(self, run_id: str, within: float = 15.0) -> None:
        await self.until(lambda: self.terminal(run_id), within)

    def longest_pause(self, since: float) -> float:
        """Seconds without an event, at most, from a moment of ``time.monotonic()`` on."""
        moments = [since, *(moment for moment in self.moments if moment >= since)]
        return max(later - sooner for sooner, later in itertools.pairwise(moments))

    async def agrees(self) -> list[dict[str, Any]]:
        """The messages that are kept, which are those that it has."""
        kept = await self.client.messages(self.conversation)
        assert self.reading.texts == {message["id"]: message["content"] for message in kept}
        return kept

    async def _follow(self) -> None:
        channel = f"conversation:{self.conversation}"
        client = self.client
        while True:
            fed = len(client.heard)
            gone = len(client.notices)
            try:
                answered = await client.subscribe(self.conversation, self.at)
            except Refused as refused:
                assert refused.reason == "backend_unavailable"  # noqa: PT017
                await asyncio.sleep(0.05)
                continue
            if not answered["recovered"]:
                self.reading = Reading(answered["snapshot"])
                self.moments.append(time.monotonic())
            self.at = {key: answered[key] for key in ("epoch", "seq")}
            self.joins.append(answered)
            self._more.set()
            while True:
                for heard in client.heard[fed:]:
                    if heard["channel"] == channel:
                        self._take(heard)
                fed = len(client.heard)
                ends = [n for n in client.notices[gone:] if n[0] == NOTICE]
                mine = [n[1]["reason"] for n in ends if n[1]["channel"] == channel]
                if mine:
                    self.ends += mine
                    break
                told = len(client.notices)
                await client.until(
                    lambda fed=fed, told=told: (  # type: ignore[misc]
                        len(client.heard) > fed or len(client.notices) > told
                    ),
                    60,
                )

    def _take(self, heard: dict[str, Any]) -> None:
        assert self.at["epoch"] == heard["epoch"]
        assert heard["seq"] == self.at["seq"] + heard.get("span", 1)
        self.at = {key: heard[key] for key in ("epoch", "seq")}
        self.reading.feed(heard["event"])
        self.events.append((heard["epoch"], heard["event"]))
        self.moments.append(time.monotonic())
        self._more.set()

    @property
    def text(self) -> str:
        """All deltas that came, in order."""
        return said([event for _, event in self.events])


async def ready(url: str, is_ready: bool, within: float) -> float:
    """Wait until the node says of itself that it is ready, or not; how many seconds that took.

    Each question has as long as is left: an answer that comes too late is none.
    """
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=within) as http:

        async def says_so() -> bool:
            return (await http.get("/health/ready")).is_success is is_ready

        async with asyncio.timeout(within):
            await eventually(says_so)
    return time.monotonic() - began


def report(figures: Figures, what: str, **seconds: float) -> None:
    """Tell what a fault cost."""
    figures(f"{what}: " + ", ".join(f"{k.replace('_', ' ')} {v:.2f} s" for k, v in seconds.items()))
