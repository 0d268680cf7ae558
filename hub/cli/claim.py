"""The claim on a data directory: with the memory backplane, one hub at a time may use it.

Two of them would each believe that they hold every lease, and drive the same runs.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CLAIM_FILE: Final = "hub.lock"


class Claimed(Exception):
    """Another hub uses the data directory; the message says what to do."""


@contextmanager
def claim(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process; the lock goes with the process, however it ends.

    Raises Claimed, OSError.
    """
    with (data_dir / CLAIM_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Claimed(
                f"another hub uses {data_dir}. Stop it, choose another directory with --data-dir, "
                "or set HUB_REDIS_URL so that several can share the work."
            ) from None
        yield
