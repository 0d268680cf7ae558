"""What a log amounts to, told from the events that the vocabulary makes."""

from hypothesis import given
from hypothesis import strategies as st

from hub.events import vocabulary as say
from hub.events.fold import Progress, fold

TEXTS = st.lists(st.text(max_size=5), max_size=6)


def answer(message_id: str, deltas: list[str], *, closed: bool = True) -> list[bytes]:
    events = [say.text_start(message_id), *(say.text_content(message_id, d) for d in deltas)]
    return [*events, say.text_end(message_id)] if closed else events


def started(run_id: str) -> bytes:
    return say.run_started("c_1", run_id, [])


def finished(run_id: str) -> bytes:
    return say.run_finished("c_1", run_id, "success", [])


@given(TEXTS, TEXTS, st.booleans())
def test_a_run_in_progress_has_the_text_of_its_messages(
    first: list[str], second: list[str], closed: bool
) -> None:
    progress = fold([started("r_1"), *answer("m_1", first), *answer("m_2", second, closed=closed)])
    assert progress.run_id == "r_1"
    assert {key: (m.text, m.closed) for key, m in progress.messages.items()} == {
        "m_1": ("".join(first), True),
        "m_2": ("".join(second), closed),
    }


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.data())
def test_folding_in_pieces_is_folding_at_once(
    runs: list[tuple[list[str], list[str]]], data: st.DataObject
) -> None:
    events: list[bytes] = []
    for number, (thoughts, deltas) in enumerate(runs):
        thinking = [say.reasoning_content(f"m_t{number}", text) for text in thoughts]
        events += [started(f"r_{number}"), *say.reasoning_start(f"m_t{number}"), *thinking]
        events += [*say.reasoning_end(f"m_t{number}"), *answer(f"m_{number}", deltas)]
        events += [finished(f"r_{number}")]
    cut = data.draw(st.integers(0, len(events)))
    assert fold(events[cut:], fold(events[:cut])) == fold(events)


@given(TEXTS)
def test_nothing_of_a_run_that_ended_is_in_progress(deltas: list[str]) -> None:
    for end in (finished("r_1"), say.run_error("r_1", "timeout", "It took too long.", [])):
        progress = fold([started("r_1"), say.step_started("s"), *answer("m_1", deltas), end])
        assert progress == Progress(ended={"r_1"})


def test_what_was_left_open_is_known_to_be_open() -> None:
    events = [started("r_1"), say.step_started("one"), say.step_started("two")]
    events += [say.step_finished("one"), *say.reasoning_start("m_t"), *answer("m_1", ["a"])]
    progress = fold([*events, say.text_start("m_2")])
    assert progress.steps == ["two"]
    assert progress.phases == ["m_t"]
    assert [m.id for m in progress.messages.values() if not m.closed] == ["m_t", "m_2"]


@given(TEXTS, TEXTS, st.booleans())
def test_a_restatement_alone_tells_as_much_as_the_whole_log(
    before: list[str], after: list[str], thinks: bool
) -> None:
    snapshot = say.messages_snapshot(
        [
            {"id": "m_u", "role": "user", "content": "Why?"},
            {
                "id": "m_1",
                "role": "reasoning" if thinks else "assistant",
                "content": "".join(before),
            },
        ]
    )
    snapshot["metadata"] = {"runId": "r_1", "open": ["m_1"]}
    more = say.reasoning_content if thinks else say.text_content
    opened = say.reasoning_start("m_1") if thinks else (say.text_start("m_1"),)
    said = [more("m_1", delta) for delta in before]
    rest = [say.encode(snapshot), *(more("m_1", delta) for delta in after)]
    whole = fold([started("r_1"), *opened, *said, *rest])
    alone = fold(rest)
    assert alone.run_id == whole.run_id == "r_1"
    assert alone.phases == whole.phases == (["m_1"] if thinks else [])
    text = "".join(before + after)
    assert whole.messages["m_1"].text == alone.messages["m_1"].text == text
    assert whole.messages["m_1"].role == alone.messages["m_1"].role
    assert fold([finished("r_1")], alone).ended == {"r_1"}


def test_a_run_whose_start_was_trimmed_away_is_still_known_to_have_ended() -> None:
    assert fold([say.text_content("m_1", "rest"), finished("r_1")]).ended == {"r_1"}
    assert fold([say.run_error("r_1", "timeout", "Too long.", [])]).ended == {"r_1"}


def test_a_foreign_snapshot_changes_nothing() -> None:
    events = [started("r_1"), *answer("m_1", ["a"], closed=False)]
    snapshot = say.encode(say.messages_snapshot([]))
    assert fold([*events, snapshot]) == fold(events)
