"""The codec agrees with the golden frames and takes nothing else for a frame."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hub_client.events import Event
from hub_client.faults import CLOSES, BadFrame, ConnectionClosed
from hub_client.frames import (
    MAX_FRAME_BYTES,
    Aside,
    ErrorReply,
    Notice,
    Reply,
    Request,
    decode,
    encode_error,
    encode_request,
)
from hypothesis import given
from hypothesis import strategies as st

VECTORS = Path(__file__).parents[2] / "vectors"
FRAMES = json.loads((VECTORS / "frames.json").read_text(encoding="utf-8"))["frames"]
CLOSE_FRAMES = json.loads((VECTORS / "closes.json").read_text(encoding="utf-8"))["closes"]


def of(direction: str, *kinds: str) -> list[Any]:
    return [
        pytest.param(row, id=row["name"])
        for row in FRAMES
        if row["direction"] == direction and row["frame"]["kind"] in kinds
    ]


@pytest.mark.parametrize("row", of("hub_to_client", "request", "reply", "error", "notification"))
def test_every_frame_of_the_hub_means_what_the_golden_frames_say(row: Any) -> None:
    frame, read = row["frame"], decode(row["text"])
    match read:
        case Reply(id, result):
            assert ("reply", id, result) == (frame["kind"], frame["id"], frame["result"])
        case ErrorReply(id, error):
            assert ("error", id, error) == (frame["kind"], frame["id"], frame["error"])
        case Request(id, method, params):
            assert (id, method, params) == (frame["id"], frame["method"], frame["params"])
            assert frame["kind"] == "request"
        case Notice(method, params):
            assert (method, params) == (frame["method"], frame["params"])
            assert frame["kind"] == "notification"
        case Aside(channel, data):
            assert frame["method"] == "event"
            assert {"channel": channel, "event": data} == frame["params"]
        case Event():
            params = frame["params"]
            assert frame["method"] == "event"
            assert (read.channel, read.epoch, read.seq) == (
                params["channel"],
                params["epoch"],
                params["seq"],
            )
            assert (read.span, read.data) == (params.get("span", 1), params["event"])


@pytest.mark.parametrize("row", of("client_to_hub", "request"))
def test_our_requests_are_the_golden_ones(row: Any) -> None:
    frame = row["frame"]
    text = encode_request(Request(frame["id"], frame["method"], frame["params"]))
    assert json.loads(text) == json.loads(row["text"]) | {"params": frame["params"]}
    if row["canonical"]:
        assert text == row["text"]


def test_our_refusal_of_a_tool_call_is_the_golden_one() -> None:
    (row,) = [row for row in FRAMES if row["name"] == "a client refuses a tool call"]
    error = row["frame"]["error"]
    text = encode_error(
        row["frame"]["id"], error["code"], error["data"]["reason"], error["message"]
    )
    assert json.loads(text) == json.loads(row["text"])


@pytest.mark.parametrize("row", CLOSE_FRAMES, ids=lambda row: str(row["code"]))
def test_every_close_of_the_hub_is_known(row: Any) -> None:
    told = json.loads(row["reason"])
    closed = ConnectionClosed(row["code"], row["reason"])
    assert closed.reconnect is row["reconnect"]
    assert closed.reason == told["reason"] == CLOSES[row["code"]][0]
    assert closed.retry_after == told.get("retry_after_ms", 0) / 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ALMOST = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": JSON,
        "method": st.just("event") | JSON,
        "result": JSON,
        "error": JSON,
        "params": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "channel": st.text() | JSON,
                "epoch": st.text() | JSON,
                "seq": st.integers() | JSON,
                "span": st.integers() | JSON,
                "event": st.just({"type": "X"}) | JSON,
            },
        ),
    },
)


@given(st.text() | JSON.map(json.dumps) | ALMOST.map(json.dumps))
def test_nothing_that_comes_raises_anything_but_bad_frame(text: str) -> None:
    with contextlib.suppress(BadFrame):
        decode(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"jsonrpc":"1.0","id":1,"result":{}}',
        '{"jsonrpc":"2.0","id":true,"result":{}}',
        '{"jsonrpc":"2.0","id":1.5,"result":{}}',
        '{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        '{"jsonrpc":"2.0","id":1}',
        '{"jsonrpc":"2.0","result":{}}',
        '{"jsonrpc":"2.0","method":"event","params":{"channel":"c","epoch":"e","seq":1}}',
        '{"jsonrpc":"2.0","method":"event","params":'
        '{"channel":"c","epoch":"e","seq":2,"span":3,"event":{"type":"X"}}}',
        '{"jsonrpc":"2.0","method":"event","params":'
        '{"channel":"c","epoch":"e","seq":true,"event":{"type":"X"}}}',
        '{"jsonrpc":"2.0","method":"event","params":'
        '{"channel":"c","epoch":"e","seq":2,"span":true,"event":{"type":"X"}}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:60],
)
def test_what_is_not_a_frame_is_refused(text: str) -> None:
    with pytest.raises(BadFrame):
        decode(text)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", {1, 2}, object(), "x" * MAX_FRAME_BYTES],
    ids=["nan", "infinity", "lone surrogate", "set", "object", "too long"],
)
def test_what_the_hub_would_refuse_is_not_sent(value: object) -> None:
    with pytest.raises(BadFrame):
        encode_request(Request(1, "message.send", {"content": value}))


def test_the_largest_frame_is_sent_and_one_byte_more_is_not() -> None:
    room = MAX_FRAME_BYTES - len(encode_request(Request(1, "m", {"content": ""})))
    text = encode_request(Request(1, "m", {"content": "x" * room}))
    assert len(text.encode()) == MAX_FRAME_BYTES
    with pytest.raises(BadFrame):
        encode_request(Request(1, "m", {"content": "x" * (room + 1)}))
