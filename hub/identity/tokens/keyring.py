"""The ring of keys: which one signs access tokens now, and which ones still verify.

A key that the settings give (``JWT_SECRET_KEY``, ``JWT_PRIVATE_KEY_FILE``) signs. Otherwise the
keys of a directory do, one file each, ``<name>.<algorithm>.key``. A name that begins with an
instant (``20261126T020547Z-…``) says from when on the key signs; the latest of those that have come
signs. So a key is there, on every node and in every cache of the public keys, before anything is
signed by it; and the one before it verifies until the last token of its time is over. A key whose
name holds no instant verifies, for as long as its file is there, and signs nothing.

The directory is read again every minute, and when a key is asked for that is not known.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from hub.identity.tokens.signing import PAIRED, SigningKey, generate, load
from hub.settings import BadSettings, Settings
from hub.telemetry.logs import log

FOLDER: Final = "keys"
"""In the data directory, unless ``JWT_KEYS_DIR`` says otherwise."""
REREAD_S: Final = 60.0
UNKNOWN_S: Final = 1.0
"""How long it is between two looks for a key that is not known: anybody can ask for one."""
ANNOUNCED: Final = timedelta(seconds=180)
"""How long a new key is there before it signs: every node has read it, and every cache of the
public keys (``hub.transports.well_known``) has asked again."""
LEEWAY_S: Final = 30
"""How much the clocks of two machines may differ."""

_FILE: Final = re.compile(r"([A-Za-z0-9_-]{1,80})\.(HS256|HS384|HS512|EdDSA|RS256)\.key")
_INSTANTS: Final = ("%Y%m%dT%H%M%SZ", "%Y%m%dT%H%M%S%fZ")
"""As an operator may write an instant, and as ``make`` does: two keys never have the same."""

State = Literal["announced", "signs", "verifies", "spent"]


@dataclass(frozen=True, slots=True)
class Held:
    """A key of the ring. ``since``: from when on it signs; ``until``: when its last token is over;
    None where that is not said. ``file`` is None for the key of the settings.
    """

    key: SigningKey
    file: Path | None
    since: datetime | None
    until: datetime | None = None


class KeyRing:
    """The keys of one process."""

    def __init__(
        self,
        algorithm: str,
        *,
        fixed: SigningKey | None = None,
        directory: Path | None = None,
        life_s: int = 0,
    ) -> None:
        """``fixed`` signs, if it is given; ``life_s`` is how long tokens live.

        Raises BadSettings for a key that cannot be, and when there is none that signs.
        """
        self._algorithm = algorithm
        self._fixed = fixed
        self._directory = directory
        self._after = timedelta(seconds=life_s + LEEWAY_S)
        self._texts: dict[Path, tuple[str, SigningKey]] = {}
        self._held: dict[str, Held] = {}
        self._read_at = time.monotonic()
        self._take(self._read())

    @property
    def fixed(self) -> bool:
        """Whether the settings give the key that signs."""
        return self._fixed is not None

    @property
    def signing(self) -> SigningKey:
        """The key that signs now."""
        self._renew(REREAD_S)
        return self._signing(self._held).key

    def find(self, kid: str) -> SigningKey | None:
        """The key of this id, if it verifies."""
        self._renew(REREAD_S if kid in self._held else UNKNOWN_S)
        held = self._held.get(kid)
        return None if held is None or self.state(held) == "spent" else held.key

    def verifying(self) -> list[SigningKey]:
        """All that verify, the one that signs first."""
        signing = self.signing
        others = [held.key for held in self._held.values() if self.state(held) != "spent"]
        return [signing, *(key for key in others if key is not signing)]

    def public(self) -> list[Mapping[str, str]]:
        """The JWKs (RFC 7517) of those that verify; a shared secret has none."""
        return [key.public for key in self.verifying() if key.public is not None]

    def all(self) -> list[Held]:
        """What is held, the oldest first."""
        return list(self._held.values())

    def state(self, held: Held) -> State:
        """What a key does at this moment."""
        if held is self._signing(self._held):
            return "signs"
        moment = datetime.now(UTC)
        if held.until is not None and held.until <= moment:
            return "spent"
        return "announced" if held.since is not None and held.since > moment else "verifies"

    # --- reading ---

    def _renew(self, after_s: float) -> None:
        if self._directory is None or time.monotonic() - self._read_at < after_s:
            return
        self._read_at = time.monotonic()
        try:
            self._take(self._read(strict=False))
        except (BadSettings, OSError) as error:
            log.warning("the signing keys cannot be read again", why=str(error))

    def _take(self, found: dict[str, Held]) -> None:
        self._signing(found)
        self._held = found

    def _signing(self, among: Mapping[str, Held]) -> Held:
        if self._fixed is not None:
            return among[self._fixed.kid]
        moment = datetime.now(UTC)
        for held in reversed(list(among.values())):
            if held.since is not None and held.since <= moment and self._can_sign(held.key):
                return held
        raise BadSettings(
            f"{self._directory}: there is no {self._algorithm} key that signs now; "
            "`hub keys rotate --now` makes one"
        )

    def _can_sign(self, key: SigningKey) -> bool:
        return key.algorithm == self._algorithm and key.signs_with is not None

    def _read(self, *, strict: bool = True) -> dict[str, Held]:
        """The keys there are now, the oldest first. Not ``strict``: one that cannot be is left
        out, where it would otherwise keep the others from being known.
        """
        found: list[Held] = []
        files = _files(self._directory)
        self._texts = {path: self._texts[path] for path, _ in files if path in self._texts}
        for path, since in files:
            try:
                found.append(Held(self._loaded(path), path, since))
            except FileNotFoundError:
                continue  # retired just now
            except (BadSettings, OSError) as error:
                if strict:
                    raise
                log.warning("a signing key cannot be read", file=path.name, why=str(error))
        ends = [held.since for held in found if held.since is not None]
        ring = {held.key.kid: self._ending(held, ends) for held in found}
        if self._fixed is not None:
            ring.pop(self._fixed.kid, None)
            ring[self._fixed.kid] = Held(self._fixed, None, None)
        return ring

    def _ending(self, held: Held, begins: list[datetime]) -> Held:
        later = [each for each in begins if held.since is not None and each > held.since]
        until = min(later) + self._after if later else None
        return Held(held.key, held.file, held.since, until)

    def _loaded(self, path: Path) -> SigningKey:
        text = path.read_text()
        known = self._texts.get(path)
        if known is None or known[0] != text:
            known = self._texts[path] = (text, load(str(path), text, path.name.split(".")[1]))
        return known[1]


def open_ring(settings: Settings, *, makes: bool = True) -> KeyRing:
    """The ring that the settings describe. A key is made in the directory if none there signs,
    unless not ``makes``. Processes that start at once agree on one.

    Raises BadSettings for a key that can be guessed, or
    that cannot be read or written.
    """
    fixed = _given(settings)
    directory = directory_of(settings)
    try:
        if makes and fixed is None and not _signs_now(directory, settings.jwt_algorithm):
            with _locked(directory):
                if not _signs_now(directory, settings.jwt_algorithm):
                    make(directory, settings.jwt_algorithm, datetime.now(UTC))
        return KeyRing(
            settings.jwt_algorithm,
            fixed=fixed,
            directory=directory,
            life_s=settings.access_token_minutes * 60,
        )
    except OSError as error:
        where = error.filename or directory
        raise BadSettings(
            f"{where}: {error.strerror}; see JWT_KEYS_DIR, or set JWT_SECRET_KEY instead"
        ) from None


def directory_of(settings: Settings) -> Path:
    """Where the keys are."""
    return settings.jwt_keys_dir or settings.data_dir / FOLDER


def make(directory: Path, algorithm: str, since: datetime) -> Path:
    """A new key, which signs from then on: its file, for the operator's eyes only. Its id begins
    with no dash, which would make an option of it where a command is given it.

    Raises OSError.
    """
    kid = "-"
    while kid.startswith("-"):
        text = generate(algorithm)
        kid = load("a new key", text, algorithm).kid
    path = directory / f"{since:{_INSTANTS[1]}}-{kid[:8]}.{algorithm}.key"
    made = directory / f".{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        made.rename(path)  # whole, or not at all
    finally:
        made.unlink(missing_ok=True)
    return path


def _given(settings: Settings) -> SigningKey | None:
    algorithm, path = settings.jwt_algorithm, settings.jwt_private_key_file
    if settings.jwt_secret is not None and path is not None:
        raise BadSettings("JWT_SECRET_KEY and JWT_PRIVATE_KEY_FILE: one key signs; set one of them")
    if settings.jwt_secret is not None:
        if algorithm in PAIRED:
            raise BadSettings(
                f"JWT_SECRET_KEY: {algorithm} signs with a private key; set JWT_PRIVATE_KEY_FILE, "
                "or neither and let the hub make one"
            )
        return load("JWT_SECRET_KEY", settings.jwt_secret.get_secret_value(), algorithm)
    if path is None:
        return None
    if algorithm not in PAIRED:
        raise BadSettings(
            "JWT_PRIVATE_KEY_FILE: set JWT_ALGORITHM to what the key is for, EdDSA or RS256"
        )
    try:
        key = load(f"JWT_PRIVATE_KEY_FILE ({path})", path.read_text(), algorithm)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a key in PEM"
        raise BadSettings(f"JWT_PRIVATE_KEY_FILE ({path}): {why}") from None
    if key.signs_with is None:
        raise BadSettings(f"JWT_PRIVATE_KEY_FILE ({path}): a public key signs nothing")
    return key


def _files(directory: Path | None) -> list[tuple[Path, datetime | None]]:
    """The files of keys, and from when on they sign; those that never do come first."""
    if directory is None or not directory.is_dir():
        return []
    found = [
        (path, _instant(match[1]))
        for path in directory.iterdir()
        if (match := _FILE.fullmatch(path.name))
    ]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda each: (each[1] or never, each[0].name))


def _instant(name: str) -> datetime | None:
    for form in _INSTANTS:
        with suppress(ValueError):
            return datetime.strptime(name.partition("-")[0], form).replace(tzinfo=UTC)
    return None


def _signs_now(directory: Path, algorithm: str) -> bool:
    moment = datetime.now(UTC)
    return any(
        since is not None and since <= moment and path.name.endswith(f".{algorithm}.key")
        for path, since in _files(directory)
    )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
