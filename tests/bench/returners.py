"""Returners: a child with clients that lose their node, come back elsewhere and read on.

They wait as the Python client does: full jitter. Each checks that it hears every position once.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import uvloop
from hub_client.retry import Backoff

from tests.bench.ages import stamps
from tests.bench.child import obey
from tests.bench.node import subscription
from tests.bench.socket import AT_ONCE, Refused, Socket, handshake

OPEN_S: Final = 10.0
"""As long as the Python client waits for a connection."""
ANSWER_S: Final = 30.0
"""And for the answer to a request."""

_PLACE: Final = re.compile(rb'"epoch":"([^"]*)","seq":(\d+)(?:,"span":(\d+))?')
_GREETING: Final = "x"
"""What is sent to a server that is no hub; it answers with the same."""


class Returner:
    """A client that follows one conversation, or of a bare echo if it has none."""

    def __init__(self, conversation: str | None, token: str | None) -> None:
        self._conversation = conversation
        self._token = token
        self._socket: Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._port = 0
        self._answered: asyncio.Future[None] | None = None
        self._ready_at = 0.0
        self.epoch = ""
        self.seq = 0
        self.gaps = self.repeats = self.attempts = self.unrecovered = 0
        self.lost_at = self.subscribed_at = self.first_at = self.live_at = 0.0

    @property
    def here(self) -> bool:
        """Whether it has heard something live since it was connected last."""
        return self.live_at > 0

    async def come(self, port: int) -> None:
        """Connect for the first time."""
        self._port = port
        await self._connect()

    def elsewhere(self, port: int) -> None:
        """Where to go when this node is lost."""
        self._port = port

    # --- coming ---

    async def _return(self, wait: float) -> None:
        while True:
            await asyncio.sleep(wait)
            self.attempts += 1
            try:
                await self._connect()
                return
            except (Refused, OSError, TimeoutError) as failure:
                FAILURES[type(failure).__name__] += 1
                wait = self._backoff.failed()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        headers, path = {}, "/"
        if self._token is not None:
            headers = {
                "Sec-WebSocket-Protocol": "agenthub.v1",
                "Authorization": f"Bearer {self._token}",
            }
            path = "/ws"
        head = handshake(f"127.0.0.1:{self._port}", path, headers)
        socket: Socket | None = None
        try:
            async with asyncio.timeout(OPEN_S):
                _, socket = await loop.create_connection(
                    lambda: Socket(head), "127.0.0.1", self._port
                )
                await socket.opened
            self._answered = loop.create_future()
            socket.heard = self.hear
            since = {"epoch": self.epoch, "seq": self.seq} if self.epoch else None
            conversation = self._conversation
            socket.send(subscription(conversation, 1, since) if conversation else _GREETING)
            socket.lost = self._lost
            async with asyncio.timeout(ANSWER_S):
                await self._answered
        except BaseException:
            if socket is not None:
                socket.lost = None
                socket.close()
            raise
        self._socket, self._ready_at = socket, time.monotonic()

    # --- hearing ---

    def hear(self, payload: bytes) -> None:
        """Take a message of the server."""
        if b'"method":"event"' in payload[:40]:
            self._event(payload)
        elif payload == _GREETING.encode():
            self.subscribed_at = self.first_at = self.live_at = time.monotonic()
            self._answer(None)
        elif b'"result"' in payload[:60]:
            self._subscribed(json.loads(payload)["result"])
        elif b'"error"' in payload[:60]:
            self._answer(Refused(payload.decode()))
        elif b'"subscription.ended"' in payload[:80]:
            FAILURES["subscription.ended"] += 1

    def _subscribed(self, result: dict[str, Any]) -> None:
        if self.epoch:
            # What it says it continues from is what we had.
            self.unrecovered += not result["recovered"]
            self.gaps += result["recovered"] and result["seq"] > self.seq
        self.epoch, self.seq = result["epoch"], result["seq"]
        self.subscribed_at = time.monotonic()
        self._answer(None)

    def _answer(self, failure: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            if failure is None:
                self._answered.set_result(None)
            else:
                self._answered.set_exception(failure)

    def _event(self, payload: bytes) -> None:
        found = _PLACE.search(payload, 0, 300)
        assert found is not None, payload
        seq, span = int(found[2]), int(found[3] or 1)
        first = seq - span + 1
        self.gaps += first > self.seq + 1
        self.repeats += first <= self.seq
        self.seq = max(self.seq, seq)
        if not self.first_at:
            self.first_at = time.monotonic()
        if not self.live_at and any(at >= self.subscribed_at for at in stamps(payload)):
            self.live_at = time.monotonic()

    # --- losing ---

    def _lost(self, told: bytes) -> None:
        if not self.lost_at:
            # What counts is the first loss: the node that is away.
            self.lost_at = time.monotonic()
        self.subscribed_at = self.first_at = self.live_at = 0.0
        self._answer(Refused("closed"))
        if self._socket is None:
            return  # while it was connecting, which notices by itself
        self._socket = None
        code, retry_after = _reason(told)
        CLOSES[code] += 1
        wait = self._backoff.lost(
            ready_for=time.monotonic() - self._ready_at, code=code, retry_after=retry_after
        )
        self._task = asyncio.create_task(self._return(wait))

    def told(self) -> list[float | int]:
        """Seconds from the loss to the answer, the first event and the first live one; gaps,
        repeats, resumes that were not possible, attempts, and the last position.
        """
        times = [at - self.lost_at for at in (self.subscribed_at, self.first_at, self.live_at)]
        return [*times, self.gaps, self.repeats, self.unrecovered, self.attempts, self.seq]


FAILURES: Final[Counter[str]] = Counter()
CLOSES: Final[Counter[int]] = Counter()


def _reason(told: bytes) -> tuple[int, float]:
    """A close frame's code, and the seconds it asks to stay away."""
    if len(told) < 2:
        return 1006, 0.0
    try:
        asked = json.loads(told[2:]).get("retry_after_ms", 0) / 1000
    except ValueError:
        asked = 0.0
    return int.from_bytes(told[:2], "big"), asked


