"""The key that signs access tokens: the operator's, or one made on the first start."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from hub.settings import BadSettings, Settings

FILE: Final = "jwt.key"

_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 section 3.2
_MAKE_ONE: Final = "make one with `python -c 'import secrets; print(secrets.token_urlsafe(64))'`"
# Words of the placeholders that tutorials and templates carry. A random key holds one of them with
# a probability that can be forgotten.
_PLACEHOLDERS: Final = ("secret", "changeme", "password", "example", "default", "insecure")
_PUBLISHED: Final = ("09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",)


def signing_key(settings: Settings) -> bytes:
    """``JWT_SECRET_KEY``, or the key of the data directory, which is made if there is none.

    Processes that start at once agree on one. Raises BadSettings for a key that can be guessed,
    or that cannot be read or written.
    """
    if settings.jwt_secret is not None:
        given = settings.jwt_secret.get_secret_value()
        _refuse_weak("JWT_SECRET_KEY", given, settings.jwt_algorithm)
        return given.encode()
    path = settings.data_dir / FILE
    try:
        kept = _read(path) or _make(path)
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror}; set JWT_SECRET_KEY instead") from None
    _refuse_weak(str(path), kept, settings.jwt_algorithm)
    return kept.encode()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _make(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and never replaces: the first process wins.
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()
    return path.read_text().strip()


def _refuse_weak(name: str, key: str, algorithm: str) -> None:
    least = _BYTES[algorithm]
    if len(key.encode()) < least:
        raise BadSettings(f"{name}: {algorithm} needs at least {least} bytes; {_MAKE_ONE}")
    plain = "".join(character for character in key.lower() if character.isalnum())
    if key in _PUBLISHED or any(word in plain for word in _PLACEHOLDERS):
        raise BadSettings(f"{name}: a placeholder is not a secret; {_MAKE_ONE}")
    if len(set(key)) < 8 or key in (key + key)[1:-1]:
        raise BadSettings(f"{name}: a repetition is not a secret; {_MAKE_ONE}")
