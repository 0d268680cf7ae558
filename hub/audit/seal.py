"""The key that signs what is said of a trail: checkpoints, and notes of what was pruned.

Ed25519 (RFC 8032). The private key is a file of the data directory, or one that all nodes share;
the public one, 32 bytes in base64url, is what others keep to know it by.
"""

import base64
import binascii
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hub.settings import BadSettings, Settings

FILE: Final = "audit.key"


class Seal:
    """A private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public: Final = _text(raw)

    def sign(self, data: bytes) -> str:
        """The signature, in base64url."""
        return _text(self._key.sign(data))


def genuine(public: str, data: bytes, signature: object) -> bool:
    """Whether the holder of this key has signed that."""
    if not isinstance(signature, str):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(_raw(public)).verify(_raw(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def kept_seal(settings: Settings) -> Seal | None:
    """The key that there is, or None. Raises BadSettings for a file that is no such key."""
    path = _path(settings)
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None


def made_seal(settings: Settings) -> Seal:
    """The key; made if there is none. Processes that start at once agree on one.

    Raises BadSettings when it cannot be read or written.
    """
    path = _path(settings)
    try:
        with suppress(FileNotFoundError):
            return _read(path)
        _make(path)
        return _read(path)
    except OSError as error:
        raise _unusable(path, error) from None


def _path(settings: Settings) -> Path:
    return settings.audit_key_file or settings.data_dir / FILE


def _unusable(path: Path, error: OSError) -> BadSettings:
    return BadSettings(f"{path}: {error.strerror}; see HUB_AUDIT_KEY_FILE")


def _read(path: Path) -> Seal:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadSettings(
            f"{path}: not an Ed25519 private key in PEM; `openssl genpkey -algorithm ed25519` "
            "makes one"
        )
    return Seal(key)


def _make(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and never replaces: the first process wins.
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
