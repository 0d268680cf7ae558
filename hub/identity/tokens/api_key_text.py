"""An API key as text: ``ahk_``, the key's ULID, 256 random bits, and a checksum. Pure.

The prefix and the checksum (CRC-32 of all before it, as GitHub's tokens have) let a scanner find a
key that was published, without taking for one what only looks like it; and what was mistyped or cut
is refused without a look at the database. Nothing in it needs quoting, and a double click takes all
of it.

It is stored as SHA-256 of its text. A slow hash (bcrypt) is for what people choose, of which there
are few enough to try; of 256 random bits there are not, and this is computed for every request.
"""

import hashlib
import re
import secrets
import zlib
from typing import Final, NamedTuple

PREFIX: Final = "ahk_"

_FORM: Final = re.compile(r"ahk_([0-9A-HJKMNP-TV-Z]{26})[0-9A-Za-z]{43}([0-9A-Za-z]{6})")
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET: Final = 43
"""Digits of 62 that 256 bits take."""
_CHECKSUM: Final = 6


class KeyHolder(NamedTuple):
    """Whoever shows an API key: its id (``ak_…``), and the SHA-256 of its text in hex."""

    key_id: str
    digest: str


class KeyUser(NamedTuple):
    """A user in a tenant, limited to what an API key of theirs may do, by which they came before;
    its secret is not asked for again.
    """

    user_id: str
    tenant_id: str
    key_id: str


def make(key_id: str) -> tuple[str, KeyHolder]:
    """A new secret for the key: its text, and who shows it."""
    secret = _written(int.from_bytes(secrets.token_bytes(32), "big"), _SECRET)
    body = f"{PREFIX}{key_id.removeprefix('ak_')}{secret}"
    text = body + _checksum(body)
    return text, KeyHolder(key_id, _digest(text))


def parse(text: str) -> KeyHolder | None:
    """Who shows this text; None if it is no API key of ours."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM]) != match[2]:
        return None
    return KeyHolder(f"ak_{match[1]}", _digest(text))


def _checksum(body: str) -> str:
    return _written(zlib.crc32(body.encode()), _CHECKSUM)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _written(number: int, digits: int) -> str:
    written = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        written = _DIGITS[digit] + written
    return written
