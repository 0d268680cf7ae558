"""Progress: short lines that say what is going on, with the time since the start."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

REMINDER_S: Final = 15.0


class Progress:
    """Writes ``[ 3.2 s] what`` to ``stream``, and inside ``during`` at least every 15 s."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._began

    def say(self, what: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(f"[{self.elapsed:5.1f} s] {what}\n")
        stream.flush()

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Says ``what``, and now and then that it still goes on."""
        self.say(what)
        over = threading.Event()

        def remind() -> None:
            while not over.wait(REMINDER_S):
                self.say(f"still: {what}")

        reminder = threading.Thread(target=remind, daemon=True)
        reminder.start()
        try:
            yield
        finally:
            over.set()
            reminder.join()
