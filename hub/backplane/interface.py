"""The backplane: everything that nodes share and that is not a durable row.

Two implementations, ``memory`` (one process) and ``redis`` (many; a single server or a cluster),
pass one contract suite. Neither knows what the bytes mean.

**Logs.** A channel has an append-only log. ``append`` gives the entry the next ``seq`` (1, 2, 3 …
without holes), trims the log, renews its expiry and publishes the entry, as one atomic step. The
``epoch`` names the log: when it is lost (expired, flushed, evicted, restarted without persistence)
the next one has another epoch, so that a position is never mistaken for one in another log.

**Faults.** When the backplane cannot be reached, every method raises
``Fault("backend_unavailable")`` within a few seconds; nothing hangs.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol


class Position(NamedTuple):
    """A place in a channel's log: after entry ``seq`` of log ``epoch``; ``seq`` 0 is its start."""

    epoch: str
    seq: int


class Appended(NamedTuple):
    """Where an entry went. ``duplicate``: its idempotency key was known, and this is the first
    entry's position; nothing was appended or published.

    ``shared``: False when the log is this node's own, while the backplane is away (``standby``).
    ``restate``: the holder of the channel's lease should append a ``whole`` entry next.
    """

    epoch: str
    seq: int
    duplicate: bool
    restate: bool = False
    shared: bool = True


class Entry(NamedTuple):
    """An entry of a log: its ``seq`` and the bytes that were appended."""

    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogSlice:
    """What ``read`` found: the log's ``epoch``, its newest ``last`` seq (0 when empty) and the
    oldest seq still held, ``first`` (``last + 1`` when nothing is held), all as of the moment of
    the read, and the entries asked for, in order and without holes.
    """

    epoch: str
    first: int
    last: int
    entries: tuple[Entry, ...]


class Lease(NamedTuple):
    """Proof that ``name`` was held by this holder. ``token`` grows with every new holder
    (a fencing token), so that a holder that was paused can be told from its successor.
    """

    name: str
    token: int


class LeaseLost(Exception):
    """The lease has expired or belongs to another holder; stop what it was protecting."""


EntrySink = Callable[[str, str, int, bytes], None]
"""Called as ``sink(channel, epoch, seq, data)`` for each entry published on a subscribed channel.

Called on the event loop, in order per channel; it must not block or raise. After a broken
connection was repaired (messages may have been missed) it is called once per channel as
``sink(channel, "", 0, b"")``: read the log to learn what was missed.
"""

ControlSink = Callable[[bytes], None]
"""Called with each message published on a control topic that was listened to."""

WhisperSink = Callable[[str, bytes], None]
"""Called as ``sink(channel, data)`` for each message whispered on a channel that is overheard.

Called on the event loop, in the order of each node's whispers; it must not block or raise. After a
broken connection was repaired (whispers may have been missed) it is called once per channel as
``sink(channel, b"")``.
"""

LOG_MAX_ENTRIES: Final = 10_000
"""A log holds at least this many of its newest entries (it may hold a few more), unless a limit of
bytes comes first.
"""
LOG_MAX_BYTES: Final = 8 * 1024 * 1024
"""In memory, what the data of one log's entries comes to at most; the newest is always held."""
LOGS_MAX_BYTES: Final = 512 * 1024 * 1024
"""In memory, what all logs come to at most; the log that was least recently appended to is lost
first. In Redis ``maxmemory`` is the bound.
"""
READ_BYTES: Final = 1024 * 1024
"""What the data of the entries that one ``read`` answers comes to at most, but for the first,
unless it says less."""
LOG_TTL_S: Final = 86_400
"""A log is kept for 24 hours after its last entry."""
IDEMPOTENCY_TTL_S: Final = 3_600
"""An idempotency key of ``append`` is remembered for an hour."""


