"""An event on its way to subscribers: encoded and framed once, however many they are."""

import re
from typing import Any, Final

from hub.backplane.interface import Position
from hub.protocol.codec import encode_event, encode_sent
from hub.protocol.rfc6455 import text_frame

_TEXT: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_HEAD: Final = re.compile(
    rb'\{"type":"(?:TEXT_MESSAGE_CONTENT|REASONING_MESSAGE_CONTENT|TOOL_CALL_ARGS)",'
    rb'"(?:messageId|toolCallId)":"%b","delta":"' % _TEXT
)
_REST: Final = re.compile(rb'%b"\}' % _TEXT)
"""A delta as ``vocabulary`` writes it, its text last. Others, with a timestamp, are left alone."""


class Delivery:
    """One or more entries of a channel's log: those that end at ``seq``, ``span`` of them.

    ``event`` is the event's JSON as it was appended, or, of a span, that of all of them joined.
    ``frame`` is the notification that carries it, as a WebSocket text frame, ``sent`` the event as
    a server-sent one. ``text_at`` is where in ``event`` the text of a delta begins, which ends two
    bytes before its end; 0: it is none.
    """

    __slots__ = ("channel", "epoch", "event", "frame", "sent", "seq", "span", "text_at")

    frame: bytes
    sent: bytes
    text_at: int

    def __init__(self, channel: str, epoch: str, seq: int, event: bytes, span: int = 1) -> None:
        self.channel = channel
        self.epoch = epoch
        self.seq = seq
        self.event = event
        self.span = span

    def __getattr__(self, name: str) -> Any:
        # Only for what has no value yet: it is made when it is first asked for, and is a plain
        # attribute from then on, which hundreds of subscribers read.
        if name == "frame":
            self.frame = text_frame(self.payload)
            return self.frame
        if name == "sent":
            self.sent = encode_sent(self.epoch, self.seq, self.event)
            return self.sent
        if name == "text_at":
            self.text_at = _text_at(self.event)
            return self.text_at
        raise AttributeError(name)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    @property
    def payload(self) -> bytes:
        """The JSON-RPC notification that carries the event."""
        return encode_event(self.channel, self.epoch, self.seq, self.event, self.span)


def _text_at(event: bytes) -> int:
    head = _HEAD.match(event)
    if head is None:
        return 0
    at = head.end()
    # Mostly there is no quote in the text but the one that ends it.
    plain = event.find(b'"', at) == len(event) - 2 and event.endswith(b"}")
    return at if plain or _REST.fullmatch(event, at) else 0
