"""Child: a process of a benchmark, and the lines of JSON in which it is spoken to.

What is measured, what loads it and what plays the model are processes of their own, so that the
CPU time of each is its own. A child prints one line when it is ready, answers each command with one
line, and ends when its stdin does.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
ANSWERS: Final = "BENCH_ANSWERS"
"""The environment variable that tells a child the number of its answers' file."""
END_S: Final = 30.0

Command = Callable[..., Awaitable[Any]]


class ChildFailed(Exception):
    """A child ended, or could not do what it was told; the message is what it said."""


class Child:
    """``python -m module arguments``. ``ready`` is what it said when it was. A context manager."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        passed: Sequence[int] = (),
    ) -> None:
        """``passed``: descriptors that it has, too, by the same numbers."""
        self.name: Final = module.rpartition(".")[2]
        stack = self._open = ExitStack()
        log = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115
        self._log = stack.enter_context(log)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "JWT_"))}
        paths = [str(ROOT), str(ROOT / "clients" / "python")]
        # Answers have a pipe of their own: what a child logs must not come between them.
        reading, writing = os.pipe()
        self._answers = stack.enter_context(os.fdopen(reading))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            env={
                **clean,
                "PYTHONPATH": os.pathsep.join(paths),
                ANSWERS: str(writing),
                **(environ or {}),
            },
            pass_fds=(writing, *passed),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            text=True,
        )
        os.close(writing)
        self.pid: Final = self._process.pid
        self.ready: Final = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._open.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Tell it, and wait for its answer. Raises ChildFailed."""
        self.tell(command, **arguments)
        return self.answer()

    def tell(self, command: str, **arguments: Any) -> None:
        """Tell it; the answer is to be fetched with ``answer``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to what it was told. Raises ChildFailed."""
        answer = self._line()
        if "failed" in answer:
            raise ChildFailed(f"{self.name}: {answer['failed']}")
        return answer["done"]

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """SIGTERM: a server that it runs ends in its own time; it still answers."""
        self._process.terminate()

    def cpu(self) -> float:
        """Seconds of CPU that it has used, all of its threads, user and system."""
        return process_cpu(self.pid)

    def memory(self) -> int:
        """Bytes of memory: its proportional set size (PSS). Linux only."""
        return self._rollup("Pss:")

    def private(self) -> int:
        """Bytes of memory that it has written and shares with no other process. Linux only.

        What it has only read, of the files of libraries, is its own or shared as others come and
        go that read them too.
        """
        return self._rollup("Private_Dirty:")

    def _rollup(self, name: str) -> int:
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        [size] = [line.split()[1] for line in rollup.splitlines() if line.startswith(name)]
        return int(size) * 1024

    def resident(self) -> int:
        """Bytes of its resident set (RSS), shared pages in full. Linux only."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _line(self) -> Any:
        line = self._answers.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise ChildFailed(f"{self.name} has ended:\n{self._log.read()[-4000:]}")
        return json.loads(line)


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """What is started inside runs on this one of the cores, of which there may be fewer."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def process_cpu(pid: int) -> float:
    """Seconds of CPU of a process, to the nanosecond. Linux only."""
    # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux's posix-timers.h; /proc/<pid>/stat counts
    # in hundredths of a second only.
    return time.clock_gettime((~pid << 3) | 2)


async def obey(ready: Any, commands: Mapping[str, Command]) -> None:
    """In a child: say ``ready``, then do what is told until stdin ends."""
    with os.fdopen(int(os.environ[ANSWERS]), "w") as answers:
        print(json.dumps(ready), file=answers, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, arguments = json.loads(line)
            try:
                answer = {"done": await commands[command](**arguments)}
            except Exception:
                answer = {"failed": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)
