"""Following a run: its text is whole, wherever its events were cut."""

from datetime import UTC, datetime
from typing import Any

from hub_client.events import SNAPSHOT, Event
from hub_client.faults import ModelUnavailable
from hub_client.follow import RunFollower
from hub_client.records import Message, Run
from hypothesis import given
from hypothesis import strategies as st

CHANNEL = "conversation:c_1"


def made(seq: int, **data: Any) -> Event:
    return Event(CHANNEL, "e1", seq, 1, data["type"], data)


def of_run(run: str, *messages: tuple[str, list[str]], outcome: str = "success") -> list[Event]:
    body: list[dict[str, Any]] = [{"type": "RUN_STARTED", "threadId": "c_1", "runId": run}]
    for id, words in messages:
        body.append({"type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant"})
        body += [{"type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": word} for word in words]
        body.append({"type": "TEXT_MESSAGE_END", "messageId": id})
    end = {"type": "RUN_FINISHED", "threadId": "c_1", "runId": run}
    body.append(end | {"outcome": {"type": outcome}})
    return [made(seq + 1, **data) for seq, data in enumerate(body)]


def stored(id: str, text: str, run: str = "r_1", role: str = "assistant") -> Message:
    return Message(id, "c_1", role, text, datetime.now(UTC), run_id=run)


def text_of(events: list[Event], kind: str = "TEXT") -> dict[str, str]:
    """What a reader that shows deltas has on its screen."""
    texts: dict[str, str] = {}
    for event in events:
        if event.type == f"{kind}_MESSAGE_CONTENT":
            assert event.message_id is not None
            texts[event.message_id] = texts.get(event.message_id, "") + event.delta
    return {id: text for id, text in texts.items() if text}


def well_formed(events: list[Event]) -> None:
    """Started once, ended once, every message opened before and closed after its text."""
    assert [event.type for event in events].count("RUN_STARTED") == 1
    assert [event.terminal for event in events] == [False] * (len(events) - 1) + [True]
    open_messages: set[str | None] = set()
    for event in events:
        if event.type.endswith("_MESSAGE_START"):
            open_messages.add(event.message_id)
        elif event.type.endswith("_MESSAGE_CONTENT"):
            assert event.message_id in open_messages
        elif event.type.endswith("_MESSAGE_END"):
            open_messages.remove(event.message_id)
    assert not open_messages


MESSAGES = st.lists(st.lists(st.text("ab ", min_size=1, max_size=3), max_size=6), max_size=3)


@given(MESSAGES, st.data())
def test_a_run_that_ended_while_events_were_lost_is_told_to_its_end(
    words: list[list[str]], data: st.DataObject
) -> None:
    messages = [(f"a_{number}", each) for number, each in enumerate(words)]
    log = of_run("r_1", *messages)
    cut = data.draw(st.integers(0, len(log) - 1))
    follower = RunFollower("r_1", "m_1")
    seen = [event for before in log[:cut] for event in follower.feed(before)]
    run = Run("r_1", "c_1", "succeeded", message_id="m_1")
    kept = [stored(id, "".join(each)) for id, each in messages]
    others = [stored("m_1", "hi", role="user"), stored("z", "no", run="r_0")]
    seen += follower.settle(made(90, type=SNAPSHOT), run, others + kept)
    well_formed(seen)
    assert text_of(seen) == {id: "".join(each) for id, each in messages if each}
    assert follower.finished


@given(MESSAGES, st.data())
def test_a_run_that_goes_on_after_a_snapshot_is_told_in_full(
    words: list[list[str]], data: st.DataObject
) -> None:
    messages = [(f"a_{number}", each) for number, each in enumerate(words)]
    log = of_run("r_1", *messages)
    lost_from = data.draw(st.integers(0, len(log) - 1))
    lost_to = data.draw(st.integers(lost_from, len(log) - 1))
    follower = RunFollower("r_1", "m_1")
    seen = [event for before in log[:lost_from] for event in follower.feed(before)]

    # The snapshot holds what the log says up to `lost_to`, after the user's message.
    reader = RunFollower("r_1", "m_1")
    for event in log[:lost_to]:
        reader.feed(event)
    items: list[dict[str, Any]] = [
        {"id": "m_0", "role": "user", "content": "before"},
        {"id": "z", "role": "assistant", "content": "not ours"},
        {"id": "m_1", "role": "user", "content": "hi"},
    ]
    items += [{"id": id, "role": "assistant", "content": t} for id, t in reader.texts.items()]
    snapshot = made(lost_to, type=SNAPSHOT, messages=items)
    seen += follower.patch(snapshot)
    if lost_to == 0 or follower._inside or lost_from:
        rest = log[lost_to:] if lost_to else log
        seen += [event for after in rest for event in follower.feed(after)]
        assert text_of(seen) == {id: "".join(each) for id, each in messages if each}
        assert follower.finished


