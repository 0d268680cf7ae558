"""How a hub without Redis learns of what an operator's command has changed: by a file beside its
database, which it looks at a few times a second.

Without it, it would find out by itself within 5 s (``hub.identity.access.watches``).
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from hub.identity.access.authority import KINDS, Authority
from hub.settings import Settings
from hub.telemetry.logs import log

FILE: Final = "changes.jsonl"
LOOK_S: Final = 0.25


def teller(settings: Settings, authority: Authority) -> Callable[[str, str], Awaitable[None]]:
    """What a command calls as ``changed(kind, id)`` after it has committed a change, so that
    running hubs act on it at once: those of its Redis, or the one of its data directory.
    """

    async def changed(kind: str, id: str) -> None:
        if settings.redis_url is not None:
            await authority.changed(kind, id)
        else:
            _add(settings.data_dir / FILE, kind, id)

    return changed


def _add(path: Path, kind: str, id: str) -> None:
    # What is appended at once in a few bytes is not mixed with what another appends.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return  # no hub has this data directory
    try:
        os.write(descriptor, json.dumps([kind, id]).encode() + b"\n")
    finally:
        os.close(descriptor)


class Changes:
    """Reads what commands have changed since it was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)  # of before: a hub that starts looks everything up
        self._at = 0

    def news(self) -> list[tuple[str, str]]:
        """The kinds and ids since the last look."""
        try:
            if self._path.stat().st_size <= self._at:
                return []
            with self._path.open("rb") as file:
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._at += len(whole) + 1 if whole else 0
        found = []
        for line in whole.splitlines():
            try:
                kind, id = json.loads(line)
            except (ValueError, TypeError):
                log.warning("a line of changes cannot be read", file=FILE)
                continue
            if kind in KINDS and isinstance(id, str):
                found.append((kind, id))
        return found

    async def follow(self, changed: Callable[[str, str], Awaitable[None]]) -> None:
        """Call ``changed(kind, id)`` for each change; for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                for kind, id in self.news():
                    await changed(kind, id)
            except OSError as error:
                log.warning("changes cannot be read", file=FILE, why=error.strerror)
