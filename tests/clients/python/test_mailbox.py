"""A subscriber's mailbox: bounded, in order, with the history before the live events."""

import pytest
from hub_client.events import SNAPSHOT, Event, Position, Since, join
from hub_client.faults import ResumeGap, SubscriberTooSlow
from hub_client.mailbox import CatchUp, Mailbox
from hypothesis import given
from hypothesis import strategies as st

CHANNEL = "conversation:c_1"


def delta(seq: int, text: str = "x", *, span: int = 1, message: str = "m") -> Event:
    data = {"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": text}
    return Event(CHANNEL, "e1", seq, span, data["type"], data)


def other(seq: int) -> Event:
    return Event(CHANNEL, "e1", seq, 1, "STEP_STARTED", {"type": "STEP_STARTED"})


def snapshot(seq: int, epoch: str = "e1") -> Event:
    return Event(CHANNEL, epoch, seq, 0, SNAPSHOT, {"type": SNAPSHOT}, recovered=True)


def drain(mailbox: Mailbox) -> list[Event]:
    events = []
    while (event := mailbox.pop()) is not None:
        events.append(event)
    return events


def live_at(seq: int, since: Since = None, size: int = 100) -> Mailbox:
    mailbox = Mailbox(CHANNEL, since, size)
    assert mailbox.join(Position("e1", seq), None) is None
    return mailbox


@given(
    texts=st.lists(st.text("ab", min_size=1, max_size=3), max_size=60),
    reads=st.lists(st.booleans(), max_size=60),
    size=st.integers(2, 8),
)
def test_a_slow_reader_gets_the_same_text_in_larger_pieces(
    texts: list[str], reads: list[bool], size: int
) -> None:
    mailbox, got = live_at(0, size=size), []
    for number, text in enumerate(texts):
        mailbox.push(delta(number + 1, text))
        if number < len(reads) and reads[number] and (event := mailbox.pop()) is not None:
            got.append(event)
    got += drain(mailbox)
    assert not mailbox.ended
    assert "".join(event.delta for event in got) == "".join(texts)
    assert sum(event.span for event in got) == len(texts)
    assert [event.seq - event.span for event in got] == [0, *[e.seq for e in got]][: len(got)]


def test_a_full_mailbox_ends_with_an_error_after_what_it_holds() -> None:
    mailbox = live_at(0, size=3)
    for seq in range(1, 10):
        mailbox.push(other(seq))
    assert [event.seq for event in drain(mailbox)] == [1, 2, 3]
    assert isinstance(mailbox.error, SubscriberTooSlow)
    assert mailbox.error.position == ("e1", 3)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (delta(1), delta(3)),
        (delta(1), delta(2, message="n")),
        (delta(1), other(2)),
        (delta(1), snapshot(1)),
        (other(1), other(2)),
        (delta(1, "x" * 40_000), delta(2, "x" * 40_000)),
    ],
    ids=["a hole", "two messages", "two types", "a snapshot", "no deltas", "too large"],
)
def test_what_does_not_belong_together_is_not_joined(first: Event, second: Event) -> None:
    assert join(first, second) is None


@given(
    log=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    data=st.data(),
)
def test_history_and_live_events_meet_without_gap_or_repeat(
    log: list[int], data: st.DataObject
) -> None:
    entries, seq = [], 0
    for span in log:
        seq += span
        entries.append(delta(seq, str(seq), span=span))
    joined_at = data.draw(st.sampled_from([0, *[event.seq for event in entries]]))
    begin = data.draw(st.sampled_from([0, *[e.seq for e in entries if e.seq <= joined_at]]))
    mailbox = Mailbox(CHANNEL, Position("e1", begin), 1000)
    mailbox.join(Position("e1", joined_at), None)
    got: list[Event] = []
    to_come = [event for event in entries if event.seq > joined_at]
    while mailbox.catch_up is not None:
        one_comes = data.draw(st.booleans())
        if to_come and one_comes:
            mailbox.push(to_come.pop(0))
        after = mailbox.catch_up.after.seq
        page = [event for event in entries if event.seq > after]
        count = data.draw(st.integers(1, 5))
        mailbox.fill(page[:count])
        got += drain(mailbox)
    for event in to_come:
        mailbox.push(event)
    got += drain(mailbox)
    assert got == [event for event in entries if event.seq > begin]


def test_from_the_start_begins_with_the_oldest_event_that_is_held() -> None:
    mailbox = live_at(9, "start")
    mailbox.fill([other(7), other(8), other(9)])
    assert [event.seq for event in drain(mailbox)] == [7, 8, 9]
    assert mailbox.catch_up is None


def test_a_hole_in_the_history_is_noticed() -> None:
    mailbox = live_at(9, Position("e1", 3))
    with pytest.raises(ResumeGap):
        mailbox.fill([other(7), other(8), other(9)])


def test_a_history_that_ends_too_soon_is_noticed() -> None:
    mailbox = live_at(9, Position("e1", 3))
    with pytest.raises(ResumeGap):
        mailbox.fill([])


def test_a_position_of_another_log_asks_for_a_new_subscription() -> None:
    mailbox = Mailbox(CHANNEL, Position("e0", 3), 10)
    assert mailbox.join(Position("e1", 9), None) == Position("e0", 3)
    assert not mailbox.joined


def test_a_snapshot_stands_for_history_that_was_still_to_be_read() -> None:
    mailbox = live_at(9, Position("e1", 3))
    assert mailbox.catch_up == CatchUp(Position("e1", 3), Position("e1", 9))
    mailbox.push(snapshot(12))
    mailbox.push(other(13))
    assert [event.seq for event in drain(mailbox)] == [12, 13]


def test_a_subscriber_ahead_of_the_channel_sees_only_what_it_has_not() -> None:
    mailbox = live_at(3, Position("e1", 5))
    for seq in range(4, 8):
        mailbox.push(other(seq))
    assert [event.seq for event in drain(mailbox)] == [6, 7]


def test_a_gap_ends_this_subscriber_with_an_error() -> None:
    mailbox = live_at(3)
    mailbox.push(other(5))
    assert isinstance(mailbox.error, ResumeGap)