class Returners:
    """All of them."""

    def __init__(self) -> None:
        self._all: list[Returner] = []

    async def come(
        self, port: int, conversations: list[str | None], tokens: list[str | None]
    ) -> None:
        """A client for each, some at a time."""
        self._all = [Returner(*pair) for pair in zip(conversations, tokens, strict=True)]
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(returner: Returner) -> None:
            async with gate:
                await returner.come(port)

        await asyncio.gather(*map(one, self._all))

    async def elsewhere(self, port: int) -> None:
        for returner in self._all:
            returner.elsewhere(port)

    async def here(self, within: float, lost: bool) -> int:
        """Wait until all hear something live, after they were ``lost``; how many do not."""
        deadline = time.monotonic() + within
        while missing := sum(not one.here or (lost and not one.lost_at) for one in self._all):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        return missing

    async def reached(self, newest: dict[str, int], within: float) -> int:
        """Wait until each has heard all of its conversation; how many have not."""
        deadline = time.monotonic() + within
        while missing := sum(one.seq < newest[str(one._conversation)] for one in self._all):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        return missing

    async def told(self) -> dict[str, Any]:
        """What each tells; the most that were back within one second, and that lost their node."""
        return {
            "clients": [one.told() for one in self._all],
            "failures": dict(FAILURES),
            "closes": dict(CLOSES),
            "back_at_once": busiest([one.subscribed_at for one in self._all]),
            "lost_at_once": busiest([one.lost_at for one in self._all]),
        }


def busiest(moments: Sequence[float], within_s: float = 1.0) -> int:
    """The most of these moments that lie within so many seconds; 0.0 is none."""
    known = sorted(moment for moment in moments if moment)
    first = most = 0
    for at, moment in enumerate(known):
        while moment - known[first] > within_s:
            first += 1
        most = max(most, at - first + 1)
    return most


async def main() -> None:
    returners = Returners()
    commands: dict[str, Callable[..., Awaitable[Any]]] = {
        "come": returners.come,
        "elsewhere": returners.elsewhere,
        "here": returners.here,
        "reached": returners.reached,
        "told": returners.told,
    }
    await obey({}, commands)


if __name__ == "__main__":
    uvloop.run(main())
