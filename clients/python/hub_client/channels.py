"""The subscriptions of one session, by channel: what is wanted, where each stands. Pure.

A channel goes through the phases of ``_TABLE``; a missing entry is an error of this SDK. Changes
of mind are kept in ``wanted`` and ``stale`` and acted on when the phase allows: the hub runs
requests concurrently, so an unsubscribe and a subscribe must never be in flight together. A channel
of a persistent session is RESUMING until the hub says that it is back.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from hub_client.events import Event, Position, Since


class Phase(Enum):
    """What the hub holds for this channel on this socket."""

    DETACHED = auto()
    RESUMING = auto()
    SUBSCRIBING = auto()
    LIVE = auto()
    LEAVING = auto()


class Move(Enum):
    RESUME = auto()
    SUBSCRIBE = auto()
    SUBSCRIBED = auto()
    LEAVE = auto()
    LEFT = auto()
    LOST = auto()


_TABLE: Final = {
    (Phase.DETACHED, Move.RESUME): Phase.RESUMING,
    (Phase.RESUMING, Move.SUBSCRIBED): Phase.LIVE,
    (Phase.RESUMING, Move.LEAVE): Phase.LEAVING,
    (Phase.RESUMING, Move.LOST): Phase.DETACHED,
    (Phase.DETACHED, Move.SUBSCRIBE): Phase.SUBSCRIBING,
    (Phase.SUBSCRIBING, Move.SUBSCRIBED): Phase.LIVE,
    (Phase.LIVE, Move.LEAVE): Phase.LEAVING,
    (Phase.LEAVING, Move.LEFT): Phase.DETACHED,
    (Phase.DETACHED, Move.LOST): Phase.DETACHED,
    (Phase.SUBSCRIBING, Move.LOST): Phase.DETACHED,
    (Phase.LIVE, Move.LOST): Phase.DETACHED,
    (Phase.LEAVING, Move.LOST): Phase.DETACHED,
}

MAX_RESYNCS: Final = 3
"""Repairs of a gap without one event in between, before the subscription is given up."""


class Verdict(Enum):
    """What to do with an event."""

    NEXT = auto()
    REPEAT = auto()
    GAP = auto()


@dataclass(slots=True)
class Channel:
    """One channel's subscription. ``position`` is after the last event that was delivered."""

    name: str
    since: Since
    position: Position | None = None
    phase: Phase = Phase.DETACHED
    wanted: bool = True
    stale: bool = False
    resyncs: int = 0
    joined: bool = False
    """Whether it has ever been live: what begins is refused aloud, what was there comes back."""
    presence: bool = False
    """Whether it is to be followed with presence."""
    postponed: bool = False
    """Not to be asked for before the session is told ``again``."""
    remember: bool = False
    """Whether a persistent session is to remember it."""

    def move(self, move: Move) -> None:
        self.phase = _TABLE[self.phase, move]

    @property
    def resume_from(self) -> Since:
        """The ``since`` of the next subscribe request."""
        return self.position if self.position is not None else self.since

    @property
    def attended(self) -> bool:
        """Whether what is told of presence now is to be heeded."""
        return self.presence and self.wanted and not self.stale and self.phase is Phase.LIVE

    def judge(self, event: Event) -> Verdict:
        """Whether ``event`` is the next one. Does not change the position."""
        if self.phase is not Phase.LIVE or not self.wanted or self.stale:
            return Verdict.REPEAT  # it comes again, after the position, if it is wanted
        position = self.position
        assert position is not None
        if event.epoch != position.epoch:
            return Verdict.GAP
        if event.seq <= position.seq:
            return Verdict.REPEAT
        # An event whose span begins before the position would repeat text, one that begins after
        # it would lose some. Both are repaired by asking for what follows the position.
        return Verdict.NEXT if event.seq - event.span == position.seq else Verdict.GAP
