"""Seats: the places that connections have in a channel to be seen there and to see others."""

import asyncio
from collections.abc import Callable, Collection
from math import ceil, inf
from typing import Final, Protocol

from hub.events.delivery import Delivery
from hub.events.roster import Change, Present, Roster, difference
from hub.protocol.codec import encode_whisper

TYPING_RATE: Final = 0.5
TYPING_BURST: Final = 5
"""How often a seat may begin to type: so many times at once, and then at that rate a second."""


class Aside(Delivery):
    """An event that is told on a channel without being in its log: at no position."""

    __slots__ = ()

    def __init__(self, channel: str, event: bytes) -> None:
        super().__init__(channel, "", 0, event)

    @property
    def payload(self) -> bytes:
        return encode_whisper(self.channel, self.event)


class Onlooker(Protocol):
    """Who is told of others: a connection."""

    @property
    def deliver(self) -> Callable[[Delivery], None]:
        """Take an event. Called on the loop; must not block or raise."""


class Host(Protocol):
    """Who has the rooms in which seats are."""

    def tell(self, room: "Room", changes: Collection[Change], seats: Collection["Seat"]) -> None:
        """Tell these seats what has changed."""

    async def type(self, room: "Room", seat: "Seat", typing: bool) -> None:
        """Pass on that somebody types, or does no more."""

    def leave(self, room: "Room", seat: "Seat", *, barred: bool) -> None:
        """The seat is free; ``barred``: whoever had it may not be here any more."""


class Seat:
    """A connection's place in a channel. It is told of changes from ``begin`` to ``leave``."""

    __slots__ = (
        "_at", "_host", "_onlooker", "_room", "_tokens", "begun", "left", "told",
        "typing_until", "user_id",
    )  # fmt: skip

    def __init__(
        self, host: Host, room: "Room", user_id: str, onlooker: Onlooker, now: float
    ) -> None:
        self._host = host
        self._room = room
        self._onlooker = onlooker
        self._tokens, self._at = float(TYPING_BURST), now
        self.user_id = user_id
        self.told: list[Present] = []
        self.typing_until = 0.0
        self.begun = False
        self.left = False

    def present(self) -> list[Present]:
        """Who is there now; what changes after this is told from ``begin`` on."""
        self.told = self._room.roster.present()
        return self.told

    def begin(self) -> None:
        """Be told, first of what has changed since ``present``. Not after ``leave``."""
        if not self.left and not self.begun:
            self.begun = True
            now = self._room.roster.present()
            self._host.tell(self._room, difference(self.told, now), (self,))
            self.told = []

    async def type(self, typing: bool) -> None:
        """Tell others that this user types, or does no more.

        Raises Fault rate_limited, backend_unavailable.
        """
        await self._host.type(self._room, self, typing)

    def leave(self, *, barred: bool = False) -> None:
        """Give the seat up; ``barred``: because its user may not be here any more. Idempotent."""
        if not self.left:
            self.left = True
            self._host.leave(self._room, self, barred=barred)

    def deliver(self, aside: Aside) -> None:
        self._onlooker.deliver(aside)

    def wait_ms(self, now: float) -> int:
        """Take a token for typing; 0, or how long until there is one."""
        self._tokens = min(TYPING_BURST, self._tokens + (now - self._at) * TYPING_RATE)
        self._at = now
        if self._tokens < 1:
            return ceil((1 - self._tokens) / TYPING_RATE * 1000)
        self._tokens -= 1
        return 0


class Room:
    """A channel in which somebody of this node sits, or sat until a moment ago."""

    def __init__(self, channel: str, roster: Roster) -> None:
        self.channel = channel
        self.roster = roster
        self.seats: dict[Seat, None] = {}
        self.typed: dict[str, float] = {}  # when a user's typing was passed on
        self.lock = asyncio.Lock()  # one exchange with the backplane at a time
        self.counted = 0  # members in the gauge
        self.overheard = False
        self.renewing = False
        self.closed = False
        self.renew_at = inf
