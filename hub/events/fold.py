"""What a channel's log amounts to, pure: the run in progress and the messages it has open.

Used where the log has to be understood rather than passed on: to take a snapshot at a position, and
to go on with a run whose worker was lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

REASONING: Final = "reasoning"
"""The role of a message that is the model's visible thinking."""

_TERMINAL = frozenset({"RUN_FINISHED", "RUN_ERROR"})
_MORE = frozenset(
    {"TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"}
    | {"REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END"}
)
_BRACKETS = frozenset({"STEP_STARTED", "STEP_FINISHED", "REASONING_START", "REASONING_END"})


@dataclass
class OpenMessage:
    """A message as far as it is told. ``closed``: its END was seen."""

    id: str
    role: str
    parts: list[str] = field(default_factory=list)
    closed: bool = False

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass
class Progress:
    """Where a conversation's channel stands.

    ``run_id`` is the run in progress, None between runs. ``messages`` are what it has said and
    thought, by id and in order, ``phases`` the ids of its open phases of reasoning, ``steps`` the
    names of its open steps. ``ended`` are the runs whose terminal event was seen.
    """

    run_id: str | None = None
    messages: dict[str, OpenMessage] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)

    @property
    def latest(self) -> list[OpenMessage]:
        """What the run has said and thought since it was last steered, in order."""
        messages = list(self.messages.values())
        steered = [at for at, message in enumerate(messages) if message.role == "user"]
        return messages[steered[-1] + 1 :] if steered else messages

    def begin(self, run_id: str | None) -> None:
        self.run_id = run_id
        self.messages, self.phases, self.steps = {}, [], []


def fold(events: Iterable[bytes], progress: Progress | None = None) -> Progress:
    """``progress`` (default: nothing known) after ``events``, the log's entries in order."""
    progress = progress or Progress()
    for data in events:
        _apply(progress, orjson.loads(data))
    return progress


def _apply(progress: Progress, event: dict[str, Any]) -> None:
    kind = event["type"]
    if kind == "RUN_STARTED":
        progress.begin(event["runId"])
    elif kind in _TERMINAL:
        # RUN_ERROR has no field for its run; where the log was trimmed, only the event knows it.
        ended = event.get("runId") or event.get("metadata", {}).get("runId") or progress.run_id
        if ended is not None:
            progress.ended.add(ended)
        progress.begin(None)
    elif kind == "TEXT_MESSAGE_START":
        identifier = event["messageId"]
        progress.messages[identifier] = OpenMessage(identifier, event.get("role", "assistant"))
    elif kind == "REASONING_MESSAGE_START":
        identifier = event["messageId"]
        progress.messages[identifier] = OpenMessage(identifier, REASONING)
    elif kind in _MORE:
        _extend(progress.messages, event)
    elif kind in _BRACKETS:
        _open_or_close(progress, kind, event)
    elif kind == "MESSAGES_SNAPSHOT":
        _restate(progress, event)


def _open_or_close(progress: Progress, kind: str, event: dict[str, Any]) -> None:
    steps = kind.startswith("STEP_")
    name, still_open = event["stepName" if steps else "messageId"], progress.phases
    if steps:
        still_open = progress.steps
    if kind.endswith(("STARTED", "START")):
        still_open.append(name)
    elif name in still_open:
        still_open.remove(name)


def _extend(messages: dict[str, OpenMessage], event: dict[str, Any]) -> None:
    message = messages.get(event["messageId"])
    if message is None:
        return
    if "delta" in event:
        message.parts.append(event["delta"])
    else:
        message.closed = True


def _restate(progress: Progress, event: dict[str, Any]) -> None:
    """A snapshot in the log says again all there is; ``metadata`` names the run in progress, the
    messages that it has said and the one that it has open, so that the log can be understood from
    here on alone.
    """
    facts = event.get("metadata", {})
    if "runId" not in facts:
        return
    progress.run_id = facts["runId"]
    progress.messages, progress.phases = {}, []
    still_open = facts.get("open", ())
    for message in event["messages"]:
        identifier, role = message["id"], message["role"]
        closed = identifier not in still_open
        if not closed or identifier in facts.get("said", ()):
            progress.messages[identifier] = OpenMessage(
                identifier, role, [message["content"]], closed
            )
            if role == REASONING and not closed:
                progress.phases.append(identifier)
