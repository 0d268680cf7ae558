"""The framing of a server's WebSocket messages (RFC 6455 section 5.2), for frames built once."""

from collections.abc import Iterator
from typing import Final

CLOSE_CODES: Final = frozenset(range(1000, 1016)) - {1004}
"""The close codes that section 7.4.1 and the registry it began give a meaning."""

LOST: Final = 1006
"""Stands for the end of a connection without a close frame; it is on no wire (section 7.1.5)."""


def text_frame(payload: bytes) -> bytes:
    """An unfragmented, unmasked text frame around ``payload``, ready for the transport."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def payloads(frames: bytes) -> Iterator[bytes]:
    """The payloads of frames that ``text_frame`` made, for a server that frames by itself."""
    at = 0
    while at < len(frames):
        size = frames[at + 1]
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(frames[at : at + width], "big")
            at += width
        yield frames[at : at + size]
        at += size
