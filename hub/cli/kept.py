"""Processes of this hub that another one of it keeps: starts, starts again when they die, and ends.

A socket, the joint, is between the two: by it the keeper speaks, and by its end either side knows
that the other is dead.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from hub.settings import Settings
from hub.telemetry.logs import log

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
STEADY_S: Final = 10.0
"""A process that has served for this long did not die of its start: the next follows soon."""

KILLED_AFTER_S: Final = 10.0
"""What a process has left when it should have ended; then it is killed."""

UP: Final = b"u"
END: Final = b"e"
AT_ONCE: Final = b"!"
DOOR: Final = b"d"
NO_DOOR: Final = b"n"


def joint() -> tuple[socket.socket, socket.socket]:
    """The two ends of a socket, which do not block."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


class Child:
    """One process, seen from its keeper. ``joint`` is our end of the socket between us."""

    def __init__(self, process: asyncio.subprocess.Process, joint: socket.socket) -> None:
        self.process = process
        self.joint = joint

    @classmethod
    async def start(
        cls, settings: Settings, index: int, *, worker: bool, **ends: socket.socket | None
    ) -> "Child":
        """``index``: its number. ``ends``: sockets that it is given, by what they are for.

        Raises OSError.
        """
        ours, theirs = joint()
        with theirs:
            words = [
                *("serve", "--host", settings.host, "--port", str(settings.port)),
                *("--data-dir", str(settings.data_dir)),
                *(() if worker else ("--no-worker",)),
                *("--index", str(index)),
            ]
            passed = []
            for name, end in {"joint": theirs, **ends}.items():
                if end is not None:
                    passed.append(end.fileno())
                    words += [f"--{name}", str(end.fileno())]
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "hub", *words),
                    pass_fds=passed,
                    # A terminal's ctrl-C is for the keeper, which passes it on once.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, ours)

    async def says_up(self) -> bool:
        """Wait until it serves; False if it has ended."""
        try:
            return await asyncio.get_running_loop().sock_recv(self.joint, 1) == UP
        except OSError:
            return False

    def tell(self, word: bytes) -> None:
        try:
            self.joint.send(word)
        except OSError:
            log.debug("a process was gone before it was told", pid=self.process.pid)


class Kept:
    """A process, and another one whenever it has died. ``up``: whether it serves."""

    def __init__(
        self,
        index: int,
        start: Callable[[], Awaitable[Child]],
        changed: Callable[[], None],
        *,
        must_start: Callable[[], bool] = lambda: False,
    ) -> None:
        """``changed``: called when it is up, and when it is gone. ``must_start``: whether none
        follows one that ends now.
        """
        self.up = False
        self._index = index
        self._start = start
        self._changed = changed
        self._must_start = must_start
        self._child: Child | None = None
        self._ending = asyncio.Event()
        self._last_word = END

    def tell(self, word: bytes) -> None:
        if self._child is not None:
            self._child.tell(word)

    def end(self, word: bytes = END) -> None:
        """Have it end, and no other follow."""
        if self._last_word != AT_ONCE:
            self._last_word = word
        self._ending.set()
        self.tell(self._last_word)

    def kill(self) -> None:
        """For one that does not end."""
        if self._child is not None:
            log.error("a process does not end; it is killed", pid=self._child.process.pid)
            self._child.process.kill()

    async def keep(self) -> int:
        """Have it until it is to end; the exit status of the last one."""
        loop = asyncio.get_running_loop()
        wait_s = FIRST_WAIT_S
        while True:
            began = loop.time()
            status = await self._live()
            if self._ending.is_set() or self._must_start():
                return status
            if loop.time() - began >= STEADY_S:
                wait_s = FIRST_WAIT_S
            log.error(
                "a process died; another follows", process=self._index, status=status, in_s=wait_s
            )
            try:
                async with asyncio.timeout(wait_s):
                    await self._ending.wait()
                return 0
            except TimeoutError:
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _live(self) -> int:
        try:
            child = self._child = await self._start()
        except OSError as error:  # there are too many, or there is no memory
            log.error("a process cannot be started", process=self._index, why=error.strerror)
            return 1
        try:
            if self._ending.is_set():
                child.tell(self._last_word)
            if await child.says_up():
                self.up = True
                self._changed()
            return await child.process.wait()
        finally:
            self._child, self.up = None, False
            child.joint.close()
            self._changed()


async def ended(
    kept: Sequence[Kept], keepers: "Sequence[asyncio.Task[int]]", within_s: float
) -> list[int]:
    """The exit statuses of those who were told to end; who has not ``within_s`` is killed."""
    _, late = await asyncio.wait(keepers, timeout=within_s + KILLED_AFTER_S)
    if late:
        for each in kept:
            each.kill()
    return await asyncio.gather(*keepers)
