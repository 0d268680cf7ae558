"""The hub keeps to the golden frames that both SDKs keep to."""

from typing import Any

import orjson
import pytest

from hub.faults import CLOSES, FAULTS
from hub.protocol import codec
from hub.protocol.frames import ErrorReply, Frame, FrameFault, Notification, Reply, Request
from tests.protocol.vectors import data_of, frame_of, params, rows

FRAMES = rows("frames.json")
FAULTY = rows("faulty_frames.json")
CLOSE_FRAMES = rows("closes.json", "closes")


def encode(frame: Frame) -> bytes:
    """The frame by the encoder that the hub would use for it."""
    match frame:
        case Request(id, method, params):
            return codec.encode_request(id, method, params)
        case Reply(id, result):
            return codec.encode_reply(id, result)
        case ErrorReply(id, error):
            return codec.encode_error(id, error)
        case Notification("event", {"channel": channel, "event": event, **at}) if not at:
            return codec.encode_whisper(channel, orjson.dumps(event))
        case Notification("event", params):
            return codec.encode_event(
                params["channel"],
                params["epoch"],
                params["seq"],
                orjson.dumps(params["event"]),
                params.get("span", 1),
            )
        case Notification(method, params):
            return codec.encode_notice(method, params)


@pytest.mark.parametrize("row", params(FRAMES))
def test_a_golden_frame_means_what_it_should(row: dict[str, Any]) -> None:
    assert codec.decode(data_of(row)) == frame_of(row)
    assert codec.decode_text(row["text"]) == frame_of(row)


@pytest.mark.parametrize("row", params([row for row in FRAMES if row["canonical"]]))
def test_a_golden_frame_is_written_byte_for_byte(row: dict[str, Any]) -> None:
    assert encode(frame_of(row)) == data_of(row)


@pytest.mark.parametrize("row", params(FAULTY))
def test_a_faulty_frame_is_refused_for_the_right_reason(row: dict[str, Any]) -> None:
    with pytest.raises(FrameFault) as caught:
        codec.decode(data_of(row))
    fault = caught.value
    expected = row["fault"]
    assert (fault.reason, fault.kind.code) == (expected["reason"], expected["code"])
    assert (fault.request_id, type(fault.request_id)) == (
        expected["request_id"],
        type(expected["request_id"]),
    )


@pytest.mark.parametrize("row", params([row for row in FAULTY if "base64" not in row]))
def test_a_faulty_frame_is_refused_as_text_as_well(row: dict[str, Any]) -> None:
    with pytest.raises(FrameFault) as caught:
        codec.decode_text(data_of(row).decode())
    assert caught.value.reason == row["fault"]["reason"]


@pytest.mark.parametrize("row", params(FAULTY))
def test_the_refusal_of_a_faulty_frame_is_itself_a_frame(row: dict[str, Any]) -> None:
    with pytest.raises(FrameFault) as caught:
        codec.decode(data_of(row))
    answer = codec.encode_error(caught.value.request_id, caught.value.body("trace"))
    assert codec.decode(answer) == ErrorReply(caught.value.request_id, caught.value.body("trace"))


def test_names_of_golden_frames_are_unique() -> None:
    for found in (FRAMES, FAULTY):
        names = [row["name"] for row in found]
        assert len(names) == len(set(names))


def test_every_fault_has_its_golden_frame() -> None:
    frames = [row["frame"] for row in FRAMES if row["name"].startswith("error ")]
    seen = {
        frame["error"]["data"]["reason"]: (
            frame["error"]["code"],
            frame["error"]["message"],
            frame["error"]["data"]["retryable"],
        )
        for frame in frames
    }
    assert seen == {
        kind.reason: (kind.code, kind.meaning, kind.retryable) for kind in FAULTS.values()
    }


def test_every_session_notice_has_its_golden_frame() -> None:
    methods = {row["frame"].get("method") for row in FRAMES if row["direction"] == "hub_to_client"}
    assert methods >= {
        "event",
        "session.ready",
        "session.expiring",
        "session.revoked",
        "session.draining",
        "subscription.resumed",
        "subscription.ended",
        "tool.invoke",
    }


def test_every_close_code_has_its_golden_reason() -> None:
    assert [(row["code"], row["reconnect"]) for row in CLOSE_FRAMES] == [
        (kind.code, kind.reconnect) for kind in CLOSES.values()
    ]
    for row in CLOSE_FRAMES:
        told = orjson.loads(row["reason"])
        assert told["reason"] == CLOSES[row["code"]].reason
        assert row["reason"] == codec.close_reason(
            row["code"], retry_after_ms=told.get("retry_after_ms")
        )
