"""No bytes make the codec raise anything but a fault; what it writes, it reads."""

import json
import math
from contextlib import suppress
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hub.faults import CLOSES
from hub.protocol import codec
from hub.protocol.frames import ErrorReply, Frame, FrameFault, Notification, Reply, Request
from hub.protocol.limits import (
    MAX_CLOSE_REASON_BYTES,
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    MAX_ID_CHARS,
)
from tests.protocol.vectors import data_of, rows

GOLDEN = [data_of(row) for row in rows("frames.json") + rows("faulty_frames.json")]
SHORT_GOLDEN = [data for data in GOLDEN if len(data) < 1_000]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IDS = st.integers(-(1 << 63), (1 << 64) - 1) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=MAX_ID_CHARS
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(TEXT, VALUES, max_size=5)
ERRORS = st.fixed_dictionaries(
    {"code": st.integers(-(1 << 31), 1 << 31), "message": TEXT}, optional={"data": VALUES}
)


def read(data: bytes) -> Frame | FrameFault:
    """What decode makes of it. Anything but a frame or a fault fails the test."""
    try:
        return codec.decode(data)
    except FrameFault as fault:
        return fault


def fault_of(text: str) -> FrameFault:
    with pytest.raises(FrameFault) as caught:
        codec.decode_text(text)
    return caught.value


# --- nothing but faults ---------------------------------------------------------------------------

TOKENS = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"d800", b"\\ud83d\\ude00"),
        *(b"null", b"true", b"NaN", b"Infinity", b"-", b"1e400", b"9" * 40, b"0", b"-0", b"1.5"),
        *(b'"id"', b'"id":', b'"jsonrpc":"2.0"', b'"method":"m"', b'"params":{}', b'"result":1'),
        *(b'"error":{"code":1,"message":"m"}', b'"a":1', b'"\\u0061":2', b" ", b"\n", b"\x00"),
        *(b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[" * 40, b"]" * 40, b'{"a":' * 40),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A golden frame with some of its bytes cut out, doubled or mixed with others."""
    data = draw(st.sampled_from(SHORT_GOLDEN))
    for _ in range(draw(st.integers(1, 4))):
        at, to = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        middle = draw(st.just(b"") | st.just(data[at:to] * 2) | TOKENS | st.binary(max_size=3))
        data = data[:at] + middle + data[to:]
    return data


@given(st.binary(max_size=200))
def test_random_bytes_are_a_frame_or_a_fault(data: bytes) -> None:
    read(data)


@settings(max_examples=400)
@given(st.lists(TOKENS, max_size=24).map(b"".join))
def test_random_tokens_are_a_frame_or_a_fault(data: bytes) -> None:
    read(data)


@settings(max_examples=600)
@given(mutated())
def test_mutated_frames_are_a_frame_or_a_fault(data: bytes) -> None:
    read(data)


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "extra"]),
        VALUES | st.just("2.0") | ERRORS,
        max_size=6,
    )
)
def test_ill_typed_members_are_a_frame_or_a_fault(members: dict[str, Any]) -> None:
    read(orjson.dumps(members))
    read(orjson.dumps({**members, "jsonrpc": "2.0"}))


@given(st.text(max_size=40))
@example("\ud800")
@example('{"jsonrpc":"2.0","id":1,"method":"\udfff"}')
def test_any_text_is_a_frame_or_a_fault(text: str) -> None:
    with suppress(FrameFault):
        codec.decode_text(text)


# --- the strictness, against an oracle ------------------------------------------------------------


class Pairs(tuple[tuple[str, Any], ...]):
    """An object as its members came, duplicates included."""


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """A JSON text of ``value`` with free white space and free escapes."""
    space = st.sampled_from(["", "", "", " ", "\n", "\t "])
    match value:
        case str():
            return (
                '"'
                + "".join(
                    f"\\u{ord(c):04x}"
                    if ord(c) < 0x10000 and (c in '"\\' or ord(c) < 32 or draw(st.booleans()))
                    else c
                    for c in value
                )
                + '"'
            )
        case Pairs():
            inside = [
                f"{draw(space)}{draw(spelled(name))}{draw(space)}:{draw(spelled(item))}"
                for name, item in value
            ]
            return "{" + ",".join(inside) + draw(space) + "}"
        case list():
            return "[" + ",".join(draw(space) + draw(spelled(item)) for item in value) + "]"
    return json.dumps(value)


NAMES = st.sampled_from(["a", "b", "id", ":", "", '"', "\\"])
LOOSE = st.recursive(
    st.sampled_from([None, 1, ":", "a:b", "{[", '"', "\\", '\\":"']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=3).map(Pairs)
    ),
    max_leaves=10,
)


def has_duplicates(value: Any) -> bool:
    match value:
        case Pairs():
            names = [name for name, _ in value]
            return len(set(names)) < len(names) or any(has_duplicates(item) for _, item in value)
        case list():
            return any(has_duplicates(item) for item in value)
    return False


def plain(value: Any) -> Any:
    match value:
        case Pairs():
            return {name: plain(item) for name, item in value}
        case list():
            return [plain(item) for item in value]
    return value


@settings(max_examples=500)
@given(st.data(), LOOSE)
def test_duplicate_keys_are_found_however_they_are_written(data: st.DataObject, value: Any) -> None:
    text = data.draw(spelled(Pairs([("a", value)])))
    frame = f'{{"jsonrpc":"2.0","id":5,"method":"m","params":{text}}}'
    if has_duplicates(value):
        fault = fault_of(frame)
        assert (fault.reason, fault.request_id) == ("parse_error", 5)
    else:
        assert codec.decode_text(frame) == Request(5, "m", {"a": plain(value)})


