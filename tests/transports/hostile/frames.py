"""Frames of a client as RFC 6455 section 5.2 lays them out, and as it does not."""

import os
from typing import Final

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

RSV1: Final = 0x40


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    says: int | None = None,
) -> bytes:
    """A frame. ``says`` is the size in its header, if that is not the payload's."""
    size = len(payload) if says is None else says
    first = (0x80 if fin else 0) | reserved | opcode
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, mask_bit | size))
    elif size < 65_536:
        head = bytes((first, mask_bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    wide = int.from_bytes(payload, "big") ^ int.from_bytes(
        (key * (len(payload) // 4 + 1))[: len(payload)], "big"
    )
    return head + key + wide.to_bytes(len(payload), "big")


def message(payload: bytes, *sizes: int, opcode: int = TEXT) -> bytes:
    """A message in fragments of these sizes, and the rest."""
    parts = []
    for size in sizes:
        parts.append(payload[:size])
        payload = payload[size:]
    parts.append(payload)
    return b"".join(
        frame(CONTINUATION if at else opcode, part, fin=at == len(parts) - 1)
        for at, part in enumerate(parts)
    )
