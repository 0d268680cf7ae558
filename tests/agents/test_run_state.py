"""The run's state table."""

import pytest

from hub.agents.run_state import (
    ACTIVE,
    TERMINAL,
    TRANSITIONS,
    IllegalRunTransition,
    RunEvent,
    RunStatus,
    advance,
)


def test_every_state_is_active_or_terminal_and_never_both() -> None:
    assert set(RunStatus) == ACTIVE | TERMINAL
    assert not ACTIVE & TERMINAL
    assert {status for status in RunStatus if status.terminal} == TERMINAL


def test_every_state_is_reached_from_queued() -> None:
    reached = {RunStatus.QUEUED}
    while True:
        more = {after for (before, _), after in TRANSITIONS.items() if before in reached}
        if more <= reached:
            break
        reached |= more
    assert reached == set(RunStatus)


def test_every_event_is_used() -> None:
    assert {event for _, event in TRANSITIONS} == set(RunEvent)


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("event", RunEvent)
def test_a_run_that_has_ended_does_nothing_more(status: RunStatus, event: RunEvent) -> None:
    with pytest.raises(IllegalRunTransition):
        advance(status, event)


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_every_active_run_can_end(status: RunStatus) -> None:
    ends = {after for (before, _), after in TRANSITIONS.items() if before is status}
    assert ends & TERMINAL


@pytest.mark.parametrize("event", [RunEvent.TAKEN_OVER, RunEvent.FINISHED, RunEvent.FAILED])
def test_a_run_that_has_not_begun_cannot(event: RunEvent) -> None:
    with pytest.raises(IllegalRunTransition, match="a queued run cannot be"):
        advance("queued", event)


def test_an_unknown_status_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="limbo"):
        advance("limbo", RunEvent.BEGUN)
