"""Lock: keeps two starts from changing one directory at once.

The lock is on the directory itself (flock), so that it leaves no file behind and ends with the
process that holds it, however that ends.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final


class Lock:
    """A lock on a directory: shared with others that share it, or exclusive.

    Changing from one to the other lets go first: look again at what the lock protects.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor

    def share(self, waiting: Callable[[], None]) -> None:
        """Waits until nobody else has it exclusively; calls ``waiting`` once if that takes time."""
        self._take(fcntl.LOCK_SH, waiting)

    def exclude(self, waiting: Callable[[], None]) -> None:
        """Waits until nobody else has it at all; calls ``waiting`` once if that takes time."""
        self._take(fcntl.LOCK_EX, waiting)

    def _take(self, kind: int, waiting: Callable[[], None]) -> None:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(self._descriptor, kind)


@contextmanager
def lock_on(directory: Path) -> Iterator[Lock]:
    """The lock on ``directory``, not yet taken; let go at the end.

    Raises OSError when the directory is not there or may not be read.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield Lock(descriptor)
    finally:
        os.close(descriptor)
