"""An event on its way to subscribers: encoded once, however many they are."""

from hub.backplane.interface import Position
from hub.protocol.codec import encode_event
from hub.protocol.rfc6455 import text_frame


class Delivery:
    """An entry of a channel's log, with its wire forms made at most once.

    ``event`` is the event's JSON as it was appended.
    """

    __slots__ = ("_frame", "_payload", "channel", "epoch", "event", "seq")

    def __init__(self, channel: str, epoch: str, seq: int, event: bytes) -> None:
        self.channel = channel
        self.epoch = epoch
        self.seq = seq
        self.event = event
        self._payload: bytes | None = None
        self._frame: bytes | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    @property
    def payload(self) -> bytes:
        """The JSON-RPC notification that carries the event."""
        if self._payload is None:
            self._payload = encode_event(self.channel, self.epoch, self.seq, self.event)
        return self._payload

    @property
    def frame(self) -> bytes:
        """The notification as a WebSocket text frame."""
        if self._frame is None:
            self._frame = text_frame(self.payload)
        return self._frame
