"""How far a persistent session has come: what came back with it, and what is to be acknowledged."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from hub_client.events import Position
from hub_client.faults import CallTimedOut, ConnectionLost, Fault, HubError
from hub_client.mailbox import Mailbox

log = logging.getLogger("hub_client")

EVERY_S: Final = 1.0
"""Between two acknowledgements of all that was dealt with meanwhile."""
BATCH: Final = 200
UNCLAIMED: Final = 256
"""Events that wait for the subscriber of a channel that came back; more are asked for again."""


class Call(Protocol):
    """``Connection.call``."""

    async def __call__(
        self, method: str, params: Mapping[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """Make a request."""


class Progress:
    """The positions of one persistent session.

    ``acknowledged``: the channels that the hub remembers, and where it would go on in each.
    """

    def __init__(
        self,
        session_key: str,
        call: Call,
        read_by: Callable[[str], Iterable[Mailbox]],
        disown: Callable[[str], None],
    ) -> None:
        """``read_by``: the mailboxes of a channel. ``disown``: let it come back no more."""
        self.session_key = session_key
        self.acknowledged: dict[str, Position] = {}
        self._call = call
        self._read_by = read_by
        self._disown = disown
        self._unclaimed: dict[str, Mailbox] = {}
        self._reached: dict[str, Position] = {}  # by this process, acknowledged or not yet
        self._due: dict[str, Position] = {}
        self._wake = asyncio.Event()

    # --- what came back ---

    @property
    def unclaimed(self) -> tuple[str, ...]:
        """The channels that came back and that nobody has subscribed yet."""
        return tuple(self._unclaimed)

    def ready(self, remembered: Iterable[Mapping[str, Any]]) -> None:
        """What ``session.ready`` says that the session remembers."""
        self.acknowledged = {
            str(item["channel"]): Position(str(item["epoch"]), int(item["seq"]))
            for item in remembered
        }

    def since(self, channel: str) -> Position | None:
        """Where a channel goes on that was followed before; None for one that was not."""
        return self._reached.get(channel, self.acknowledged.get(channel))

    def resuming(self, channel: str, at: Position) -> Mailbox:
        """A mailbox for a channel that comes back, until it is claimed."""
        mailbox = Mailbox(channel, at, UNCLAIMED)
        mailbox.remembered = True
        self._unclaimed[channel] = mailbox
        return mailbox

    def claim(self, channel: str, size: int, notify: Callable[[], None]) -> Mailbox | None:
        """The mailbox of a channel that came back, if nobody has it yet."""
        mailbox = self._unclaimed.pop(channel, None)
        if mailbox is not None:
            mailbox.claimed(size, notify)
        return mailbox

    def overflowed(self, mailbox: Mailbox) -> bool:
        """Whether it is full and nobody has claimed it: then it is given up."""
        if mailbox.ended and self._unclaimed.get(mailbox.channel) is mailbox:
            del self._unclaimed[mailbox.channel]
            return True
        return False

    async def forget(self, channel: str) -> None:
        """Let the hub remember the channel no more."""
        self._disown(channel)
        for known in (self.acknowledged, self._reached, self._due, self._unclaimed):
            known.pop(channel, None)
        await self._call("channel.unsubscribe", {"channel": channel})

    # --- what is acknowledged ---

    def dealt_with(self, mailbox: Mailbox, position: Position) -> None:
        """A subscriber has dealt with everything up to here. What all of its channel have dealt
        with is acknowledged before long.
        """
        mailbox.done = position
        channel = mailbox.channel
        others = [other for other in self._read_by(channel) if other.remembered]
        known = [other.done for other in others if other.done is not None] or [position]
        if len(known) >= len(others) and len({at.epoch for at in known}) == 1:
            least = min(known)
            if least != self.acknowledged.get(channel):
                self._reached[channel] = self._due[channel] = least
                self._wake.set()

    async def run(self) -> None:
        """Acknowledge what is due, once in a while, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush()
            except HubError as error:
                log.info("could not acknowledge; trying again: %s", error)
                self._wake.set()

    async def flush(self) -> None:
        """Acknowledge all that is due. Raises HubError; what may be repeated stays due then."""
        while self._due:
            batch = dict(list(self._due.items())[:BATCH])
            for channel in batch:
                del self._due[channel]
            channels = [
                {"channel": channel, "epoch": at.epoch, "seq": at.seq}
                for channel, at in batch.items()
            ]
            try:
                answer = await self._call("channel.acknowledge", {"channels": channels})
            except (asyncio.CancelledError, HubError) as error:
                if _passing(error):
                    self._due = batch | self._due  # what was noted meanwhile is newer
                raise
            for kept in answer.get("channels", ()):
                at = Position(str(kept["epoch"]), int(kept["seq"]))
                self.acknowledged[str(kept["channel"])] = at
            for refused in answer.get("refused", ()):
                # The log was lost meanwhile, say: a snapshot comes, and is acknowledged later.
                log.info("not acknowledged: %s (%s)", refused["channel"], refused["reason"])


def _passing(error: BaseException) -> bool:
    if isinstance(error, Fault):
        return error.retryable
    return isinstance(error, asyncio.CancelledError | CallTimedOut | ConnectionLost)
