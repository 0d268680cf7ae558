"""Positions and events: what a channel delivers. Pure.

The payload of an event is an AG-UI 1.0 event as a dictionary; this module gives its common fields
a name and leaves the rest to the reader, so that a newer hub's events pass through unharmed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

DELTA: Final = frozenset({"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"})
"""The types whose consecutive events of one message may be joined into one."""

SNAPSHOT: Final = "MESSAGES_SNAPSHOT"

REASONING: Final = "reasoning"
"""The role of a message that is the model's visible thinking."""

_JOINED_CHARACTERS = 65_536


class Position(NamedTuple):
    """A place in a channel: after event ``seq`` of the log ``epoch``; ``seq`` 0 is its start."""

    epoch: str
    seq: int


Since = Literal["start"] | Position | tuple[str, int] | None
"""Where a subscription begins: ``None`` from now on, ``"start"`` with the oldest event that the
hub still holds, a position with the event after it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a channel.

    It stands for the ``span`` positions that end at ``seq`` (joined deltas of one message).
    ``data`` is the AG-UI event, ``type`` included. ``recovered``: the SDK made this event from
    a snapshot or the stored messages because the log no longer holds the original; its ``seq`` is
    that of the snapshot and its ``span`` is 0.
    """

    channel: str
    epoch: str
    seq: int
    span: int
    type: str
    data: Mapping[str, Any] = field(repr=False)
    recovered: bool = False

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    @property
    def delta(self) -> str:
        """The new piece of text of a delta event; empty for the others."""
        return self._text("delta")

    @property
    def message_id(self) -> str | None:
        return self.data.get("messageId")

    @property
    def run_id(self) -> str | None:
        """The run that a ``RUN_*`` event names; message events name none."""
        metadata = self.data.get("metadata")  # where RUN_ERROR has it, which AG-UI gives no field
        if "runId" not in self.data and isinstance(metadata, Mapping):
            return metadata.get("runId")
        return self.data.get("runId")

    @property
    def role(self) -> str | None:
        return self.data.get("role")

    @property
    def outcome(self) -> str | None:
        """``success``, ``cancelled`` or ``interrupt`` of a ``RUN_FINISHED``."""
        outcome = self.data.get("outcome")
        return outcome.get("type") if isinstance(outcome, Mapping) else None

    @property
    def code(self) -> str | None:
        """The fault's reason of a ``RUN_ERROR``."""
        return self.data.get("code")

    @property
    def message(self) -> str:
        """The message of a ``RUN_ERROR``."""
        return self._text("message")

    @property
    def terminal(self) -> bool:
        """Whether a run ends with it."""
        return self.type in ("RUN_FINISHED", "RUN_ERROR")

    def _text(self, key: str) -> str:
        value = self.data.get(key)
        return value if isinstance(value, str) else ""


def join(first: Event, second: Event) -> Event | None:
    """``first`` and the ``second`` right after it as one event; None if that cannot be.

    The text is the same; ``span`` says how many positions it stands for (PROTOCOL section 4).
    """
    if (
        first.type not in DELTA
        or first.type != second.type
        or first.recovered
        or second.recovered
        or (first.channel, first.epoch) != (second.channel, second.epoch)
        or first.seq != second.seq - second.span
        or _without_delta(first) != _without_delta(second)
        or len(first.delta) + len(second.delta) > _JOINED_CHARACTERS
    ):
        return None
    return replace(
        second,
        span=first.span + second.span,
        data={**second.data, "delta": first.delta + second.delta},
    )


def _without_delta(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.data.items() if key not in ("delta", "timestamp")}
