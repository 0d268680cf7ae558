"""The state of one connection, as a table. Every transition there is stands in ``TABLE``.

::

    OPENING --authenticated--> READY --token_expired--> EXPIRED --refreshed--> READY
                                 |
                                 +-----drain----> DRAINING
    and from each of them, with a close code, to CLOSED

An entry that is missing is a mistake of the caller (``IllegalTransition``): a timer that was not
cancelled, a frame that was not admitted. Only CLOSED takes every event and stays: what was under
way when the connection closed still arrives.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from hub.faults import Fault
from hub.protocol.limits import MAX_FAULTY_FRAMES


class State(StrEnum):
    """Where a connection is."""

    OPENING = "opening"  # accepted, without credentials yet
    READY = "ready"
    EXPIRED = "expired"  # its access token ran out; a grace to refresh it
    DRAINING = "draining"  # the node is going away; it still serves until drain_over
    CLOSED = "closed"


class Event(StrEnum):
    """What can happen to a connection."""

    AUTHENTICATED = "authenticated"
    AUTH_FAILED = "auth_failed"  # session.authenticate came with credentials that are not valid
    AUTH_DEADLINE = "auth_deadline"
    REFRESHED = "refreshed"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  # an event, not a secret
    GRACE_OVER = "grace_over"
    REVOKED = "revoked"
    DRAIN = "drain"
    DRAIN_OVER = "drain_over"
    FAULTY_FRAMES = "faulty_frames"
    TOO_SLOW = "too_slow"
    NO_PONG = "no_pong"
    RATE_LIMITED = "rate_limited"
    TOO_MANY = "too_many"
    REPLACED = "replaced"  # another connection has its persistent session now
    BINARY_FRAME = "binary_frame"
    INVALID_UTF8 = "invalid_utf8"
    TOO_BIG = "too_big"
    FAILED = "failed"  # the hub itself failed
    PEER_CLOSED = "peer_closed"


class Transition(NamedTuple):
    """The state to go to, and the code to close with (None: there is nothing to send)."""

    state: State
    close_code: int | None = None


class IllegalTransition(Exception):
    """This cannot happen in this state. Our own mistake, never the peer's."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event} while {state}")
        self.state = state
        self.event = event


def _closed(code: int | None) -> Transition:
    return Transition(State.CLOSED, code)


LIVE: Final = (State.OPENING, State.READY, State.EXPIRED, State.DRAINING)
"""The states of an open connection."""

# What can happen at any time. 1003, 1007, 1009 and 1011 are RFC 6455 section 7.4.1.
_ANY_TIME: Final[Mapping[Event, Transition]] = {
    # Even when ready: two authentications were under way, and the first one succeeded.
    Event.AUTH_FAILED: _closed(4500),
    Event.FAULTY_FRAMES: _closed(4501),
    Event.TOO_SLOW: _closed(4008),
    Event.NO_PONG: _closed(4012),
    Event.RATE_LIMITED: _closed(4029),
    Event.TOO_MANY: _closed(4504),
    Event.REPLACED: _closed(4505),
    Event.BINARY_FRAME: _closed(1003),
    Event.INVALID_UTF8: _closed(1007),
    Event.TOO_BIG: _closed(1009),
    Event.FAILED: _closed(1011),
    Event.PEER_CLOSED: _closed(None),
}

TABLE: Final[Mapping[tuple[State, Event], Transition]] = {
    **{(state, event): to for state in LIVE for event, to in _ANY_TIME.items()},
    **{(State.CLOSED, event): _closed(None) for event in Event},
    (State.OPENING, Event.AUTHENTICATED): Transition(State.READY),
    (State.OPENING, Event.AUTH_DEADLINE): _closed(4502),
    (State.OPENING, Event.TOKEN_EXPIRED): _closed(4005),  # valid once: refresh, and come back
    (State.OPENING, Event.DRAIN): _closed(4001),  # nothing is under way that could be finished
    (State.READY, Event.REFRESHED): Transition(State.READY),
    (State.READY, Event.TOKEN_EXPIRED): Transition(State.EXPIRED),
    (State.READY, Event.REVOKED): _closed(4503),
    (State.READY, Event.DRAIN): Transition(State.DRAINING),
    (State.EXPIRED, Event.AUTHENTICATED): Transition(State.READY),
    (State.EXPIRED, Event.REFRESHED): Transition(State.READY),
    (State.EXPIRED, Event.GRACE_OVER): _closed(4005),
    (State.EXPIRED, Event.REVOKED): _closed(4503),
    (State.EXPIRED, Event.DRAIN): _closed(4001),  # it has to come back with a new token anyway
    (State.DRAINING, Event.REFRESHED): Transition(State.DRAINING),
    (State.DRAINING, Event.TOKEN_EXPIRED): _closed(4005),
    (State.DRAINING, Event.REVOKED): _closed(4503),
    (State.DRAINING, Event.DRAIN_OVER): _closed(4001),
}
"""Every transition, by state and event."""

_OPENING_METHODS: Final = frozenset({"session.authenticate"})
_EXPIRED_METHODS: Final = frozenset({"session.authenticate", "session.refresh", "session.ping"})


class SessionState:
    """The state of one connection, and its count of faulty frames."""

    __slots__ = ("faulty_frames", "state")

    def __init__(self) -> None:
        self.state = State.OPENING
        self.faulty_frames = 0

    def on(self, event: Event) -> Transition:
        """Go where the table says, and say where that is. Raises IllegalTransition."""
        transition = TABLE.get((self.state, event))
        if transition is None:
            raise IllegalTransition(self.state, event)
        self.state = transition.state
        return transition

    def admit(self, method: str) -> None:
        """Whether a request may be looked at in this state; whether it is allowed is for others.

        Raises Fault("unauthenticated") before authentication and after the close,
        Fault("token_expired") in the grace, Fault("conflict") for a second authentication.
        """
        state = self.state
        if state is State.READY or state is State.DRAINING:
            if method == "session.authenticate":
                raise Fault("conflict", "Already authenticated; use `session.refresh`.")
        elif state is State.EXPIRED:
            if method not in _EXPIRED_METHODS:
                raise Fault("token_expired")
        elif state is State.CLOSED or method not in _OPENING_METHODS:
            raise Fault("unauthenticated", "Send `session.authenticate` first.")

    def faulty(self) -> Transition | None:
        """Count a faulty frame. At the limit the connection closes: the transition to make known,
        else None. The frame's own error reply goes out first.
        """
        self.faulty_frames += 1
        if self.faulty_frames < MAX_FAULTY_FRAMES or self.state is State.CLOSED:
            return None
        return self.on(Event.FAULTY_FRAMES)
