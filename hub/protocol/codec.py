"""Bytes to frames and back. Decoding raises ``FrameFault`` and nothing else.

The parser (orjson) takes the last of duplicate keys and makes a double of an integer above 64 bits.
So the parsed value is written again: where the text is as compact as our encoders and
``JSON.stringify`` write it, what comes out equals what came in, which proves for the price of one
encoding that nothing was dropped or rounded. Only other texts are looked at closer. (msgspec parses
as well, but a frame full of ``1e300`` takes it 80 ms; orjson 0.3 ms.)
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
import orjson

from hub.faults import CLOSES
from hub.protocol.frames import (
    ErrorReply,
    Frame,
    FrameFault,
    Notification,
    Reply,
    Request,
    RequestId,
)
from hub.protocol.limits import MAX_DEPTH, MAX_FRAME_BYTES, MAX_ID_CHARS

_write = msgspec.json.Encoder().encode

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_LONG_DIGITS = re.compile(rb"[0-9]{19}")
_LONG_INTEGER = re.compile(rb"(?:^|[\[,:\s])(-?[0-9]{19,})(?=[\],}\s]|$)")


def decode(data: bytes) -> Frame:
    """The frame that a peer sent. Raises FrameFault.

    The limit of size is that of a client's frame, ``MAX_FRAME_BYTES``.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise FrameFault("parse_error", f"the frame is longer than {MAX_FRAME_BYTES} bytes")
    value = decode_json(data)
    if type(value) is not dict:
        _refuse_no_object(value)
    return _frame(value)


def decode_text(text: str) -> Frame:
    """As ``decode``, of a text that the transport has already made of UTF-8."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise FrameFault("parse_error", "the frame holds a lone surrogate") from None
    return decode(data)


def encode_request(id: RequestId, method: str, params: Mapping[str, Any]) -> bytes:
    """A request. Raises TypeError or ValueError for what JSON cannot say (NaN becomes null)."""
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (
        _write(id),
        _write(method),
        _write(params),
    )


def encode_reply(id: RequestId, result: Any) -> bytes:
    """A reply. ``result`` is a JSON value; bytes and msgspec.Raw are JSON already and stay as they
    are. Raises TypeError or ValueError for what JSON cannot say.
    """
    encoded = result if isinstance(result, bytes) else _write(result)
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_write(id), encoded)


def encode_error(id: RequestId | None, error: Mapping[str, Any]) -> bytes:
    """An error reply; ``error`` is what ``Fault.body()`` gives."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_write(id), _write(error))


def encode_event(channel: str, epoch: str, seq: int, event: bytes, span: int = 1) -> bytes:
    """An event at its position. ``event`` is its JSON, spliced in and never encoded again;
    ``span`` says that it stands for the ``span`` positions that end at ``seq``.
    """
    if span == 1:
        return (
            b'{"jsonrpc":"2.0","method":"event","params":'
            b'{"channel":%b,"epoch":%b,"seq":%d,"event":%b}}'
            % (_write(channel), _write(epoch), seq, event)
        )
    return (
        b'{"jsonrpc":"2.0","method":"event","params":'
        b'{"channel":%b,"epoch":%b,"seq":%d,"span":%d,"event":%b}}'
        % (_write(channel), _write(epoch), seq, span, event)
    )


def encode_sent(epoch: str, seq: int, event: bytes, name: str = "") -> bytes:
    """An event at its position as a server-sent event, called ``name`` if it has one."""
    named = b"event: %s\n" % name.encode() if name else b""
    return b"%sid: %s:%d\ndata: %s\n\n" % (named, epoch.encode(), seq, event)


def encode_whisper(channel: str, event: bytes) -> bytes:
    """An event of a channel that is no part of its log, and so at no position."""
    return b'{"jsonrpc":"2.0","method":"event","params":{"channel":%b,"event":%b}}' % (
        _write(channel),
        event,
    )


def encode_notice(method: str, params: Mapping[str, Any]) -> bytes:
    """A notification that is not an event: ``session.ready``, ``subscription.ended`` …"""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_write(method), _write(params))


def close_reason(code: int, *, retry_after_ms: int | None = None) -> str:
    """The reason of a close frame: JSON, ``{"reason": …}`` and ``retry_after_ms`` where given.

    Short enough for a control frame. Raises KeyError for a code that is not in ``faults.CLOSES``.
    """
    reason: dict[str, Any] = {"reason": CLOSES[code].reason}
    if retry_after_ms is not None:
        reason["retry_after_ms"] = retry_after_ms
    return _write(reason).decode()


