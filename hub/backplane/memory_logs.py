"""The logs of one process, within limits of age, entries and bytes."""

from collections import OrderedDict, deque
from itertools import islice
from secrets import token_hex

from hub.backplane.expiring import SWEEP_STEP
from hub.backplane.interface import Entry
from hub.backplane.limits import LogLimits


def snug(data: bytes) -> bytes:
    """The same bytes, in no more memory than they need. What orjson has made sits in 4 KiB however
    short it is, and in up to nine times its length: no matter for what is sent and forgotten, but
    what is held is counted by its length.
    """
    return bytes(memoryview(data))


class Log:
    """A channel's log: its newest entries, the bytes of their data, the instant it expires, and
    the keys of its appends with when to forget them.
    """

    __slots__ = ("bytes", "entries", "epoch", "keys", "seq", "until")

    def __init__(self, until: float) -> None:
        self.epoch = "e" + token_hex(8)
        self.seq = 0
        self.entries: deque[Entry] = deque()
        self.bytes = 0
        self.until = until
        self.keys: OrderedDict[str, tuple[float, int]] = OrderedDict()


class MemoryLogs:
    """Logs by channel. The clock, in seconds, is the caller's, and never goes back."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        # Least recently appended to first. All live equally long after that, so that it is the
        # order in which they expire, too.
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._logs)

    def get(self, channel: str, now: float) -> Log | None:
        """The channel's log, or None if it has none or it has expired."""
        log = self._logs.get(channel)
        return None if log is None or log.until <= now else log

    def begun(self, channel: str, now: float) -> Log:
        """The channel's log, a new one if it has none."""
        log = self._logs.get(channel)
        if log is None or log.until <= now:
            if log is not None:
                self._drop(channel)
            self._drop_expired(now)
            log = self._logs[channel] = Log(now + self._limits.ttl_s)
        return log

    def append(self, channel: str, log: Log, data: bytes, now: float) -> Entry:
        """Append to the channel's log, which was just ``begun``, and keep all within the limits:
        its oldest entries go first, then the logs that were least recently appended to.
        """
        limits, entries = self._limits, log.entries
        log.seq += 1
        entry = Entry(log.seq, snug(data))
        entries.append(entry)
        size = len(data)
        while len(entries) > limits.entries or (
            log.bytes + size > limits.log_bytes and len(entries) > 1
        ):
            size -= len(entries.popleft().data)
        log.bytes += size
        log.until = now + limits.ttl_s
        self._logs.move_to_end(channel)
        self.bytes += size
        while self.bytes > limits.total_bytes and len(self._logs) > 1:
            self._drop(next(iter(self._logs)))
        return entry

    def drop(self, channel: str) -> None:
        """Forget a channel's log. None is fine."""
        if channel in self._logs:
            self._drop(channel)

    def clear(self) -> None:
        """Forget everything."""
        self._logs.clear()
        self.bytes = 0

    def _drop_expired(self, now: float) -> None:
        for channel in tuple(islice(self._logs, SWEEP_STEP)):
            if self._logs[channel].until > now:
                break
            self._drop(channel)

    def _drop(self, channel: str) -> None:
        self.bytes -= self._logs.pop(channel).bytes
