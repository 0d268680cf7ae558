"""What the bytes of a streamed answer of Ollama's protocol say: pure, and joined.

The ollama package lays half a dozen generators and a validated model around each token's line: a
third of the hub's processor time when a hundred answers stream. So these lines, of all that a model
server says, are read here; the package does the rest. What one read brought is one delta, however
many tokens it holds.

https://docs.ollama.com/api/streaming: a line is a JSON object that ends with a line feed.
"""

import json
from typing import Any, Final

import msgspec
import ollama

from hub.inference.interface import ChatDone, ChatPart, ReasoningDelta, TextDelta

LONGEST_LINE: Final = 4 * 1024 * 1024
"""Bytes of a line; a server that goes on without an end is not listened to for ever."""


class NotOllama(Exception):
    """What the server says is no answer of Ollama's protocol."""


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None


class _Line(msgspec.Struct):
    message: _Message | None = None
    error: Any = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None


_decode = msgspec.json.Decoder(_Line).decode


class Answer:
    """An answer as far as it was fed. After ``done`` nothing more is understood."""

    def __init__(self) -> None:
        self.done = False
        """Whether the server has said that the answer is whole."""
        self.failure: NotOllama | ollama.ResponseError | None = None
        """Why it goes on no further, if it failed: the server said so, or talks nonsense."""
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[ChatPart]:
        """The parts that ``data`` completes; look at ``failure`` when they are used.

        Consecutive deltas of a kind are one. Text is as the server sent it, but that what is no
        text (half a surrogate pair, bytes that are not UTF-8) becomes U+FFFD.
        """
        first, *lines = data.split(b"\n")
        if not lines:
            self._hold(first)
            return []
        if self._held:
            first = b"".join((*self._held, first))
            self._held.clear()
            self._held_bytes = 0
        rest = lines.pop()
        if rest:
            self._hold(rest)
        return self._parts([first, *lines])

    def end(self) -> list[ChatPart]:
        """The parts of a last line that did not end."""
        last = b"".join(self._held)
        self._held.clear()
        return self._parts([last])

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > LONGEST_LINE:
            self.failure = NotOllama(f"a line is longer than {LONGEST_LINE} bytes")

    def _parts(self, lines: list[bytes]) -> list[ChatPart]:
        parts: list[ChatPart] = []
        for data in lines:
            if self.done or self.failure is not None:
                break
            if not data.strip():
                continue
            try:
                line = _read(data)
            except NotOllama as failure:
                self.failure = failure
                break
            if line.error:
                self.failure = ollama.ResponseError(str(line.error))
                break
            if line.message is None:
                self.failure = NotOllama("a line has no message")
                break
            if line.message.thinking:
                parts.append(ReasoningDelta(line.message.thinking))
            if line.message.content:
                parts.append(TextDelta(line.message.content))
            if line.done:
                self.done = True
                parts.append(
                    ChatDone(
                        "length" if line.done_reason == "length" else "stop",
                        line.prompt_eval_count or 0,
                        line.eval_count or 0,
                    )
                )
        return parts if len(parts) < 2 else _joined(parts)


def _joined(parts: list[ChatPart]) -> list[ChatPart]:
    joined: list[ChatPart] = []
    said: list[str] = []
    kind: type[TextDelta | ReasoningDelta] | None = None
    for part in parts:
        if kind is not None and type(part) is not kind:
            joined.append(kind("".join(said)))
            said, kind = [], None
        if isinstance(part, ChatDone):
            joined.append(part)
        else:
            kind = type(part)
            said.append(part.text)
    if kind is not None:
        joined.append(kind("".join(said)))
    return joined


def _read(data: bytes) -> _Line:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _mended(data)


def _mended(data: bytes) -> _Line:
    """A line that a strict reader refuses: because of what is no text in it, or altogether."""
    try:
        line = msgspec.convert(json.loads(data.decode(errors="replace")), _Line)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise NotOllama(f"a line is not of the protocol: {error}") from error
    if isinstance(line.error, str):
        line.error = _as_text(line.error)
    if line.message is not None:
        line.message.content = _as_text(line.message.content or "")
        line.message.thinking = _as_text(line.message.thinking or "")
    return line


def _as_text(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