def decode_json(data: bytes) -> Any:
    """The value of a JSON text that every parser reads alike (RFC 8259, and I-JSON's keys).

    Raises FrameFault parse_error. The size is for the caller to limit.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FrameFault("parse_error", str(error)) from None
    # Each level costs an opening bracket: few brackets (in strings or not) need no closer look.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _is_too_deep(value):
        message = f"the frame is nested deeper than {MAX_DEPTH} levels"
        raise FrameFault("parse_error", message, _id_of(value))
    canonical = orjson.dumps(value)
    if canonical != data:
        if _has_long_integer(data):
            raise FrameFault("parse_error", "an integer has more than 64 bits", _id_of(value))
        if _has_duplicates(data, canonical):
            raise FrameFault("parse_error", "an object has the same key twice", _sure_id(data))
    return value


def _has_long_integer(data: bytes) -> bool:
    if _LONG_DIGITS.search(data) is None:
        return False
    integers = map(int, _LONG_INTEGER.findall(_STRING.sub(b"", data)))
    return any(not -(1 << 63) <= integer < 1 << 64 for integer in integers)


def _has_duplicates(data: bytes, canonical: bytes) -> bool:
    """Whether ``canonical`` has fewer members than ``data``, by their colons.

    Without escapes in either, both have the same strings but for those that were dropped, so the
    colons in strings need not be told from the others.
    """
    if b"\\" in data or b"\\" in canonical:
        data, canonical = _STRING.sub(b"", data), _STRING.sub(b"", canonical)
    return data.count(b":") != canonical.count(b":")


def _is_too_deep(value: Any) -> bool:
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _is_id(value: Any) -> bool:
    return type(value) is int or (type(value) is str and len(value) <= MAX_ID_CHARS)


def _id_of(value: Any) -> RequestId | None:
    """The id that an error reply may carry: not that of a reply, which numbers *our* requests."""
    if type(value) is not dict or (
        "method" not in value and ("result" in value or "error" in value)
    ):
        return None
    found = value.get("id")
    return found if _is_id(found) else None


def _sure_id(data: bytes) -> RequestId | None:
    """The id of a text with duplicate keys, unless the id is one of them."""
    pairs = json.loads(data.decode(), object_pairs_hook=tuple)
    if type(pairs) is not tuple or [name for name, _ in pairs].count("id") != 1:
        return None
    return _id_of(dict(pairs))


def _frame(members: dict[str, Any]) -> Frame:
    id, method, params = members.get("id"), members.get("method"), members.get("params")
    if (
        len(members) == 4
        and members.get("jsonrpc") == "2.0"
        and type(method) is str
        and type(params) is dict
        and _is_id(id)
    ):
        return Request(id, method, params)  # type: ignore[arg-type]  # _is_id has seen it
    if members.get("jsonrpc") != "2.0":
        _refuse(members, 'member "jsonrpc" must be "2.0"')
    if "id" in members and not _is_id(id) and not (id is None and "error" in members):
        _refuse(members, f'member "id" must be an integer or a string of {MAX_ID_CHARS} characters')
    if "method" in members:
        return _call(members)
    return _answer(members)


def _call(members: dict[str, Any]) -> Request | Notification:
    _refuse_others(members, {"jsonrpc", "id", "method", "params"})
    method, params = members["method"], members.get("params", {})
    if type(method) is not str:
        _refuse(members, 'member "method" must be a string')
    if type(params) is not dict:
        _refuse(members, 'member "params" must be an object')
    if "id" in members:
        return Request(members["id"], method, params)
    return Notification(method, params)


def _answer(members: dict[str, Any]) -> Reply | ErrorReply:
    if "result" not in members and "error" not in members:
        _refuse(members, 'member "method" is missing')
    if "id" not in members:
        _refuse(members, 'member "id" is missing')
    if "result" in members:
        _refuse_others(members, {"jsonrpc", "id", "result"})
        return Reply(members["id"], members["result"])
    _refuse_others(members, {"jsonrpc", "id", "error"})
    error = members["error"]
    if (
        type(error) is not dict
        or type(error.get("code")) is not int
        or type(error.get("message")) is not str
        or not error.keys() <= {"code", "message", "data"}
    ):
        _refuse(members, 'member "error" must be {"code": integer, "message": string, "data"?}')
    return ErrorReply(members["id"], error)


def _refuse_others(members: dict[str, Any], known: set[str]) -> None:
    if not members.keys() <= known:
        _refuse(members, f"a frame of this kind has no members but {', '.join(sorted(known))}")


def _refuse(members: dict[str, Any], message: str) -> NoReturn:
    raise FrameFault("invalid_request", message, _id_of(members))


def _refuse_no_object(value: Any) -> NoReturn:
    if type(value) is list:
        raise FrameFault("invalid_request", "batches are not taken: send one object per frame")
    raise FrameFault("invalid_request", "a frame is a JSON object")
