"""The decisions of resuming, against all logs and positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.backplane.interface import Entry, LogSlice, Position
from hub.events.position import Since, parse_since
from hub.events.recovery import Arrival, acknowledged, classify, resume
from hub.faults import Fault

EPOCHS = st.sampled_from(["e1", "e2"])


@st.composite
def logs(draw: st.DrawFn) -> LogSlice:
    """A log as a read answers it: its newest ``last``, of which ``first`` and on are held."""
    last = draw(st.integers(0, 20))
    first = draw(st.integers(1, last + 1))
    held = tuple(Entry(seq, b"") for seq in range(first, last + 1))
    return LogSlice(draw(EPOCHS), first, last, held)


POSITIONS = st.builds(Position, EPOCHS, st.integers(0, 25))
SINCES: st.SearchStrategy[Since] = st.one_of(st.none(), st.just("start"), POSITIONS)


@given(SINCES, logs())
def test_what_is_continued_is_missing_nothing(since: Since, log: LogSlice) -> None:
    at = resume(since, log)
    if at is None:
        assert since is not None
        return
    assert at.epoch == log.epoch
    held = {entry.seq for entry in log.entries}
    assert set(range(at.seq + 1, log.last + 1)) <= held
    assert at.seq <= log.last
    if isinstance(since, Position):
        assert at == since


@given(logs())
def test_from_now_on_is_always_possible(log: LogSlice) -> None:
    assert resume(None, log) == Position(log.epoch, log.last)


@given(logs())
def test_from_the_start_is_possible_exactly_while_the_first_entry_is_held(log: LogSlice) -> None:
    at = resume("start", log)
    assert (at == Position(log.epoch, 0)) == (log.first == 1)
    assert (at is None) == (log.first > 1)


@given(POSITIONS, logs())
def test_a_position_is_refused_only_for_a_reason(since: Position, log: LogSlice) -> None:
    reasons = (
        since.epoch != log.epoch,  # another log, or a forged one
        since.seq > log.last,  # nobody was ever given it
        since.seq + 1 < log.first,  # what follows it is no longer held
    )
    assert (resume(since, log) is None) == any(reasons)


@given(POSITIONS, EPOCHS, st.integers(1, 30))
def test_an_entry_is_next_old_a_gap_or_of_another_log(at: Position, epoch: str, seq: int) -> None:
    arrival = classify(at, epoch, seq)
    assert (arrival is Arrival.OTHER_LOG) == (epoch != at.epoch)
    if epoch == at.epoch:
        expected = {0: Arrival.NEXT}.get(seq - at.seq - 1)
        assert arrival is (expected or (Arrival.OLD if seq <= at.seq else Arrival.GAP))


@given(EPOCHS, st.integers(0, 10**15 - 1))
def test_a_position_survives_being_written_in_a_query(epoch: str, seq: int) -> None:
    assert parse_since(f"{epoch}:{seq}") == Position(epoch, seq)


@given(st.text())
def test_any_other_text_is_a_value_error_or_a_well_formed_position(text: str) -> None:
    try:
        since = parse_since(text)
    except ValueError:
        return
    if isinstance(since, Position):
        assert since.epoch
        assert 0 <= since.seq < 10**15
    else:
        assert (text, since) in {("", None), ("start", "start")}


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_what_is_acknowledged_never_goes_back_nor_into_the_future(
    known: int, at: int, last: int
) -> None:
    log = LogSlice("e1", 1, last, ())
    kept = Position("e1", min(known, last))
    if at > last:
        with pytest.raises(Fault) as refusal:
            acknowledged(kept, Position("e1", at), log)
        assert refusal.value.reason == "invalid_params"
    else:
        assert acknowledged(kept, Position("e1", at), log) == Position("e1", max(kept.seq, at))
        # What was kept of a log that is lost says nothing of this one.
        assert acknowledged(Position("e0", 99), Position("e1", at), log) == Position("e1", at)
        assert acknowledged(None, Position("e1", at), log) == Position("e1", at)
    with pytest.raises(Fault) as refusal:
        acknowledged(kept, Position("e0", at), log)
    assert refusal.value.reason == "resume_gap"
