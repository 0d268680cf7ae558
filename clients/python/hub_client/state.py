"""The states of a session, across its sockets. A missing entry is an error of this SDK. Pure."""

from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where the session is."""

    OFFLINE = auto()
    OPENING = auto()
    READY = auto()
    CLOSED = auto()


class Input(Enum):
    """What happens to it."""

    OPENED = auto()
    AUTHENTICATED = auto()
    LOST = auto()
    CLOSED = auto()


TABLE: Final = {
    (State.OFFLINE, Input.OPENED): State.OPENING,
    (State.OPENING, Input.AUTHENTICATED): State.READY,
    (State.OFFLINE, Input.LOST): State.OFFLINE,
    (State.OPENING, Input.LOST): State.OFFLINE,
    (State.READY, Input.LOST): State.OFFLINE,
    (State.OFFLINE, Input.CLOSED): State.CLOSED,
    (State.OPENING, Input.CLOSED): State.CLOSED,
    (State.READY, Input.CLOSED): State.CLOSED,
    (State.CLOSED, Input.CLOSED): State.CLOSED,
}
"""Every transition, by state and input."""
