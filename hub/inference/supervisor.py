"""The embedded model server as a child process: started, watched, started again, ended."""

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from hub.faults import Fault
from hub.inference.local.extra import missing

READY_S: Final = 60.0
"""Seconds that a model may take to load."""

STEADY_S: Final = 60.0
"""A child that served this long has not failed to start: the next wait is short again."""

FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 30.0
END_S: Final = 5.0

_OURS = ("HUB_", "JWT_", "OLLAMA_")
"""The child needs none of the hub's settings, and shall not have its secrets."""

State = Literal["starting", "ready", "failed", "absent"]

_log = structlog.get_logger(__name__)


class LocalModel:
    """One embedded model server. ``gguf`` is the model file, None the packaged stand-in.

    ``state`` is ``absent`` when it cannot run or was closed, ``failed`` when it did not start and
    will be tried again; ``reason`` says why, in a sentence for an operator. ``host`` is its URL,
    new after each start, and None unless ready.
    """

    def __init__(self, *, gguf: Path | None = None, command: Sequence[str] | None = None) -> None:
        self.state: State = "absent"
        self.reason = "The embedded model was not started."
        self.host: str | None = None
        self.pid: int | None = None
        self._gguf = gguf
        self._given = command
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it in the background; without the extra, it stays ``absent`` with the reason."""
        if self._task is not None:
            return
        lacking = missing(self._gguf) if self._given is None else None
        if lacking is not None:
            self.reason = lacking
        else:
            self.state, self.reason = "starting", "The embedded model is loading."
            self._task = asyncio.create_task(self._supervise(), name="local model")

    async def ready(self, within_s: float) -> str:
        """Its URL, as soon as it serves. Raises Fault("model_unavailable") if it cannot, or not
        within ``within_s`` seconds.
        """
        try:
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: self.state != "starting")
        except TimeoutError:
            pass
        if self.host is None:
            raise Fault("model_unavailable", "The embedded model is not ready yet. Retry soon.")
        return self.host

    async def close(self) -> None:
        """End the child and wait until it is gone. Idempotent; whoever waits may be cancelled, and
        another wait for the same.
        """
        task = self._task
        if task is None:
            return
        if not task.cancelling():  # a second time it would not wait for its child
            task.cancel()
        await asyncio.wait({task})
        if self._task is task:
            self._task = None
            await self._enter("absent", "The embedded model was stopped.")

    async def _supervise(self) -> None:
        wait, loop = FIRST_WAIT_S, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                served, reason = await self._live_once()
            except Exception:  # or nobody would ever start it again, and nobody know
                _log.exception("local_model_not_supervised")
                served, reason = False, "The embedded model failed in the hub; its log says why."
            # What was serving a moment ago will most likely serve again: worth waiting for.
            await self._enter("starting" if served else "failed", reason)
            if loop.time() - began > STEADY_S:
                wait = FIRST_WAIT_S
            _log.warning("local_model_ended", reason=reason, again_in_s=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_S)
            await self._enter("starting", "The embedded model is loading again.")

    async def _live_once(self) -> tuple[bool, str]:
        """Start the child and wait for its end. Whether it ever served, and why it ended."""
        try:
            child = await asyncio.create_subprocess_exec(
                *(self._given or _usual_command(self._gguf)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={k: v for k, v in os.environ.items() if not k.startswith(_OURS)},
                # A ctrl-C at the terminal is for the hub, which ends its runs before its model.
                start_new_session=True,
            )
        except OSError as error:
            return False, f"The embedded model cannot be started: {error.strerror}."
        assert child.stdout is not None
        assert child.stderr is not None
        said: deque[str] = deque(maxlen=1)
        heard = asyncio.create_task(_hear(child.stderr, said))
        self.pid = child.pid
        try:
            reason = await self._announced(child.stdout)
            served = reason is None
            if served:
                await _hear(child.stdout, said)
            await _end(child)
            await heard
            usual = f"The embedded model ended with status {child.returncode}."
            return served, said[-1] if said else reason or usual
        finally:
            self.pid = None
            await _end(child)
            heard.cancel()

    async def _announced(self, stdout: asyncio.StreamReader) -> str | None:
        """Wait until it serves; the reason if it does not."""
        try:
            async with asyncio.timeout(READY_S):
                line = await stdout.readline()
            said: dict[str, Any] = json.loads(line)
            host = f"http://127.0.0.1:{said['port']}"
        except TimeoutError:
            return f"The embedded model did not load within {READY_S:g} s."
        except (ValueError, KeyError, TypeError):
            return "The embedded model ended before it served."
        await self._enter("ready", "", host)
        _log.info("local_model_ready", model=said.get("model"), host=host)
        return None

    async def _enter(self, state: State, reason: str, host: str | None = None) -> None:
        async with self._changed:
            self.state, self.reason, self.host = state, reason, host
            self._changed.notify_all()


def _usual_command(gguf: Path | None) -> list[str]:
    command = [sys.executable, "-m", "hub.inference.local", "--port", "0", "--exit-on-eof"]
    return command if gguf is None else [*command, "--gguf", str(gguf)]


async def _hear(stream: asyncio.StreamReader, said: deque[str]) -> None:
    """Log what it says until it ends, so that it never waits for a reader."""
    while chunk := await stream.read(65536):
        for line in chunk.decode(errors="replace").splitlines():
            if line.strip():
                said.append(line.strip())
                _log.debug("local_model_said", line=line)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ask it to end by closing its stdin, and insist if it does not."""
    if child.returncode is not None:
        return
    assert child.stdin is not None
    child.stdin.close()
    try:
        await asyncio.wait_for(child.wait(), END_S)
    except TimeoutError:
        child.kill()
        await child.wait()
