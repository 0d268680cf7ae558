"""What one subscriber has yet to read of a channel. Pure.

The channel's one subscription at the hub feeds the mailboxes of all its subscribers. Each is
bounded: when it is more than half full, deltas of one message are joined as the hub does for a
slow reader; when it is full, it takes no more and ends with SubscriberTooSlow after its content.

A subscriber that wants older events than the live ones first reads the channel's history up to
where it joined (``catch_up``); what comes live in the meantime waits.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hub_client.events import SNAPSHOT, Event, Position, Since, join
from hub_client.faults import HubError, ResumeGap, SubscriberTooSlow


@dataclass(frozen=True, slots=True)
class CatchUp:
    """History that is still to be read: after ``after``, up to and including ``until``."""

    after: Position
    until: Position


class Mailbox:
    """One subscriber's bounded queue. ``notify`` is called whenever there is something to see."""

    def __init__(
        self, channel: str, since: Since, size: int, notify: Callable[[], None] = lambda: None
    ) -> None:
        self.channel = channel
        self.since = since
        self.catch_up: CatchUp | None = None
        self.error: HubError | None = None
        self.ended = False
        self.position: Position | None = None
        self.remembered = False
        """Whether it counts for what a persistent session acknowledges."""
        self.done: Position | None = None
        """Up to where its reader has dealt with what it popped."""
        self._size = size
        self._notify = notify
        self._tail: Position | None = None
        self._queue: deque[Event] = deque()
        self._backlog: deque[Event] = deque()

    @property
    def joined(self) -> bool:
        """Whether it has its place in the channel."""
        return self._tail is not None

    def claimed(self, size: int, notify: Callable[[], None]) -> None:
        """Somebody reads it from now on."""
        self._size, self._notify = size, notify

    def join(self, live: Position, asked: Since) -> Position | None:
        """The channel is live at ``live``. If it was subscribed just now, ``asked`` is since where.

        Answers a position from which the channel has to be subscribed anew for this subscriber to
        learn what it missed (its log is gone), or None.
        """
        if self.joined:
            return None
        wants = Position(live.epoch, 0) if self.since == "start" else self.since
        if wants is None or self.since == asked or wants == live:
            self.position = self._tail = live
        elif wants[0] != live.epoch:
            return Position(*wants)
        elif wants[1] > live.seq:
            self.position = self._tail = Position(*wants)
        else:
            self.position, self._tail = Position(*wants), live
            self.catch_up = CatchUp(self.position, live)
        self._notify()
        return None

    def push(self, event: Event) -> None:
        """The channel's next event, or a snapshot."""
        tail = self._tail
        if tail is None or self.ended:
            return
        if event.type == SNAPSHOT and event.recovered:
            if self.catch_up is not None:  # the snapshot stands for all of it
                self.catch_up = None
                self._backlog.clear()
                self._queue.clear()
        elif event.epoch == tail.epoch and event.seq <= tail.seq:
            return
        elif event.epoch != tail.epoch or event.seq - event.span != tail.seq:
            self.end(ResumeGap("This subscriber's events have a gap."))
            return
        joined = join(self._queue[-1], event) if len(self._queue) > self._size // 2 else None
        if joined is not None:
            self._queue[-1] = joined
        elif len(self._queue) >= self._size:
            self.end(SubscriberTooSlow(self.channel, *tail))
            return
        else:
            self._queue.append(event)
        self._tail = event.position
        self._notify()

    def fill(self, page: Iterable[Event]) -> None:
        """A page of the history after ``catch_up.after``; an empty one when there is no more.

        Raises ResumeGap if the page does not begin there, or ends before the live events.
        """
        catch_up = self.catch_up
        if catch_up is None:
            return
        after = catch_up.after
        for event in page:
            if event.seq <= after.seq or event.seq > catch_up.until.seq:
                continue
            oldest = self.since == "start" and after.seq == 0
            if event.epoch != after.epoch or (event.seq - event.span != after.seq and not oldest):
                raise ResumeGap("The history does not go on where it ended.")
            self._backlog.append(event)
            after = event.position
        if after == catch_up.until:
            self.catch_up = None
        elif after == catch_up.after:
            raise ResumeGap("The history ends before the live events.")
        else:
            self.catch_up = CatchUp(after, catch_up.until)

    def restart(self) -> Position | None:
        """Give the history up; answers the position to subscribe the channel from instead."""
        catch_up, self.catch_up = self.catch_up, None
        if catch_up is None:
            return None
        self._queue.clear()
        self._tail = None
        self.since = catch_up.after
        return catch_up.after

    def end(self, error: HubError | None) -> None:
        """Nothing more will come; ``error`` is raised once the content is read."""
        if not self.ended:
            self.ended, self.error = True, error
            self._notify()

    def pop(self) -> Event | None:
        """The next event, if it is here."""
        if self._backlog:
            event = self._backlog.popleft()
        elif self._queue and self.catch_up is None:
            event = self._queue.popleft()
        else:
            return None
        self.position = event.position
        return event
