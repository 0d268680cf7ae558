"""Who subscribes to which channel on a connection: the many subscribers of its one session."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hub_client.effects import (
    Delivered,
    Effect,
    Ended,
    Overheard,
    Postponed,
    Resuming,
    Subscribed,
)
from hub_client.events import Event, Position, Since
from hub_client.mailbox import Mailbox
from hub_client.postponed import PostponedChannels
from hub_client.presence import Presence
from hub_client.progress import Call, Progress
from hub_client.retry import Backoff
from hub_client.session import Session
from hub_client.subscription import Source, Subscription

log = logging.getLogger("hub_client")

Sink = Callable[[str, Mapping[str, Any] | Event], None]
"""Called with each notice (by its method) and each event (by its type)."""


class Subscribers:
    """The mailboxes and the watchers of presence, by channel. ``me`` is the user's id; ``apply``
    takes what is to be done about the session; ``source`` is what a subscription asks for more.
    """

    def __init__(
        self,
        source: Source,
        session: Session,
        apply: Callable[[Iterable[Effect]], None],
        sink: Sink,
        backoff: Backoff,
    ) -> None:
        self.me = ""
        self.progress: Progress | None = None
        self._source = source
        self._session = session
        self._apply = apply
        self._sink = sink
        self._backoff = backoff
        self._mailboxes: dict[str, list[Mailbox]] = {}
        self._watchers: dict[str, list[Presence]] = {}
        self._asked: dict[str, Since] = {}
        self._postponed = PostponedChannels(backoff, self._again)

    def persistent(self, session_key: str, call: Call) -> Progress:
        """Let the subscribers belong to a persistent session."""
        self.progress = Progress(session_key, call, self.read_by, self._session.disown)
        return self.progress

    def close(self) -> None:
        """Ask for nothing any more."""
        self._postponed.close()

    def subscribe(
        self, channel: str, since: Since, size: int, remember: bool, acknowledge: bool
    ) -> Subscription:
        """A new subscriber of the channel. Raises the closing error once closed."""
        wake = asyncio.Event()
        progress = self.progress if remember else None
        if progress is not None:
            claimed = progress.claim(channel, size, wake.set)
            if claimed is not None:
                return self._subscription(claimed, wake, acknowledge)
        mailboxes = self._mailboxes.get(channel)
        if progress is not None and not any(other.remembered for other in mailboxes or ()):
            since = progress.since(channel) or since
        mailbox = Mailbox(channel, since, size, wake.set)
        mailbox.remembered = progress is not None
        if mailboxes is None and channel not in self._watchers:
            effects = self._session.want(channel, since, remember=mailbox.remembered)
            self._mailboxes[channel] = [mailbox]
            self._asked[channel] = since
            self._apply(effects)
        else:
            self._mailboxes.setdefault(channel, []).append(mailbox)
            live = self._session.live(channel)
            if live is not None:
                self._join(mailbox, live)
            if progress is not None:
                self._session.remember(channel)
                if mailbox.position is not None:  # to acknowledge a channel is to remember it
                    progress.dealt_with(mailbox, mailbox.position)
        return self._subscription(mailbox, wake, acknowledge)

    def _subscription(
        self, mailbox: Mailbox, wake: asyncio.Event, acknowledge: bool
    ) -> Subscription:
        progress = self.progress if mailbox.remembered else None
        return Subscription(
            self._source,
            mailbox,
            wake,
            self._backoff.another(),
            progress=progress,
            acknowledge=acknowledge,
        )

    def read_by(self, channel: str) -> list[Mailbox]:
        """The mailboxes of a channel."""
        return self._mailboxes.get(channel, [])

    def leave(self, mailbox: Mailbox) -> None:
        """Feed this mailbox no more; the last one of a channel unsubscribes it."""
        mailboxes = self._mailboxes.get(mailbox.channel, [])
        if mailbox in mailboxes:
            mailboxes.remove(mailbox)
            if not mailboxes:
                del self._mailboxes[mailbox.channel]
                self._unwant(mailbox.channel)

    def watch(self, watcher: Presence) -> None:
        """Follow its channel with presence, for this watcher. Raises the closing error."""
        channel = watcher.channel
        if channel in self._mailboxes or channel in self._watchers:
            effects = self._session.attend(channel, True)
        else:
            effects = self._session.want(channel, None, presence=True)
        self._watchers.setdefault(channel, []).append(watcher)
        others = [other for other in self._watchers[channel] if other.known]
        if others:
            watcher.copy(others[0])
        self._apply(effects)

    def unwatch(self, watcher: Presence) -> None:
        """Feed this watcher no more; the last one of a channel ends its presence there."""
        watchers = self._watchers.get(watcher.channel, [])
        if watcher in watchers:
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[watcher.channel]
                self._apply(self._session.attend(watcher.channel, False))
                self._unwant(watcher.channel)

    def _unwant(self, channel: str) -> None:
        if channel not in self._mailboxes and channel not in self._watchers:
            self._postponed.forget(channel)
            self._apply(self._session.unwant(channel))

    def restart(self, channel: str, since: Position) -> None:
        """Subscribe the channel anew from ``since``, for one of its subscribers."""
        if channel in self._mailboxes:
            self._asked[channel] = since
            self._apply(self._session.restart(channel, since))

    def _again(self, channel: str) -> None:
        self._apply(self._session.again(channel))

    # --- what the session says of channels ---

    def feed(
        self, effect: Subscribed | Resuming | Delivered | Overheard | Ended | Postponed
    ) -> None:
        """Give each of the channel's subscribers what is theirs."""
        match effect:
            case Subscribed(channel, position, present):
                self._live(channel, position, present or ())
            case Overheard(channel, data):
                self._overheard(channel, data)
            case Resuming(channel, at):
                assert self.progress is not None, "a session without a key remembers nothing"
                self._mailboxes[channel] = [self.progress.resuming(channel, at)]
                self._asked[channel] = at
            case Delivered(event):
                for mailbox in list(self._mailboxes.get(event.channel, ())):
                    mailbox.push(event)
                    if self.progress is not None and self.progress.overflowed(mailbox):
                        self.leave(mailbox)
                self._sink(event.type, event)
            case Postponed(channel, retry_after):
                log.info("the hub cannot carry %s now; asking again", channel)
                self._postponed.postpone(channel, retry_after)
            case Ended(channel, error):
                self._postponed.forget(channel)
                for mailbox in self._mailboxes.pop(channel, ()):
                    mailbox.end(error)
                for watcher in self._watchers.pop(channel, ()):
                    watcher.end(error)

    def _live(self, channel: str, position: Position, present: Sequence[Mapping[str, Any]]) -> None:
        self._postponed.live(channel)
        asked = self._asked.pop(channel, None)
        for mailbox in list(self._mailboxes.get(channel, ())):
            self._join(mailbox, position, asked)
        for watcher in list(self._watchers.get(channel, ())):
            watcher.begin(present, self.me)

    def _overheard(self, channel: str, data: Mapping[str, Any]) -> None:
        for watcher in list(self._watchers.get(channel, ())):
            watcher.overhear(data)
        value = data.get("value")
        told = value if isinstance(value, Mapping) else {}
        self._sink(str(data.get("name")), {**told, "channel": channel})

    def _join(self, mailbox: Mailbox, live: Position, asked: Since = None) -> None:
        restart = mailbox.join(live, asked)
        if restart is not None:
            self.restart(mailbox.channel, restart)
