"""Presence: who is there in a conversation, and who types."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, Self

from hub_client.faults import CallTimedOut, ConnectionClosed, HubError
from hub_client.records import Present

CHANGES: Final = 1_000
"""Changes that wait to be read at most; older ones are dropped, and ``present`` stays true."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """Somebody else has joined or left, or has begun to type or ended."""

    kind: Literal["joined", "left", "typing"]
    who: Present


class Source(Protocol):
    """What presence needs of its connection."""

    def watch(self, watcher: "Presence") -> None:
        """Follow the watcher's channel with presence, for it."""

    def unwatch(self, watcher: "Presence") -> None:
        """Feed this watcher no more."""


class Presence:
    """Who is present in one conversation; ``async with`` it, to be present oneself.

    ``present`` is who is there now. Iterate for what changes, from one task: it ends when this is
    closed, and raises ConnectionClosed, the Fault of a refused subscription or SubscriptionEnded.
    After a reconnect the differences to what was known come as changes.
    """

    def __init__(self, source: Source, channel: str, timeout: float | None = 30.0) -> None:
        self.channel = channel
        self._source = source
        self._timeout = timeout
        self._there: dict[str, Present] = {}
        self._changes: deque[PresenceChange] = deque(maxlen=CHANGES)
        self._news = asyncio.Event()
        self._known = False
        self._ended = False
        self._error: HubError | None = None

    @property
    def present(self) -> list[Present]:
        """Who is there, oneself included."""
        return list(self._there.values())

    @property
    def typing(self) -> list[Present]:
        """Who of them types."""
        return [who for who in self._there.values() if who.typing]

    async def __aenter__(self) -> Self:
        self._source.watch(self)
        try:
            async with asyncio.timeout(self._timeout):
                while not self._known and not self._ended:
                    self._news.clear()
                    await self._news.wait()
            if not self._known and self._error is not None:
                raise self._error
        except TimeoutError:
            self.close()
            raise CallTimedOut(f"{self.channel} was not followed in {self._timeout} s") from None
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be present no more. Idempotent."""
        self._source.unwatch(self)
        self.end(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PresenceChange:
        while not self._changes:
            if self._ended:
                error = self._error
                if error is None or (isinstance(error, ConnectionClosed) and error.code == 1000):
                    raise StopAsyncIteration
                raise error
            self._news.clear()
            await self._news.wait()
        return self._changes.popleft()

    # --- for the connection ---

    @property
    def known(self) -> bool:
        """Whether it was told who is there."""
        return self._known

    def begin(self, present: Sequence[Mapping[str, Any]], me: str) -> None:
        """The channel is followed; who is there. ``me`` is no news."""
        there = {who.user_id: who for who in map(Present.parse, present)}
        if self._known:
            for user_id, who in self._there.items():
                if user_id not in there and user_id != me:
                    self._changes.append(PresenceChange("left", who))
            for user_id, who in there.items():
                before = self._there.get(user_id)
                if user_id == me:
                    continue
                if before is None:
                    self._changes.append(PresenceChange("joined", who))
                if who.typing != (before is not None and before.typing):
                    self._changes.append(PresenceChange("typing", who))
        self._there, self._known = there, True
        self._news.set()

    def copy(self, other: "Presence") -> None:
        """Know what another watcher of the channel knows."""
        self._there, self._known = dict(other._there), True

    def overhear(self, data: Mapping[str, Any]) -> None:
        """An event of presence. One that is not known is let pass."""
        value = data.get("value")
        if not isinstance(value, Mapping):
            return
        who = Present.parse(value)
        before = self._there.get(who.user_id)
        match data.get("name"):
            case "presence.joined":
                self._there[who.user_id] = who
                self._changes.append(PresenceChange("joined", who))
            case "presence.left":
                self._there.pop(who.user_id, None)
                self._changes.append(PresenceChange("left", before or who))
            case "presence.typing":
                who = replace(before or who, typing=who.typing)
                self._there[who.user_id] = who
                self._changes.append(PresenceChange("typing", who))
            case _:
                return
        self._news.set()

    def end(self, error: HubError | None) -> None:
        """Nothing more will come; ``error`` is raised once the changes are read."""
        if not self._ended:
            self._ended, self._error = True, error
            self._news.set()
