"""The persistent session of a connection: what it remembers, and how that comes back.

What is remembered changes here first and is then written whole, one write at a time; a write stands
for all changes that were made before it began. A change is answered once it is written.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Protocol

from hub.backplane.interface import Position
from hub.faults import Fault
from hub.identity.sessions.client_sessions import ClientSessions, Replaced, Taken
from hub.operations.call import Call
from hub.operations.dispatcher import Dispatcher
from hub.protocol.limits import MAX_SUBSCRIPTIONS
from hub.protocol.session import Event
from hub.telemetry.logs import log
from hub.transports.subscriptions import Subscriptions

RESUMED_TOGETHER: Final = 10
"""Channels of one session that are resumed at the same time."""

FORGOTTEN: Final = frozenset({"not_found", "permission_denied"})
"""Why a subscription ends for good: a session remembers it no more."""


class Host(Protocol):
    """The connection that has the session."""

    subscriptions: Subscriptions

    def on(self, event: Event) -> None:
        """Something happened to the connection."""

    def notice(self, method: str, params: Mapping[str, Any]) -> None:
        """Tell the client."""

    async def room(self) -> None:
        """Return when something long may be sent."""

    def call(self, trace_id: str | None) -> Call:
        """What the dispatcher is given."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it for as long as the connection is open."""

    def unfollowed(self, channel: str, reason: str) -> None:
        """The hub follows the channel for the client no more; say so."""


class PersistentSession:
    """The session ``taken``, for as long as this connection has it."""

    __slots__ = (
        "_changes",
        "_closed",
        "_dispatcher",
        "_host",
        "_resuming",
        "_sessions",
        "_taken",
        "_waiting",
        "_writing",
        "_written",
        "channels",
    )  # fmt: skip

    def __init__(
        self, host: Host, sessions: ClientSessions, dispatcher: Dispatcher, taken: Taken
    ) -> None:
        self.channels: dict[str, Position] = dict(taken.channels)
        self._host = host
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._taken = taken
        self._waiting = set(self.channels)  # to be resumed
        self._resuming: dict[str, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()
        self._changes = 0
        self._written = 0
        self._closed = False

    @property
    def key(self) -> str:
        return self._taken.key

    def ready(self) -> dict[str, Any]:
        """What ``session.ready`` says of it."""
        channels = [
            {"channel": channel, "epoch": at.epoch, "seq": at.seq}
            for channel, at in self._taken.channels.items()
        ]
        return {"resumed": self._taken.resumed, "channels": channels}

    def close(self) -> None:
        """The connection is gone, or goes on without it."""
        self._closed = True
        self._sessions.release(self._taken)

    # --- what is remembered ---

    async def remember(self, channel: str, at: Position) -> None:
        """Remember a channel that is followed from ``at``. One that is known stays where it was
        acknowledged. Raises Fault rate_limited, conflict, backend_unavailable.
        """
        if channel in self.channels:
            return
        if len(self.channels) >= MAX_SUBSCRIPTIONS:
            raise Fault(
                "rate_limited", f"A session remembers {MAX_SUBSCRIPTIONS} channels; leave one."
            )
        self.channels[channel] = at
        try:
            await self._write()
        except BaseException:
            if self.channels.get(channel) is at:
                del self.channels[channel]
            raise

    async def leave(self, channel: str, *, remember: bool) -> None:
        """The client follows the channel no more; forget it, unless it is to ``remember`` it.

        Raises Fault conflict, backend_unavailable.
        """
        self._waiting.discard(channel)
        resuming = self._resuming.get(channel)
        if resuming is not None:
            await asyncio.wait({resuming})
        if not remember and self.channels.pop(channel, None) is not None:
            await self._write()

    def knows(self, channel: str) -> bool:
        """Whether a position in the channel can be acknowledged."""
        return channel in self.channels or channel in self._host.subscriptions

    async def acknowledge(self, positions: Mapping[str, Position]) -> None:
        """Remember these positions, of channels that it knows, for good.

        Raises Fault conflict, rate_limited, backend_unavailable.
        """
        if len(self.channels.keys() | positions.keys()) > MAX_SUBSCRIPTIONS:
            raise Fault(
                "rate_limited", f"A session remembers {MAX_SUBSCRIPTIONS} channels; leave one."
            )
        self.channels.update(positions)
        await self._write()

    def ended(self, channel: str, reason: str) -> None:
        """The hub has ended a subscription: forget what will not come back."""
        if reason in FORGOTTEN and self.channels.pop(channel, None) is not None:
            self._host.spawn(self._write_quietly())

    async def _write(self) -> None:
        self._changes += 1
        change = self._changes
        async with self._writing:
            if self._written >= change:
                return  # the write before was made after this change
            newest = self._changes
            try:
                await self._sessions.save(self._taken, self.channels)
            except Replaced:
                if not self._closed:  # or it went on without the session, which it has forgotten
                    self._host.on(Event.REPLACED)
                raise Fault("conflict", "Another connection has the session now.") from None
            self._written = newest

    async def _write_quietly(self) -> None:
        try:
            await self._write()
        except Fault as fault:
            # It will be refused again when it is resumed.
            log.warning("a persistent session could not be written", why=fault.reason)

    # --- how it comes back ---

    async def resume(self) -> None:
        """Follow again what was followed, each from where it was acknowledged."""
        channels = list(self._taken.channels)
        for start in range(0, len(channels), RESUMED_TOGETHER):
            together = channels[start : start + RESUMED_TOGETHER]
            tasks = {
                channel: asyncio.create_task(self._resume(channel))
                for channel in together
                if channel in self._waiting
            }
            self._resuming = tasks
            try:
                await asyncio.gather(*tasks.values())
            finally:
                for task in tasks.values():  # of one that fails nobody awaits the others
                    task.cancel()
                self._resuming = {}

    async def _resume(self, channel: str) -> None:
        """Subscribe as the client would, with the permissions of now."""
        host = self._host
        at = self.channels.get(channel)
        if at is None:
            return
        since = {"epoch": at.epoch, "seq": at.seq}
        call = host.call(None)
        try:
            result = await self._dispatcher.dispatch(
                self._dispatcher.find("channel.subscribe"),
                {"channel": channel, "since": since, "remember": False},
                call,
            )
            await host.room()
        except Fault as fault:
            wanted = channel in self._waiting
            self._waiting.discard(channel)
            # A conflict: the client was faster, and follows it already.
            if wanted and fault.reason != "conflict":
                host.unfollowed(channel, fault.reason)
            return
        if channel not in self._waiting:  # the client has left it meanwhile
            host.subscriptions.drop(channel)
            return
        self._waiting.discard(channel)
        if channel in host.subscriptions:
            host.notice("subscription.resumed", result.model_dump(exclude_none=True))
        for step in call.after:  # if it has ended meanwhile, this says so
            host.spawn(step())
