"""What the pure session asks its IO part to do. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub_client.events import Event, Position
from hub_client.faults import HubError


@dataclass(frozen=True, slots=True)
class Send:
    """Write this text frame."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The request has its result."""

    id: int
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """The request failed."""

    id: int
    error: HubError


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The channel is live; events after ``position`` follow. ``present`` is who is there, if it was
    subscribed with presence.
    """

    channel: str
    position: Position
    present: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Resuming:
    """A channel of the persistent session that nobody has asked for comes back, from ``at``."""

    channel: str
    at: Position


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next event of its channel, or a snapshot in place of those that are gone."""

    event: Event


@dataclass(frozen=True, slots=True)
class Overheard:
    """An event of the channel that is at no position: of somebody's presence."""

    channel: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The channel's subscription is over."""

    channel: str
    error: HubError


@dataclass(frozen=True, slots=True)
class Postponed:
    """The hub cannot carry the channel now: say ``again`` after a wait of ``retry_after`` seconds
    and what the backoff adds.
    """

    channel: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Noticed:
    """A session notice."""

    method: str
    params: Mapping[str, Any]


Effect = (
    Send
    | Answered
    | Refused
    | Subscribed
    | Resuming
    | Delivered
    | Overheard
    | Ended
    | Postponed
    | Noticed
)
