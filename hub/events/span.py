"""Spans: consecutive deltas of one message, joined into one event. Pure.

Who is late, because it reads slowly or joins late, gets fewer and larger events with the same text.
Nothing is parsed and nothing encoded anew: the text of a delta is the inside of a JSON string, and
two of these, one behind the other, are the inside of the JSON string of both texts.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from hub.events.delivery import Delivery

JOINED_BYTES: Final = 32 * 1024
"""Text of a joined event at most, in bytes of JSON, so that it is delivered in good time."""

ENVELOPE_BYTES: Final = 160
"""What a frame has around its event, about: the channel's name, the position, the header."""


class _Run:
    """Deliveries of one channel that are to become one. Of all but the first only the text is
    held: a delta of one letter is some 500 bytes.
    """

    __slots__ = ("_event", "_first", "_head", "_last", "_size")

    def __init__(self, first: Delivery) -> None:
        self._first = first
        self._head = first.event[: first.text_at]
        self._size = _text(first)
        self._last = first.seq
        self._event: bytearray | None = None  # without its end, if there are several

    @property
    def channel(self) -> str:
        return self._first.channel

    @property
    def weight(self) -> int:
        return ENVELOPE_BYTES + len(self._head) + self._size

    def takes(self, next_one: Delivery) -> bool:
        """Take what follows, if it continues the run."""
        size = self._size + _text(next_one)
        if (
            next_one.seq - next_one.span != self._last
            or next_one.epoch != self._first.epoch
            or size > JOINED_BYTES
            or not next_one.event.startswith(self._head)
        ):
            return False
        if self._event is None:
            self._event = bytearray(self._first.event[:-2])
        self._event += next_one.event[len(self._head) : -2]
        self._last = next_one.seq
        self._size = size
        return True

    def delivery(self) -> Delivery:
        first = self._first
        if self._event is None:
            return first
        event = bytes(self._event) + b'"}'
        span = self._last - first.seq + first.span
        return Delivery(first.channel, first.epoch, self._last, event, span)


class Spans:
    """What waits for a subscriber, with the deltas joined that follow each other in their channel:
    as they come, so that a reader that stalls costs at no moment more than at any other.

    Each channel's order stays, and nothing crosses a ready frame (``bytes``: a reply, a notice).
    Channels may change places with each other: a joined event stands where its first one did.
    ``size`` is about the bytes of it, ``joined`` how many deliveries are part of another.
    """

    __slots__ = ("_items", "_runs", "joined", "size")

    def __init__(self) -> None:
        self._items: list[bytes | Delivery | _Run] = []
        self._runs: dict[str, _Run] = {}
        self.joined = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Delivery | bytes) -> None:
        """Put behind what waits."""
        if isinstance(item, bytes):
            self._runs.clear()
        elif not item.text_at:
            self._runs.pop(item.channel, None)
        else:
            run = self._runs.get(item.channel)
            if run is not None and run.takes(item):
                self.joined += 1
                self.size += _text(item)
                return
            run = self._runs[item.channel] = _Run(item)
            self._items.append(run)
            self.size += run.weight
            return
        self._items.append(item)
        self.size += _weight(item)

    def forget(self, channel: str) -> None:
        """Drop the events of a channel."""
        self._runs.pop(channel, None)
        self._items = [i for i in self._items if isinstance(i, bytes) or i.channel != channel]
        self.size = sum(_weight(item) for item in self._items)

    def items(self) -> list[Delivery | bytes]:
        """All of it, to be sent."""
        return [item.delivery() if isinstance(item, _Run) else item for item in self._items]

    def take(self, most: int) -> list[Delivery | bytes]:
        """What waits in front, to be sent: about ``most`` bytes of it, or one item."""
        size = count = 0
        for item in self._items:
            if count and size + _weight(item) > most:
                break
            size += _weight(item)
            count += 1
        front, self._items = self._items[:count], self._items[count:]
        self.size -= size
        for item in front:
            if isinstance(item, _Run) and self._runs.get(item.channel) is item:
                del self._runs[item.channel]  # nothing is joined to what has been sent
        return [item.delivery() if isinstance(item, _Run) else item for item in front]


def _text(delta: Delivery) -> int:
    """The bytes of a delta's text."""
    return len(delta.event) - delta.text_at - 2


def _weight(item: Delivery | bytes | _Run) -> int:
    if isinstance(item, bytes):
        return len(item)
    return item.weight if isinstance(item, _Run) else ENVELOPE_BYTES + len(item.event)


def join(waiting: Iterable[Delivery | bytes]) -> list[Delivery | bytes]:
    """What waits for a subscriber, joined as ``Spans`` says."""
    spans = Spans()
    for item in waiting:
        spans.add(item)
    return spans.items()


def joined(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """``join`` of deliveries alone."""
    return [item for item in join(deliveries) if isinstance(item, Delivery)]
