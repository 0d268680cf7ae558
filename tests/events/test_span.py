"""Joining deltas: the same text, the same positions, in fewer events, whatever is mixed in."""

import tracemalloc
from collections import defaultdict
from collections.abc import Iterable, Sequence

import orjson
from hypothesis import given
from hypothesis import strategies as st

from hub.events import vocabulary as say
from hub.events.delivery import Delivery
from hub.events.span import ENVELOPE_BYTES, JOINED_BYTES, Spans, join, joined

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "\\", '\\"', "\n\u2028\x00", "👩‍👩‍👧", "e\u0301", '","delta":"', "\\u0041"]
)
EVENT = st.one_of(
    st.builds(say.text_content, st.sampled_from(["m_1", "m_2", 'm"x\\']), TEXT),
    st.builds(say.reasoning_content, st.just("m_1"), TEXT),
    st.builds(say.text_end, st.just("m_1")),
    st.just(b'{"type":"TOOL_CALL_ARGS","toolCallId":"t_1","delta":"{\\"a\\":"}'),
    # Deltas that ``vocabulary`` does not write: they are left alone.
    st.just(b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m_1","delta":"x","timestamp":1}'),
    st.just(b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m_1","delta":"x","rawEvent":"y"}'),
    st.just(b'{"type":"CUSTOM","name":"delta","value":"x"}'),
)


@st.composite
def waiting(draw: st.DrawFn) -> list[Delivery | bytes]:
    """Deliveries of several channels, each in its order, and ready frames between them."""
    at: defaultdict[str, int] = defaultdict(int)
    items: list[Delivery | bytes] = []
    for _ in range(draw(st.integers(0, 30))):
        if draw(st.integers(0, 8)) == 0:
            items.append(b"frame %d" % len(items))
            continue
        channel = draw(st.sampled_from(["a", "b"]))
        span = draw(st.sampled_from([1, 1, 1, 4]))  # some were joined before
        at[channel] += span + draw(st.sampled_from([0, 0, 0, 0, 0, 2]))
        epoch = draw(st.sampled_from(["e1"] * 9 + ["e2"]))
        items.append(Delivery(channel, epoch, at[channel], draw(EVENT), span))
    return items


def told(items: Iterable[Delivery | bytes]) -> dict[str, list[tuple[object, ...]]]:
    """What each channel's reader makes of it: pieces of text by message, and other events."""
    told: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
    for item in items:
        if isinstance(item, bytes):
            for channel in ("a", "b"):
                told[channel].append((item,))
            continue
        event = orjson.loads(item.event)
        facts = {key: value for key, value in event.items() if key != "delta"}
        last = told[item.channel][-1] if told[item.channel] else ()
        if "delta" in event and len(last) == 3 and last[:2] == (item.epoch, facts):
            told[item.channel][-1] = (*last[:2], f"{last[2]}{event['delta']}")
        elif "delta" in event:
            told[item.channel].append((item.epoch, facts, event["delta"]))
        else:
            told[item.channel].append((item.epoch, facts))
    return told


def places(items: Iterable[Delivery | bytes]) -> dict[str, list[tuple[str, int]]]:
    """The positions that a channel's deliveries stand for, in order."""
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for item in items:
        if isinstance(item, Delivery):
            for seq in range(item.seq - item.span + 1, item.seq + 1):
                found[item.channel].append((item.epoch, seq))
    return found


@given(waiting())
def test_joining_changes_no_text_no_position_and_no_order(items: list[Delivery | bytes]) -> None:
    kept = join(items)
    assert told(kept) == told(items)
    assert places(kept) == places(items)
    assert len(kept) <= len(items)
    assert join(kept) == kept  # nothing is left to be joined


@given(waiting(), st.lists(st.integers(1, 600), min_size=1, max_size=8), st.data())
def test_what_is_taken_a_part_at_a_time_while_more_comes_is_all_of_it_in_order(
    items: list[Delivery | bytes], sizes: list[int], data: st.DataObject
) -> None:
    spans, taken = Spans(), list[Delivery | bytes]()
    for item in items:
        spans.add(item)
        if data.draw(st.integers(0, 5)) == 0:
            before = spans.size
            most = data.draw(st.sampled_from(sizes))
            part = spans.take(most)
            assert before - spans.size <= most or len(part) == 1
            taken += part
    while spans:
        taken += spans.take(sizes[0])
    assert spans.size == 0
    assert told(taken) == told(items)
    assert places(taken) == places(items)


@given(st.lists(TEXT, min_size=1, max_size=40))
def test_consecutive_deltas_of_a_message_become_one_event_with_exactly_their_text(
    texts: list[str],
) -> None:
    (only,) = joined(_deltas(texts))
    assert orjson.loads(only.event)["delta"] == "".join(texts)
    assert only.event == say.text_content("m_1", "".join(texts))
    assert (only.seq, only.span) == (len(texts), len(texts))


def test_what_is_joined_stays_within_a_size() -> None:
    kept = joined(_deltas(["x" * 1_000] * 100))
    assert all(len(delivery.event) < JOINED_BYTES + 200 for delivery in kept)
    assert len(kept) == 4
    long = _deltas(["y" * (2 * JOINED_BYTES)])
    assert joined(long) == long


def test_deltas_of_two_channels_that_alternate_are_joined_each_in_its_own() -> None:
    ones, twos = _deltas(["a", "b", "c"], "one"), _deltas(["x", "y", "z"], "two")
    kept = joined([delivery for pair in zip(ones, twos, strict=True) for delivery in pair])
    assert [(d.channel, orjson.loads(d.event)["delta"]) for d in kept] == [
        ("one", "abc"),
        ("two", "xyz"),
    ]


def _deltas(texts: Sequence[str], channel: str = "a") -> list[Delivery]:
    return [
        Delivery(channel, "e1", seq, say.text_content("m_1", text))
        for seq, text in enumerate(texts, 1)
    ]


@given(waiting())
def test_what_waits_weighs_about_what_its_frames_do(items: list[Delivery | bytes]) -> None:
    spans = Spans()
    for item in items:
        spans.add(item)
    frames = [i if isinstance(i, bytes) else i.frame for i in spans.items()]
    weight = sum(len(frame) for frame in frames)
    assert weight <= spans.size <= weight + ENVELOPE_BYTES * len(frames)
    for channel in ("a", "b"):
        spans.forget(channel)
    assert spans.size == sum(len(item) for item in items if isinstance(item, bytes))


def test_what_waits_for_a_reader_is_held_as_text_and_not_as_events() -> None:
    spans, count = Spans(), 20_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for seq in range(1, count + 1):
            spans.add(Delivery("conversation:c_1", "e1", seq, say.text_content("m_1", "x")))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 2 * spans.size < 4 * count
    (whole,) = spans.items()
    assert isinstance(whole, Delivery)
    assert (whole.seq, whole.span) == (count, count)
    assert orjson.loads(whole.event)["delta"] == "x" * count
