"""Stamp: what was done to an environment, so that a second start need not do it again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


def digest(file: Path, flags: Sequence[str] = ()) -> str:
    """The SHA-256, in hex, of a requirements file and how it is installed."""
    return hashlib.sha256(b"\0".join([file.read_bytes(), *map(str.encode, flags)])).hexdigest()


@dataclass
class Stamp:
    """``root`` is the checkout the environment links to, ``python`` its version ("3.11.2"),
    ``parts`` the digest of each file that is installed, ``changing`` whether an install began
    and did not end.
    """

    root: str
    python: str
    parts: dict[str, str] = field(default_factory=dict)
    changing: bool = False

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The stamp at ``path``; None if there is none, or it is not one of ours."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Replaces the stamp at ``path`` in one step."""
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
