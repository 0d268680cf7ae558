"""A subscription as its reader sees it: an asynchronous iterator of events."""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol, Self

from hub_client.events import Event, Position
from hub_client.faults import BadFrame, CallTimedOut, ConnectionClosed, Fault, ResumeGap
from hub_client.mailbox import Mailbox
from hub_client.progress import Progress
from hub_client.retry import Backoff

log = logging.getLogger("hub_client")

_PAGE = 200


class Source(Protocol):
    """What a subscription needs of its connection."""

    async def call(
        self, method: str, params: dict[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """Make a request."""

    def leave(self, mailbox: Mailbox) -> None:
        """Feed this mailbox no more."""

    def restart(self, channel: str, since: Position) -> None:
        """Subscribe the channel anew."""


class Subscription:
    """The events of one channel, in order, without gap or repeat, across reconnects.

    Iterate it from one task. Where events are lost for good, a ``MESSAGES_SNAPSHOT`` event with
    ``recovered`` set takes their place. Ends when it or the hub is closed by this side; raises
    ConnectionClosed when the connection ends for good, the Fault of a refused subscription,
    SubscriptionEnded, SubscriberTooSlow, ResumeGap.

    In a persistent session an event counts as dealt with when the next one is asked for, or the
    ``async with`` is left without an exception; and, without ``acknowledge``, only by the method.
    """

    def __init__(
        self,
        source: Source,
        mailbox: Mailbox,
        wake: asyncio.Event,
        backoff: Backoff,
        *,
        progress: Progress | None = None,
        acknowledge: bool = True,
    ) -> None:
        self.channel = mailbox.channel
        self._source = source
        self._mailbox = mailbox
        self._wake = wake
        self._backoff = backoff
        self._progress = progress
        self._automatic = acknowledge
        self._yielded = False
        # The connection holds the mailbox only: a subscription that nobody holds any more, such
        # as that of a loop that was left by `break`, unsubscribes.
        loop = asyncio.get_running_loop()
        self._abandoned = weakref.finalize(self, defer, loop, source.leave, mailbox)
        self._abandoned.atexit = False

    @property
    def position(self) -> Position | None:
        """After the last event that was yielded; where ``since=`` goes on. None before it began."""
        return self._mailbox.position

    async def ready(self, timeout: float | None = 30.0) -> Self:
        """Wait until the hub has subscribed it: every event from now on will be yielded."""
        try:
            async with asyncio.timeout(timeout):
                while not self._mailbox.joined and not self._mailbox.ended:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            raise CallTimedOut(f"{self.channel} was not subscribed in {timeout} s") from None
        if self._mailbox.error is not None and not self._mailbox.joined:
            raise self._mailbox.error
        return self

    async def acknowledge(self) -> None:
        """Say that everything up to ``position`` is dealt with; returns once that is durable.

        For connections with a ``session_key``, else RuntimeError. Raises the Fault that the hub
        answers, CallTimedOut, ConnectionClosed.
        """
        if self._progress is None:
            raise RuntimeError("only connect(session_key=…) has something to acknowledge")
        self._dealt_with()
        await self._progress.flush()

    async def forget(self) -> None:
        """Close it, and let the persistent session remember the channel no more."""
        self.close()
        if self._progress is not None:
            await self._progress.forget(self.channel)

    def _dealt_with(self) -> None:
        if self._progress is not None and self._mailbox.position is not None:
            self._progress.dealt_with(self._mailbox, self._mailbox.position)

    def close(self) -> None:
        """Unsubscribe. Events that were not read are dropped. Idempotent.

        A persistent session goes on remembering the channel (see ``forget``).
        """
        if self._abandoned.detach() is not None:
            self._mailbox.end(None)
            self._source.leave(self._mailbox)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        mailbox = self._mailbox
        if self._automatic and self._yielded:
            self._dealt_with()  # who asks for the next one has dealt with the last
        while True:
            event = mailbox.pop()
            if event is not None:
                self._yielded = True
                return event
            if mailbox.catch_up is not None and not mailbox.ended:
                await self._read_history()
            elif mailbox.ended:
                error = mailbox.error
                if error is None or (isinstance(error, ConnectionClosed) and error.code == 1000):
                    raise StopAsyncIteration
                raise error
            else:
                self._wake.clear()
                await self._wake.wait()

    async def __aenter__(self) -> Self:
        return await self.ready()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._automatic and self._yielded:
            self._dealt_with()
        self.close()

    async def _read_history(self) -> None:
        mailbox = self._mailbox
        catch_up = mailbox.catch_up
        assert catch_up is not None
        # No more than is missing: deltas that came meanwhile would be joined with those before.
        after = catch_up.after.seq
        limit = min(_PAGE, catch_up.until.seq - after)
        params = {"channel": self.channel, "after": after, "limit": limit}
        try:
            page = await self._source.call("channel.history", params)
            mailbox.fill(_events(self.channel, page))
            self._backoff.failures = 0
        except ResumeGap:
            since = mailbox.restart()
            if since is not None:
                self._source.restart(self.channel, since)
        except Fault as fault:
            if not fault.retryable:
                raise
            wait = self._backoff.lost(ready_for=0.0, retry_after=fault.retry_after or 0.0)
            log.info("the hub cannot read the history of %s now; asking again", self.channel)
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the history is not needed any more."""
        catch_up = self._mailbox.catch_up
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._mailbox.catch_up is catch_up and not self._mailbox.ended:
                    self._wake.clear()
                    await self._wake.wait()


def defer(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """Call it in the loop's next turn: what the garbage collector finds, it finds at any time and
    in any thread.
    """
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)


def _events(channel: str, page: dict[str, Any]) -> list[Event]:
    epoch, items = page.get("epoch"), page.get("items")
    if not isinstance(epoch, str) or not isinstance(items, list):
        raise BadFrame("a history without epoch or items")
    events: list[Event] = []
    for item in items:
        match item:
            case {"seq": int(seq), "event": {"type": str(kind)} as event}:
                events.append(Event(channel, epoch, seq, item.get("span", 1), kind, event))
            case _:
                raise BadFrame("a history item without seq or event")
    return events
