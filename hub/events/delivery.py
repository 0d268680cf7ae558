"""An event on its way to subscribers: encoded and framed once, however many they are."""

from hub.backplane.interface import Position
from hub.protocol.codec import encode_event
from hub.protocol.rfc6455 import text_frame


class Delivery:
    """One or more entries of a channel's log: those that end at ``seq``, ``span`` of them.

    ``event`` is the event's JSON as it was appended, or, of a span, that of all of them joined.
    ``frame`` is the notification that carries it, as a WebSocket text frame.
    """

    __slots__ = ("channel", "epoch", "event", "frame", "seq", "span")

    frame: bytes

    def __init__(self, channel: str, epoch: str, seq: int, event: bytes, span: int = 1) -> None:
        self.channel = channel
        self.epoch = epoch
        self.seq = seq
        self.event = event
        self.span = span

    def __getattr__(self, name: str) -> bytes:
        # Only for what has no value yet: the frame is made when it is first asked for, and is a
        # plain attribute from then on, which hundreds of subscribers read.
        if name != "frame":
            raise AttributeError(name)
        self.frame = text_frame(self.payload)
        return self.frame

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    @property
    def payload(self) -> bytes:
        """The JSON-RPC notification that carries the event."""
        return encode_event(self.channel, self.epoch, self.seq, self.event, self.span)
