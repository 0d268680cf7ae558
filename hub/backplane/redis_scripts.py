"""The Lua scripts, read from the package, with the names that Redis knows them by."""

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and ``sha``, by which EVALSHA calls it."""

    text: bytes
    sha: bytes


@dataclass(frozen=True, slots=True)
class Scripts:
    """All of them. Each file says what it takes and answers."""

    append: Script
    read: Script
    attend: Script
    acquire: Script
    renew: Script
    release: Script
    enqueue: Script
    take: Script


def load_scripts() -> Scripts:
    """Read the scripts from the package."""
    folder = files("hub.backplane").joinpath("scripts")
    return Scripts(
        **{name: _script(folder.joinpath(f"{name}.lua").read_bytes()) for name in _NAMES}
    )


_NAMES = tuple(Scripts.__dataclass_fields__)


def _script(text: bytes) -> Script:
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())
