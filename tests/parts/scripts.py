"""The scripts that the scripted model follows, and what it records of each request."""

import asyncio
import json
import re
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

DIRECTIVE: Final = "#script "
"""A last user message that begins so, with JSON of ``Script``'s fields after it, is the script."""


@dataclass(frozen=True, slots=True)
class Script:
    """What to answer. ``end``: ``stop`` and ``length`` are whole answers; ``eof`` ends the body
    without ``done``, ``die`` drops the connection, ``error`` sends an error line, ``stall`` and
    ``silent`` hang until the client leaves. ``status`` other than 200 answers with that error.
    """

    tokens: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    first_ms: float = 0.0
    delay_ms: float = 0.0
    together: int = 1
    """How many tokens go out in one write, when the last of them is due."""
    end: str = "stop"
    status: int = 200
    context: int = 8192
    echo: bool = False
    count: bool = False
    embeds: bool = False
    """An embedding model, which does not chat."""


MODELS: dict[str, Script] = {
    "echo": Script(echo=True),
    "small": Script(echo=True, context=128),
    "count": Script(count=True),
    "long": Script(tokens=("at length " * 500,) * 80, delay_ms=1),
    "slow": Script(tokens=tuple(f"{n} " for n in range(2000)), delay_ms=50),
    "thinking": Script(thinking=("Let me", " see."), tokens=("The", " answer")),
    "silent": Script(end="silent"),
    "stall": Script(tokens=("one ", "two ", "three "), end="stall"),
    "eof": Script(tokens=("one ", "two ", "three "), end="eof"),
    "die-mid": Script(tokens=("one ", "two ", "three "), end="die", delay_ms=5),
    "error-mid": Script(tokens=("one ", "two ", "three "), end="error"),
    "error-500": Script(status=500),
    "bench": Script(tokens=tuple(f" token{n}" for n in range(40)), first_ms=50, delay_ms=20),
}


@dataclass(slots=True)
class Recorded:
    """One request as the server saw it. Times are ``time.monotonic()`` seconds."""

    path: str
    body: dict[str, Any]
    received_at: float
    sent: int = 0
    """Tokens written so far."""
    ended_at: float | None = None
    disconnected: bool = False
    """Whether the client left before the answer's end."""
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages") or [])

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.body.get("options") or {})

    @property
    def prompt(self) -> str:
        """The last user message."""
        asked = [m["content"] for m in self.messages if m.get("role") == "user"]
        return str(asked[-1]) if asked else ""

    def script(self, script: Script) -> Script:
        """What to answer to this request by a model with ``script``."""
        prompt = self.prompt
        if prompt.startswith(DIRECTIVE):
            given = json.loads(prompt[len(DIRECTIVE) :].splitlines()[0])
            lists = {k: tuple(given[k]) for k in ("tokens", "thinking") if k in given}
            return replace(Script(), **{**given, **lists})
        if script.echo:
            return replace(script, tokens=tuple(re.findall(r"\S+\s*", prompt)))
        if script.count:
            numbers = re.findall(r"\d+", prompt)
            last = int(numbers[-1]) if numbers else 10
            return replace(script, tokens=tuple(f"{n} " for n in range(1, last + 1)))
        return script

    async def end(self, within: float = 5.0) -> "Recorded":
        """Wait until the answer has ended, one way or the other. Raises TimeoutError."""
        if not await asyncio.to_thread(self._ended.wait, within):
            raise TimeoutError(f"the scripted answer to {self.prompt!r} goes on after {within} s")
        return self

    def finish(self, *, disconnected: bool) -> None:
        self.disconnected = disconnected
        self.ended_at = time.monotonic()
        self._ended.set()
