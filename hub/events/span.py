"""Spans: consecutive deltas of one message, joined into one event. Pure.

Who is late, because it reads slowly or joins late, gets fewer and larger events with the same text.
Nothing is parsed and nothing encoded anew: the text of a delta is the inside of a JSON string, and
two of these, one behind the other, are the inside of the JSON string of both texts.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from hub.events.delivery import Delivery

JOINED_BYTES: Final = 32 * 1024
"""Text of a joined event at most, in bytes of JSON, so that it is delivered in good time."""

_TEXT: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_DELTA: Final = re.compile(
    rb'(\{"type":"(?:TEXT_MESSAGE_CONTENT|REASONING_MESSAGE_CONTENT|TOOL_CALL_ARGS)",'
    rb'"(?:messageId|toolCallId)":"%b","delta":")(%b)"\}' % (_TEXT, _TEXT)
)
"""A delta as ``vocabulary`` writes it, its text last. Others, with a timestamp, are left alone."""


class _Run:
    """Deliveries of one channel that are to become one, and how the event begins."""

    __slots__ = ("first", "head", "last", "size", "texts")

    def __init__(self, first: Delivery, head: bytes, text: bytes) -> None:
        self.first = self.last = first
        self.head = head
        self.texts = [text]
        self.size = len(text)

    def takes(self, next_one: Delivery, head: bytes, text: bytes) -> bool:
        """Take what follows, if it continues the run."""
        last = self.last
        if (
            head != self.head
            or next_one.epoch != last.epoch
            or next_one.seq - next_one.span != last.seq
            or self.size + len(text) > JOINED_BYTES
        ):
            return False
        self.last = next_one
        self.texts.append(text)
        self.size += len(text)
        return True

    def delivery(self) -> Delivery:
        first, last = self.first, self.last
        if first is last:
            return first
        event = self.head + b"".join(self.texts) + b'"}'
        span = last.seq - first.seq + first.span
        return Delivery(last.channel, last.epoch, last.seq, event, span)


def join(waiting: Iterable[Delivery | bytes]) -> list[Delivery | bytes]:
    """What waits for a subscriber, with the deltas joined that follow each other in their channel.

    Each channel's order stays, and nothing crosses a ready frame (``bytes``: a reply, a notice).
    Channels may change places with each other: a joined event stands where its first one did.
    """
    kept: list[Delivery | bytes | _Run] = []
    runs: dict[str, _Run] = {}
    for item in waiting:
        if isinstance(item, bytes):
            runs.clear()
            kept.append(item)
            continue
        match = _DELTA.fullmatch(item.event)
        if match is None:
            runs.pop(item.channel, None)
            kept.append(item)
            continue
        head, text = match.groups()
        run = runs.get(item.channel)
        if run is None or not run.takes(item, head, text):
            run = runs[item.channel] = _Run(item, head, text)
            kept.append(run)
    return [item.delivery() if isinstance(item, _Run) else item for item in kept]


def joined(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """``join`` of deliveries alone."""
    return [item for item in join(deliveries) if isinstance(item, Delivery)]
