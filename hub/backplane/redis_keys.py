"""How things are named in Redis. ``README.md`` has the table of them."""

from typing import Final, NamedTuple
from zlib import crc32

from redis.crc import key_slot

PARTITIONS = 128
"""What belongs together shares a hash tag, ``{p0}`` … ``{p127}``, and so a slot of a cluster."""


REMEMBERED: Final = 8_192
"""Channels whose keys a node remembers, a kilobyte each."""


class ChannelKeys(NamedTuple):
    """The keys of a channel, and the pub/sub channels of its entries and of what is whispered
    there; all of one partition.
    """

    partition: int
    meta: bytes
    log: bytes
    entries: bytes
    whisper: bytes
    present: bytes
    lease: bytes
    fence: bytes
    key: bytes  # in front of an idempotency key


class Keys:
    """Names, all of which begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        if set("{}") & set(prefix):
            raise ValueError("a prefix of keys holds no braces: they would be the hash tag")
        self._prefix = prefix
        self._known: dict[str, ChannelKeys] = {}

    def of(self, channel: str) -> ChannelKeys:
        """The keys of a channel."""
        known = self._known.get(channel)
        if known is None:
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[channel] = self._of(channel)
        return known

    def forget(self, channel: str) -> None:
        """The channel is not of use any more, as far as is known."""
        self._known.pop(channel, None)

    def _of(self, channel: str) -> ChannelKeys:
        partition = partition_of(channel)

        def key(kind: str) -> bytes:
            return self._key(partition, kind, channel)

        return ChannelKeys(
            partition,
            key("meta"),
            key("log"),
            key("entries"),
            key("whisper"),
            key("present"),
            key("lease"),
            key("fence"),
            # With its length, or "a:b" and key "c" would be "a" and key "b:c".
            self._key(partition, "key", f"{len(channel)}:{channel}:"),
        )

    def named(self, kind: str, name: str) -> tuple[int, bytes]:
        """The partition and the key of something that is no channel."""
        partition = partition_of(name)
        return partition, self._key(partition, kind, name)

    def _key(self, partition: int, kind: str, name: str) -> bytes:
        return f"{self._prefix}:{{p{partition}}}:{kind}:{name}".encode()


def partition_of(name: str) -> int:
    """The partition of a name: the same on every node and in every version."""
    return crc32(name.encode()) % PARTITIONS


def slot_of(partition: int) -> int:
    """The slot of Redis Cluster that holds a partition."""
    return key_slot(f"p{partition}".encode())