class Backplane(Protocol):
    """One node's view of what nodes share. Use as: ``await start()`` … ``await close()``."""

    async def start(self) -> None:
        """Connect and begin to receive. Raises Fault("backend_unavailable") if that fails."""

    async def close(self) -> None:
        """Stop receiving and disconnect. Idempotent."""

    async def ping(self) -> None:
        """Raise Fault("backend_unavailable") within 2 s unless the backplane answers."""

    # --- logs and fan-out ---

    async def append(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        lease: Lease | None = None,
        whole: bool = False,
    ) -> Appended:
        """Append ``data`` to the channel's log and publish it to subscribers on all nodes.

        Appends that one loop turn makes are sent together and keep their order per channel.
        ``key``: the same key again appends nothing and answers the first position, for as long as
        the backplane remembers it (an hour; a Redis that evicts may forget it). ``lease``: the
        append happens only while this lease (whose name must be the channel's name) is held;
        otherwise LeaseLost is raised and nothing is appended. Checked in the same atomic step.
        ``whole``: the entry says again all there is in the channel; a log can begin with it.
        """

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        """Up to ``limit`` entries with ``seq > after``, whose data come to ``most`` bytes (which
        are ``READ_BYTES`` at most), or the first of them; a channel without a log gets one (and an
        epoch) by being read, so that a position in it can be held.
        """

    async def discard(self, channel: str) -> None:
        """Forget the channel's log; what is appended later is of another. No log is fine."""

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        """Deliver the channel's entries to ``sink`` from now on. When this returns, everything
        appended later is delivered. A second subscription of a channel replaces the sink.
        """

    async def unsubscribe(self, channel: str) -> None:
        """Deliver no more of this channel. Not subscribed is fine."""

    # --- what is not kept: whispers, and who is present ---

    async def whisper(self, channel: str, data: bytes) -> None:
        """Send ``data``, which is not empty, to the nodes that overhear the channel (this one too,
        if it does). Not kept, and no part of the log.
        """

    async def overhear(self, channel: str, sink: WhisperSink) -> None:
        """Deliver the channel's whispers to ``sink`` from now on. When this returns, everything
        whispered later is delivered. A second call for a channel replaces the sink.
        """

    async def disregard(self, channel: str) -> None:
        """Deliver no more whispers of this channel. Not overheard is fine."""

    async def attend(
        self,
        channel: str,
        members: Collection[bytes],
        ttl_s: float,
        *,
        leave: Collection[bytes] = (),
    ) -> frozenset[bytes]:
        """Have ``members`` present in the channel for ``ttl_s`` from now, by the backplane's clock,
        and those of ``leave`` no more. Answers who was present just before, of all nodes; without
        any members it is a mere look. Atomic.
        """

    # --- control messages ---

    async def publish(self, topic: str, message: bytes) -> None:
        """Send a message to every node that listens to the topic (this one too). Not kept."""

    async def listen(self, topic: str, sink: ControlSink) -> None:
        """Deliver the topic's messages to ``sink`` for the life of this backplane."""

    # --- leases ---

    async def acquire(self, name: str, ttl_s: float) -> Lease | None:
        """Take the lease if nobody holds it; None if somebody does."""

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        """Keep the lease for ``ttl_s`` from now; LeaseLost if it is not ours any more. One that has
        lapsed and that nobody has taken since is held again.
        """

    async def release(self, lease: Lease) -> None:
        """Give the lease back. One that is not ours any more is left alone."""

    # --- queue ---

    async def enqueue(self, queue: str, item: str) -> None:
        """Put an item into the queue unless the same item already waits in it. A hint, not a
        promise: an item can be lost with the node that took it; the database holds the truth.
        """

    async def dequeue(self, queue: str, timeout_s: float) -> str | None:
        """Take the oldest item, waiting up to ``timeout_s``; None if there was none."""

    # --- cache and rate limits ---

    async def cache_get(self, key: str) -> bytes | None:
        """The cached value, or None."""

    async def cache_set(
        self, key: str, value: bytes, ttl_s: float, *, only_new: bool = False
    ) -> bool:
        """Cache a value. ``only_new``: only if the key has none. Whether it was set."""

    async def cache_delete(self, key: str) -> None:
        """Forget the key."""

    async def take(self, bucket: str, cost: float, *, rate: float, burst: float) -> int:
        """Take ``cost`` tokens from a token bucket that refills at ``rate`` a second up to
        ``burst``. Answers 0 if taken, else the milliseconds until there are enough; a cost that
        is above ``burst`` answers as if it were ``burst``. A negative cost gives tokens back; a
        bucket never holds more than ``burst``.
        """
