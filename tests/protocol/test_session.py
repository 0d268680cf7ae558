"""The state table of a connection: complete, without dead ends, by the table of close codes."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.faults import CLOSES, Fault
from hub.protocol.limits import MAX_FAULTY_FRAMES
from hub.protocol.session import (
    LIVE,
    TABLE,
    Event,
    IllegalTransition,
    SessionState,
    State,
    Transition,
)

RFC6455 = {1003, 1007, 1009, 1011}


def at(state: State) -> SessionState:
    session = SessionState()
    session.state = state
    return session


def reachable(start: State) -> set[State]:
    seen, ahead = {start}, deque([start])
    while ahead:
        here = ahead.popleft()
        for (state, _), transition in TABLE.items():
            if state is here and transition.state not in seen:
                seen.add(transition.state)
                ahead.append(transition.state)
    return seen


def test_every_state_can_be_reached_from_the_opening() -> None:
    assert reachable(State.OPENING) == set(State)


@pytest.mark.parametrize("state", LIVE)
def test_no_state_but_closed_is_a_dead_end(state: State) -> None:
    assert State.CLOSED in reachable(state)
    assert any(
        transition.state is not state for (here, _), transition in TABLE.items() if here is state
    )


@pytest.mark.parametrize("state", LIVE)
def test_every_live_state_ends_when_the_peer_leaves_it_waiting(state: State) -> None:
    """Each has a timer of its own: no connection lives for ever for want of an event."""
    deadlines = {
        State.OPENING: Event.AUTH_DEADLINE,
        State.READY: Event.NO_PONG,
        State.EXPIRED: Event.GRACE_OVER,
        State.DRAINING: Event.DRAIN_OVER,
    }
    assert TABLE[state, deadlines[state]].state is State.CLOSED


def test_closed_stays_closed_and_sends_nothing_more() -> None:
    assert reachable(State.CLOSED) == {State.CLOSED}
    for event in Event:
        assert at(State.CLOSED).on(event) == Transition(State.CLOSED, None)


def test_every_close_code_is_known() -> None:
    codes = {transition.close_code for transition in TABLE.values()} - {None}
    assert codes == set(CLOSES) | RFC6455


def test_only_a_transition_into_closed_has_a_close_code() -> None:
    for transition in TABLE.values():
        assert transition.close_code is None or transition.state is State.CLOSED


def test_a_connection_closes_in_silence_only_when_the_peer_has_closed() -> None:
    silent = {
        event
        for (state, event), transition in TABLE.items()
        if state is not State.CLOSED and transition == Transition(State.CLOSED, None)
    }
    assert silent == {Event.PEER_CLOSED}


def test_every_event_happens_somewhere() -> None:
    assert {event for state, event in TABLE if state is not State.CLOSED} == set(Event)


@pytest.mark.parametrize(
    ("state", "event", "expected"),
    [
        (State.OPENING, Event.AUTHENTICATED, Transition(State.READY)),
        (State.OPENING, Event.AUTH_FAILED, Transition(State.CLOSED, 4500)),
        (State.OPENING, Event.TOKEN_EXPIRED, Transition(State.CLOSED, 4005)),
        (State.OPENING, Event.AUTH_DEADLINE, Transition(State.CLOSED, 4502)),
        (State.READY, Event.AUTH_FAILED, Transition(State.CLOSED, 4500)),
        (State.READY, Event.TOKEN_EXPIRED, Transition(State.EXPIRED)),
        (State.READY, Event.REVOKED, Transition(State.CLOSED, 4503)),
        (State.READY, Event.DRAIN, Transition(State.DRAINING)),
        (State.READY, Event.TOO_SLOW, Transition(State.CLOSED, 4008)),
        (State.READY, Event.NO_PONG, Transition(State.CLOSED, 4012)),
        (State.READY, Event.RATE_LIMITED, Transition(State.CLOSED, 4029)),
        (State.READY, Event.TOO_MANY, Transition(State.CLOSED, 4504)),
        (State.READY, Event.FAULTY_FRAMES, Transition(State.CLOSED, 4501)),
        (State.READY, Event.BINARY_FRAME, Transition(State.CLOSED, 1003)),
        (State.READY, Event.INVALID_UTF8, Transition(State.CLOSED, 1007)),
        (State.READY, Event.TOO_BIG, Transition(State.CLOSED, 1009)),
        (State.EXPIRED, Event.REFRESHED, Transition(State.READY)),
        (State.EXPIRED, Event.GRACE_OVER, Transition(State.CLOSED, 4005)),
        (State.DRAINING, Event.DRAIN_OVER, Transition(State.CLOSED, 4001)),
        (State.DRAINING, Event.TOKEN_EXPIRED, Transition(State.CLOSED, 4005)),
    ],
)
def test_the_contract_says_where_an_event_leads(
    state: State, event: Event, expected: Transition
) -> None:
    session = at(state)
    assert session.on(event) == expected
    assert session.state is expected.state


@pytest.mark.parametrize("state", [State.READY, State.EXPIRED, State.DRAINING])
def test_a_revoked_session_is_closed_wherever_it_has_got_to(state: State) -> None:
    assert at(state).on(Event.REVOKED) == Transition(State.CLOSED, 4503)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.OPENING, Event.REFRESHED),
        (State.READY, Event.AUTHENTICATED),
        (State.READY, Event.AUTH_DEADLINE),
        (State.READY, Event.GRACE_OVER),
        (State.DRAINING, Event.DRAIN),
    ],
)
def test_what_cannot_happen_is_a_mistake_of_ours_and_changes_nothing(
    state: State, event: Event
) -> None:
    session = at(state)
    with pytest.raises(IllegalTransition) as caught:
        session.on(event)
    assert (caught.value.state, caught.value.event) == (state, event)
    assert session.state is state


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_any_run_of_events_goes_by_the_table_and_ends_at_the_first_close(
    events: list[Event],
) -> None:
    session, codes = SessionState(), []
    for event in events:
        before = session.state
        try:
            transition = session.on(event)
        except IllegalTransition:
            assert (before, event) not in TABLE
            assert session.state is before
            continue
        assert transition is TABLE[before, event]
        codes += [transition.close_code] if transition.close_code is not None else []
    assert len(codes) <= 1


# --- what a state admits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "method", "reason"),
    [
        (State.OPENING, "session.authenticate", None),
        (State.OPENING, "session.ping", "unauthenticated"),
        (State.OPENING, "session.refresh", "unauthenticated"),
        (State.OPENING, "message.send", "unauthenticated"),
        (State.OPENING, "no.such", "unauthenticated"),
        (State.READY, "message.send", None),
        (State.READY, "session.refresh", None),
        (State.READY, "no.such", None),
        (State.READY, "session.authenticate", "conflict"),
        (State.EXPIRED, "session.authenticate", None),
        (State.EXPIRED, "session.refresh", None),
        (State.EXPIRED, "session.ping", None),
        (State.EXPIRED, "message.send", "token_expired"),
        (State.EXPIRED, "no.such", "token_expired"),
        (State.DRAINING, "message.send", None),
        (State.DRAINING, "session.authenticate", "conflict"),
        (State.CLOSED, "session.authenticate", "unauthenticated"),
        (State.CLOSED, "session.ping", "unauthenticated"),
    ],
)
def test_a_state_admits_what_the_contract_says(
    state: State, method: str, reason: str | None
) -> None:
    session = at(state)
    if reason is None:
        session.admit(method)
    else:
        with pytest.raises(Fault) as caught:
            session.admit(method)
        assert caught.value.reason == reason
    assert session.state is state


# --- faulty frames --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", LIVE)
def test_the_tenth_faulty_frame_closes_the_connection(state: State) -> None:
    session = at(state)
    told = [session.faulty() for _ in range(MAX_FAULTY_FRAMES)]
    assert told == [None] * (MAX_FAULTY_FRAMES - 1) + [Transition(State.CLOSED, 4501)]
    assert session.faulty() is None  # what still comes after the close


def test_the_count_of_faulty_frames_survives_authentication() -> None:
    session = SessionState()
    for _ in range(MAX_FAULTY_FRAMES - 1):
        session.faulty()
    session.on(Event.AUTHENTICATED)
    assert session.faulty() == Transition(State.CLOSED, 4501)
