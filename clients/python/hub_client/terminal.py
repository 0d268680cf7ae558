"""The terminal: lines in without stopping the loop, text out, ctrl-C as an event."""

import asyncio
import contextlib
import importlib
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen:
    """Standard output and error. What the hub sends cannot steer a terminal: its control
    characters are taken out where there is one.
    """

    def __init__(
        self,
        out: IO[str] | None = None,
        err: IO[str] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._terminal = self._out.isatty()
        self._color = self._terminal and not environment.get("NO_COLOR")
        for stream in (self._out, self._err):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="replace")

    def write(self, text: str) -> None:
        """A piece of an answer."""
        self._out.write(_CONTROL.sub("", text) if self._terminal else text)
        self._out.flush()

    def line(self, text: str = "", *, dim: bool = False) -> None:
        text = _CONTROL.sub("", text) if self._terminal else text
        self._out.write(f"\x1b[2m{text}\x1b[0m\n" if dim and self._color else f"{text}\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """A word beside the answer, on standard error."""
        with contextlib.suppress(BrokenPipeError):
            self._err.write(f"{_CONTROL.sub('', text)}\n")
            self._err.flush()


class Lines:
    """Standard input, a line at a time.

    A thread of its own reads, and only when a line was asked for. A wait that is cancelled leaves
    its line to the next one. Not ``sys.stdin``: an interpreter that ends while a thread holds the
    lock of its buffer crashes.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._bytes = b""
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: asyncio.Future[str | None] | None = None
        self.terminal = os.isatty(descriptor)

    def edit(self) -> None:
        """Line editing and history, where the platform has them."""
        if self.terminal:
            with contextlib.suppress(ImportError):
                importlib.import_module("readline")

    async def read(self, prompt: str) -> str | None:
        """The next line without its end; None when there is none. The prompt is for terminals."""
        if self._pending is None:
            loop = asyncio.get_running_loop()
            self._pending = loop.create_future()
            self._ask(loop, self._pending, prompt)
        line = await asyncio.shield(self._pending)
        self._pending = None
        return line

    def read_now(self) -> str | None:
        """The next line, waiting for it. Only while nothing else reads."""
        while b"\n" not in self._bytes:
            block = os.read(self._descriptor, 4096)
            if not block:
                break
            self._bytes += block
        if not self._bytes:
            return None
        line, _, self._bytes = self._bytes.partition(b"\n")
        return line.decode(errors="replace").removesuffix("\r")

    def _ask(
        self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[str | None]", prompt: str
    ) -> None:
        def read() -> None:
            try:
                line = input(prompt) if self.terminal else self.read_now()
            except (EOFError, OSError):
                line = None
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_resolve, future, line)

        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="hub-lines", daemon=True)
            self._thread.start()
        self._asked.put(read)

    def _serve(self) -> None:
        while True:
            self._asked.get()()


class Interrupts:
    """Ctrl-C as an event to wait for, instead of an exception anywhere."""

    def __init__(self) -> None:
        self._hit = asyncio.Event()
        self._before: object = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's
        try:
            loop.add_signal_handler(signal.SIGINT, self._hit.set)
        except NotImplementedError:  # Windows
            signal.signal(signal.SIGINT, lambda *_: _hit_from_signal(loop, self._hit))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        if callable(self._before) or isinstance(self._before, int):
            signal.signal(signal.SIGINT, self._before)

    async def wait(self) -> None:
        """Until ctrl-C is pressed (again)."""
        await self._hit.wait()
        self._hit.clear()


@dataclass(frozen=True, slots=True)
class Terminal:
    """All of it."""

    screen: Screen
    lines: Lines
    interrupts: Interrupts


@contextlib.contextmanager
def kept_modes(lines: Lines) -> Iterator[None]:
    """Give the terminal back as it was: a line editor that was left waiting does not."""
    try:
        termios = importlib.import_module("termios")
        modes = termios.tcgetattr(0) if lines.terminal else None
    except ImportError:
        modes = None
    try:
        yield
    finally:
        if modes is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, modes)


def _hit_from_signal(loop: asyncio.AbstractEventLoop, hit: asyncio.Event) -> None:
    loop.call_soon_threadsafe(hit.set)


def _resolve(future: "asyncio.Future[str | None]", line: str | None) -> None:
    if not future.done():
        future.set_result(line)