@given(st.integers(1, 80), st.booleans(), st.text(st.sampled_from('[]{}"\\'), max_size=80))
def test_depth_counts_arrays_and_objects_but_not_text(depth: int, array: bool, text: str) -> None:
    nested: Any = text
    for _ in range(depth):
        nested = [nested] if array else {"k": nested}
    frame = codec.encode_request(5, "m", {"a": nested})  # two levels of its own
    if depth + 2 <= MAX_DEPTH:
        assert codec.decode(frame) == Request(5, "m", {"a": nested})
    else:
        fault = read(frame)
        assert isinstance(fault, FrameFault)
        assert (fault.reason, fault.request_id) == ("parse_error", 5)


@given(st.integers(-(1 << 70), 1 << 70), st.sampled_from(["", " "]))
@example(1 << 64, "")
@example((1 << 64) - 1, " ")
@example(-(1 << 63) - 1, "")
@example(-(1 << 63), " ")
def test_an_integer_is_exact_or_refused(number: int, space: str) -> None:
    frame = f'{{"jsonrpc":"2.0","id":5,"method":"m","params":{{"a":[{space}{number}]}}}}'
    if -(1 << 63) <= number < 1 << 64:
        assert codec.decode_text(frame) == Request(5, "m", {"a": [number]})
    else:
        assert fault_of(frame).request_id == 5


@pytest.mark.parametrize("over", [0, 1])
def test_the_size_limit_counts_bytes_not_characters(over: int) -> None:
    start, end = '{"jsonrpc":"2.0","id":5,"method":"m","params":{"a":"', '"}}'
    room = MAX_FRAME_BYTES - len(start) - len(end) + over
    frame = start + "é" * (room // 2) + "x" * (room % 2) + end
    assert len(frame.encode()) == MAX_FRAME_BYTES + over
    if over:
        assert fault_of(frame).reason == "parse_error"
    else:
        assert isinstance(codec.decode_text(frame), Request)


def test_a_fault_of_a_reply_carries_no_id_since_the_id_is_one_of_ours() -> None:
    assert fault_of('{"jsonrpc":"2.0","id":5,"result":1,"extra":2}').request_id is None
    assert fault_of('{"jsonrpc":"2.0","id":5,"result":{"a":1,"a":2}}').request_id is None
    assert fault_of('{"jsonrpc":"2.0","id":5,"method":"m","result":1}').request_id == 5


# --- what is written can be read ------------------------------------------------------------------


@given(IDS, TEXT, PARAMS)
def test_requests_are_read_as_they_were_written(id: Any, method: str, params: Any) -> None:
    assert codec.decode(codec.encode_request(id, method, params)) == Request(id, method, params)


@given(IDS, VALUES)
def test_replies_are_read_as_they_were_written(id: Any, result: Any) -> None:
    assert codec.decode(codec.encode_reply(id, result)) == Reply(id, result)


@given(IDS, VALUES)
def test_a_result_that_is_json_already_is_taken_as_it_is(id: Any, result: Any) -> None:
    encoded = orjson.dumps(result)
    assert codec.encode_reply(id, encoded) == codec.encode_reply(id, msgspec.Raw(encoded))
    assert codec.decode(codec.encode_reply(id, encoded)) == Reply(id, result)


@given(st.none() | IDS, ERRORS)
def test_errors_are_read_as_they_were_written(id: Any, error: Any) -> None:
    assert codec.decode(codec.encode_error(id, error)) == ErrorReply(id, error)


@given(TEXT, PARAMS)
def test_notices_are_read_as_they_were_written(method: str, params: Any) -> None:
    assert codec.decode(codec.encode_notice(method, params)) == Notification(method, params)


@given(TEXT, TEXT, st.integers(1, 1 << 53), PARAMS, st.integers(1, 10_000))
def test_events_are_read_as_they_were_written(
    channel: str, epoch: str, seq: int, event: Any, span: int
) -> None:
    frame = codec.encode_event(channel, epoch, seq, orjson.dumps(event), span)
    expected = {"channel": channel, "epoch": epoch, "seq": seq, "event": event}
    if span != 1:
        expected["span"] = span
    assert codec.decode(frame) == Notification("event", expected)


def test_an_event_is_spliced_in_without_being_read() -> None:
    event = b'{ "type" : "CUSTOM", "n" : 1.0e0 }'
    assert event in codec.encode_event("audit", "e1", 1, event)


@pytest.mark.parametrize(
    "value", ["\ud800", object(), {1, object()}], ids=["surrogate", "object", "set"]
)
def test_what_json_cannot_say_is_refused_when_written(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.encode_reply(1, {"a": value})


def test_nan_is_written_as_null_never_as_nan() -> None:
    assert codec.encode_reply(1, [math.nan, math.inf]).endswith(b'"result":[null,null]}')


@pytest.mark.parametrize("code", CLOSES)
def test_a_close_reason_fits_into_a_control_frame(code: int) -> None:
    reason = codec.close_reason(code, retry_after_ms=86_400_000)
    assert len(reason.encode()) <= MAX_CLOSE_REASON_BYTES
    assert json.loads(reason) == {"reason": CLOSES[code].reason, "retry_after_ms": 86_400_000}