@given(st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1), st.data())
def test_reasoning_goes_on_after_a_snapshot(words: list[str], data: st.DataObject) -> None:
    thought = {"messageId": "t_1"}
    body: list[dict[str, Any]] = [{"type": "RUN_STARTED", "threadId": "c_1", "runId": "r_1"}]
    body += [{"type": "REASONING_START", **thought}]
    body += [{"type": "REASONING_MESSAGE_START", **thought, "role": "reasoning"}]
    body += [{"type": "REASONING_MESSAGE_CONTENT", **thought, "delta": word} for word in words]
    body += [{"type": "REASONING_MESSAGE_END", **thought}, {"type": "REASONING_END", **thought}]
    tail = of_run("r_1", ("a_1", ["so", " it is"]))[1:]
    log = [made(seq + 1, **each) for seq, each in enumerate(body)]
    log += [made(len(body) + 1 + seq, **event.data) for seq, event in enumerate(tail)]
    lost_from = data.draw(st.integers(0, len(log) - 1))
    lost_to = data.draw(st.integers(max(lost_from, 1), len(log) - 1))
    follower, reader = RunFollower("r_1", "m_1"), RunFollower("r_1", "m_1")
    seen = [event for before in log[:lost_from] for event in follower.feed(before)]
    for event in log[:lost_to]:
        reader.feed(event)
    items: list[dict[str, Any]] = [{"id": "m_1", "role": "user", "content": "Why?"}]
    items += [{"id": i, "role": "reasoning", "content": t} for i, t in reader.thoughts.items()]
    items += [{"id": i, "role": "assistant", "content": t} for i, t in reader.texts.items()]
    seen += follower.patch(made(lost_to, type=SNAPSHOT, messages=items))
    if not follower._inside:  # nobody knows yet that it has begun
        return
    seen += [event for after in log[lost_to:] for event in follower.feed(after)]
    assert text_of(seen) == {"a_1": "so it is"}
    assert text_of(seen, "REASONING") == {"t_1": "".join(words)}
    well_formed(seen)


def test_events_of_other_runs_are_not_shown() -> None:
    follower = RunFollower("r_2", "m_2")
    events = [*of_run("r_1", ("a", ["no"])), *of_run("r_2", ("b", ["yes"]))]
    seen = [event for each in events for event in follower.feed(each)]
    assert text_of(seen) == {"b": "yes"}
    well_formed(seen)


def test_a_run_cancelled_before_it_began_ends_all_the_same() -> None:
    follower = RunFollower("r_2", "m_2")
    end = made(1, type="RUN_FINISHED", runId="r_2", outcome={"type": "cancelled"})
    assert follower.feed(end) == [end]
    assert (follower.finished, follower.outcome) == (True, "cancelled")


def test_a_run_that_fails_before_it_began_ends_and_its_neighbours_error_is_not_its_own() -> None:
    follower = RunFollower("r_2", "m_2")
    error = {"type": "RUN_ERROR", "message": "No.", "code": "timeout"}
    assert follower.feed(made(1, **error, metadata={"runId": "r_1"})) == []
    end = made(2, **error, metadata={"runId": "r_2"})
    assert follower.feed(end) == [end]
    assert follower.finished


def test_a_failed_run_holds_its_typed_error() -> None:
    follower = RunFollower("r_1", "m_1")
    follower.feed(made(1, type="RUN_STARTED", runId="r_1"))
    follower.feed(made(2, type="RUN_ERROR", code="model_unavailable", message="Start it."))
    assert isinstance(follower.error, ModelUnavailable)
    assert follower.error.message == "Start it."


def test_text_that_was_replaced_is_given_anew() -> None:
    follower = RunFollower("r_1", "m_1")
    for event in of_run("r_1", ("a", ["first words"]))[:3]:
        follower.feed(event)
    run = Run("r_1", "c_1", "succeeded")
    events = follower.settle(made(9, type=SNAPSHOT), run, [stored("a", "other words")])
    assert events[0].type == SNAPSHOT
    assert events[0].data["messages"][0]["content"] == "other words"
    assert follower.texts == {"a": "other words"}


def test_the_partial_answer_of_a_lost_worker_is_void_once_the_log_says_so() -> None:
    follower = RunFollower("r_1", "m_1")
    for event in of_run("r_1", ("a", ["half an ans"]))[:4]:
        follower.feed(event)
    asked = {"id": "m_1", "role": "user", "content": "?"}
    (told,) = follower.feed(made(5, type=SNAPSHOT, messages=[asked]))
    assert told.type == SNAPSHOT
    for event in of_run("r_1", ("b", ["the answer"]))[1:]:
        follower.feed(event)
    assert follower.finished
    assert follower.texts == {"b": "the answer"}


def test_a_recovered_snapshot_voids_what_it_does_not_hold() -> None:
    follower = RunFollower("r_1", "m_1")
    for event in of_run("r_1", ("a", ["half an ans"]))[:3]:
        follower.feed(event)
    asked = {"id": "m_1", "role": "user", "content": "?"}
    now = {"id": "b", "role": "assistant", "content": "the "}
    events = follower.patch(made(5, type=SNAPSHOT, messages=[asked, now]))
    assert text_of(events) == {"b": "the "}
    assert follower.texts == {"b": "the "}
