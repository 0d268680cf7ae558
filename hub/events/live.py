"""One node's live channels: where each is, who reads it, and how a turn's events reach them all."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from hub.backplane.interface import Position
from hub.events.channels import channel_of
from hub.events.delivery import Delivery

NOWHERE: Final = Position("", 0)

Write = Callable[[bytes], object]
"""A transport's own way to take ready frames."""


class Reader(Protocol):
    """Somebody who reads channels: a connection."""

    @property
    def write(self) -> Callable[[bytes], object] | None:
        """Takes the frame of the next event, where that is all there is to do; None: ``deliver``.

        When it becomes another, ``Fanout.turned`` is to be called for all that the reader reads.
        """

    def deliver(self, delivery: Delivery) -> None:
        """Take the next event. Called on the loop; must not block or raise."""

    async def room(self) -> None:
        """Return when a replay may put more in; raises CancelledError when the reader is gone."""

    def ended(self, channel: str, reason: str) -> None:
        """The subscription has ended from our side; ``reason`` is a fault's."""


class LiveChannel:
    """A channel on this node: its live position and who reads it. Those are ``swift`` whose frames
    go straight to their transports, the others are ``thorough``. ``name`` is that of its log;
    ``shown`` is what readers know it by.

    ``heard`` is the newest position that pub/sub brought while the channel was not live (opening,
    or filling a gap): when the log has been read up to there, nothing was missed.
    """

    __slots__ = ("at", "filling", "heard", "joining", "name", "opening", "shown", "swift",
                 "thorough")  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown = channel_of(name)
        self.at = NOWHERE
        self.heard = NOWHERE
        self.swift: dict[Reader, Callable[[bytes], object]] = {}
        self.thorough: dict[Reader, None] = {}
        self.joining = 0  # joins under way keep the channel open
        self.filling: asyncio.Task[None] | None = None
        self.opening: asyncio.Task[None] | None = None

    @property
    def behind(self) -> bool:
        """Whether something was heard of that has not been delivered."""
        if self.heard is NOWHERE:
            return False
        return self.heard.epoch != self.at.epoch or self.heard.seq > self.at.seq

    def __len__(self) -> int:
        """How many read it."""
        return len(self.swift) + len(self.thorough)

    @property
    def readers(self) -> list[Reader]:
        return [*self.swift, *self.thorough]

    def seat(self, reader: Reader) -> None:
        """Deliver to a reader, in the way that it wants now."""
        write = reader.write
        if write is not None:
            self.thorough.pop(reader, None)
            self.swift[reader] = write
        else:
            self.swift.pop(reader, None)
            self.thorough[reader] = None

    def unseat(self, reader: Reader) -> bool:
        """Deliver no more to a reader; whether it was delivered to."""
        if self.swift.pop(reader, None) is not None:
            return True
        return self.thorough.pop(reader, False) is None


Failed = Callable[[LiveChannel, Reader, Exception], None]
"""Told that a reader of a channel could not be given an event, and why."""


def deliver(found: Mapping[LiveChannel, Sequence[Delivery]], failed: Failed) -> int:
    """Deliver these to all who read their channels, each of whom is written to once; how many
    events have gone to a reader each. Who fails costs the others nothing.
    """
    if len(found) == 1:
        # Mostly it is one event of one channel, and many who read it.
        ((channel, deliveries),) = found.items()
        thorough = tuple(channel.thorough)
        reached = len(deliveries) * len(channel)
        data = _data(deliveries)
        for write in tuple(channel.swift.values()):  # one whose transport is full is swift no more
            try:
                write(data)
            except Exception as error:
                _fail(found, write, error, failed)
        for reader in thorough:
            _deliver(channel, reader, deliveries, failed)
        return reached
    # Who is thorough is taken before any is written to: one whose transport is full with it is,
    # from then on.
    waiting = [
        (channel, reader, deliveries)
        for channel, deliveries in found.items()
        for reader in channel.thorough
    ]
    reached = sum(len(deliveries) * len(channel) for channel, deliveries in found.items())
    for write, frames in _by_writer(found).items():
        try:
            write(frames[0] if len(frames) == 1 else b"".join(frames))
        except Exception as error:
            _fail(found, write, error, failed)
    for channel, reader, deliveries in waiting:
        _deliver(channel, reader, deliveries, failed)
    return reached


def _by_writer(found: Mapping[LiveChannel, Sequence[Delivery]]) -> dict[Write, list[bytes]]:
    """What each is given who follows at least one of these channels."""
    given: dict[Write, list[bytes]] = {}
    for channel, deliveries in found.items():
        if not channel.swift:
            continue
        data = _data(deliveries)
        for write in channel.swift.values():
            if write in given:
                given[write].append(data)
            else:
                given[write] = [data]
    return given


def _fail(channels: Iterable[LiveChannel], write: Write, error: Exception, failed: Failed) -> None:
    """Say so of those who were to be written to in this way."""
    for channel in channels:
        for reader, its_own in tuple(channel.swift.items()):
            if its_own == write:
                failed(channel, reader, error)


def _data(deliveries: Sequence[Delivery]) -> bytes:
    """Their frames."""
    if len(deliveries) == 1:
        return deliveries[0].frame
    return b"".join([delivery.frame for delivery in deliveries])


def _deliver(
    channel: LiveChannel, reader: Reader, deliveries: Sequence[Delivery], failed: Failed
) -> None:
    try:
        for delivery in deliveries:
            if reader not in channel.thorough:
                break  # its outbox has overflowed, and it has left
            reader.deliver(delivery)
    except Exception as error:
        failed(channel, reader, error)
