"""Frames of ``agenthub.v1``: JSON-RPC 2.0 in text. Pure.

Strict in what it sends, tolerant of what it does not know: a notification with an unknown method,
or an unknown field, is not a fault. What is not JSON-RPC raises BadFrame.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hub_client.events import Event
from hub_client.faults import BadFrame

SUBPROTOCOL: Final = "agenthub.v1"
MAX_FRAME_BYTES: Final = 65_536
"""The largest frame that the hub accepts. It may send larger ones."""

RequestId = int | str


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of request ``id``."""

    id: RequestId
    result: Any


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The failure of request ``id``; None when the hub could not tell which."""

    id: RequestId | None
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """A session notice: ``session.ready``, ``session.expiring``, ``subscription.ended`` …"""

    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Aside:
    """An event that is told on a channel without being in its log, and so at no position: of who is
    present there. ``data`` is an AG-UI ``CUSTOM`` event.
    """

    channel: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A request: ours to the hub, or the hub's to us (a client tool)."""

    id: RequestId
    method: str
    params: Mapping[str, Any]


Frame = Reply | ErrorReply | Event | Aside | Notice | Request


def encode_request(request: Request) -> str:
    """The text frame of a request.

    Raises BadFrame if a parameter is not JSON or the frame is larger than the hub accepts.
    """
    frame = {
        "jsonrpc": "2.0",
        "id": request.id,
        "method": request.method,
        "params": request.params,
    }
    try:
        text = _dump(frame)
        size = len(text.encode())  # a lone surrogate fails here, and would at the hub
    except (TypeError, ValueError, RecursionError) as error:
        raise BadFrame(f"The parameters of {request.method} are not JSON: {error}") from error
    if size > MAX_FRAME_BYTES:
        raise BadFrame(
            f"{request.method} would be {size} bytes; the hub accepts {MAX_FRAME_BYTES} at most"
        )
    return text


def encode_error(id: RequestId, code: int, reason: str, message: str) -> str:
    """The text frame that answers a request of the hub with a failure."""
    data = {"reason": reason, "retryable": False}
    error = {"code": code, "message": message, "data": data}
    text = _dump({"jsonrpc": "2.0", "id": id, "error": error})
    return text.encode(errors="replace").decode()  # the hub's own words may hold a lone surrogate


def decode(text: str) -> Frame:
    """What the hub sent. Raises BadFrame for anything that is not a frame of the protocol."""
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"not JSON: {error}") from error
    if not isinstance(frame, dict) or frame.get("jsonrpc") != "2.0":
        raise BadFrame("not a JSON-RPC 2.0 object")
    if "method" in frame:
        return _decode_call(frame)
    return _decode_answer(frame)


def _decode_call(frame: dict[str, Any]) -> Frame:
    method, params = frame["method"], frame.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise BadFrame("method is not a string or params is not an object")
    if "id" in frame:
        return Request(_identifier(frame["id"]), method, params)
    if method == "event":
        return _decode_event(params)
    return Notice(method, params)


def _decode_answer(frame: dict[str, Any]) -> Frame:
    if ("result" in frame) == ("error" in frame) or "id" not in frame:
        raise BadFrame("neither a request, a reply, an error nor a notification")
    if "result" in frame:
        return Reply(_identifier(frame["id"]), frame["result"])
    if not isinstance(frame["error"], dict):
        raise BadFrame("error is not an object")
    number = frame["id"]
    return ErrorReply(None if number is None else _identifier(number), frame["error"])


def _decode_event(params: dict[str, Any]) -> Event | Aside:
    event = params.get("event")
    span = params.get("span", 1)
    match params, event:
        case {"channel": str(channel)}, {"type": str()} if "epoch" not in params:
            assert isinstance(event, dict)
            if "seq" not in params:
                return Aside(channel, event)
        case {"channel": str(channel), "epoch": str(epoch), "seq": int(seq)}, {"type": str(kind)}:
            assert isinstance(event, dict)
            if type(seq) is int and type(span) is int and 1 <= span <= seq:  # True is no number
                return Event(channel, epoch, seq, span, kind, event)
    raise BadFrame("an event without channel, epoch, seq or type, or with an impossible span")


def _identifier(value: object) -> RequestId:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    raise BadFrame("id is neither a string nor an integer")


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
