"""What the hub must be able to read again, encrypted: secrets of second factors, for instance.

AES-256-GCM under keys that are derived (HKDF, RFC 5869) from the encryption key, which is none of
the keys that sign tokens: those may be changed without losing what is sealed. Of several keys the
first seals, and all open, so that the key can be changed as well.
"""

import base64
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hub.settings import BadSettings, Settings

FILE: Final = "encryption.key"

_NONCE: Final = 12
_NAME: Final = 4


class Unreadable(Exception):
    """It was sealed with another key, for another purpose, or changed since."""


class Opened(NamedTuple):
    """``stale``: sealed with a key that is not the first any more; seal it again."""

    plain: bytes
    stale: bool


class Seal:
    """Seals and opens. ``purpose`` says what for and whose: one opens for the same alone."""

    def __init__(self, *keys: bytes) -> None:
        """``keys``: at least one, of at least 32 bytes each; the first seals."""
        self._ciphers: dict[bytes, AESGCM] = {}
        for key in keys:
            # A key's name says nothing of the key, and finds the one that sealed.
            name = hashlib.sha256(b"name\0" + key).digest()[:_NAME]
            derived = HKDF(SHA256(), 32, salt=None, info=b"hub seal").derive(key)
            self._ciphers[name] = AESGCM(derived)
        self._first = next(iter(self._ciphers))

    def seal(self, plain: bytes, purpose: str) -> str:
        """Text that only a holder of the key can read, or make."""
        nonce = os.urandom(_NONCE)
        sealed = self._ciphers[self._first].encrypt(nonce, plain, purpose.encode())
        return base64.urlsafe_b64encode(self._first + nonce + sealed).rstrip(b"=").decode()

    def open(self, sealed: str, purpose: str) -> Opened:
        """What was sealed. Raises Unreadable."""
        try:
            raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), b"-_", validate=True)
        except ValueError:
            raise Unreadable from None
        name, nonce, rest = raw[:_NAME], raw[_NAME : _NAME + _NONCE], raw[_NAME + _NONCE :]
        cipher = self._ciphers.get(name)
        if cipher is None or len(nonce) < _NONCE:
            raise Unreadable
        try:
            plain = cipher.decrypt(nonce, rest, purpose.encode())
        except InvalidTag:
            raise Unreadable from None
        return Opened(plain, name != self._first)


def seal_of(settings: Settings) -> Seal:
    """The seal of ``HUB_ENCRYPTION_KEY``, or of the key in the data directory, which is made if
    there is none. Processes that start at once agree on one. Raises BadSettings.
    """
    if settings.encryption_key is not None:
        given = settings.encryption_key.get_secret_value().split(",")
        return Seal(*(part.strip().encode() for part in given))
    path = settings.data_dir / FILE
    try:
        kept = _kept(path)
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror}; set HUB_ENCRYPTION_KEY instead") from None
    if len(kept) < 32:
        raise BadSettings(f"{path}: shorter than 32 bytes; restore it, or set HUB_ENCRYPTION_KEY")
    return Seal(kept)


def _kept(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes().strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and never replaces: the first process wins.
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()
    return path.read_bytes().strip()
