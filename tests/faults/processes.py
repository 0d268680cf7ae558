"""What a killed process leaves, and workers that can be killed and paused."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.parts.hub import ROOT

READY_S: Final = 30.0


async def wait_until(true: Callable[[], object], within: float, what: str) -> None:
    """Ask again and again until it is so. Raises TimeoutError."""
    until = time.monotonic() + within
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {within} s: {what}")
        await asyncio.sleep(0.02)


def query(data_dir: Path, statement: str, *values: object) -> list[dict[str, Any]]:
    """Rows of the embedded database, read beside the hub."""
    connection = sqlite3.connect(data_dir / "hub.db", timeout=5)
    try:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement, values)]
    finally:
        connection.close()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == pid and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


class WorkerProcess:
    """``hub worker`` as a process of its own."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "JWT_"))}
        paths = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hub", "worker"],
                env={**clean, "PYTHONPATH": paths, **environment},
                cwd=log.parent,
                stdout=out,
                stderr=out,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def says(self, words: str, within: float = READY_S) -> None:
        """Wait for a line of its log."""
        await wait_until(lambda: words in self.log, within, f"{words!r} in:\n{self.log}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
