"""What a channel's log amounts to, pure: the run in progress and the messages it has open.

Used where the log has to be understood rather than passed on: to take a snapshot at a position, and
to go on with a run whose worker was lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

_TERMINAL = frozenset({"RUN_FINISHED", "RUN_ERROR"})


@dataclass
class OpenMessage:
    """A message as far as the log tells it. ``closed``: its END was seen."""

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

    ``run_id`` is the run in progress, None between runs. ``messages`` are its text messages and
    ``reasoning`` its reasoning messages, ``steps`` the names of its open steps. ``thought`` is how
    many characters of reasoning its latest answer has, as far as it is told since the run was last
    steered or its state was said again. ``ended`` are the runs whose terminal event was seen.
    """

    run_id: str | None = None
    messages: dict[str, OpenMessage] = field(default_factory=dict)
    reasoning: dict[str, OpenMessage] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    thought: int = 0
    ended: set[str] = field(default_factory=set)

    def begin(self, run_id: str | None) -> None:
        self.run_id = run_id
        self.messages, self.reasoning, self.steps = {}, {}, []
        self.thought = 0


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
        role = event.get("role", "assistant")
        progress.messages[identifier] = OpenMessage(identifier, role)
        if role == "user":  # it steers the run to another answer
            progress.thought = 0
    elif kind == "REASONING_MESSAGE_START":
        identifier = event["messageId"]
        progress.reasoning[identifier] = OpenMessage(identifier, "reasoning")
    elif kind in ("TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"):
        _extend(progress.messages, event)
    elif kind in ("REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END"):
        _extend(progress.reasoning, event)
        progress.thought += len(event.get("delta", ""))
    elif kind == "STEP_STARTED":
        progress.steps.append(event["stepName"])
    elif kind == "STEP_FINISHED":
        if event["stepName"] in progress.steps:
            progress.steps.remove(event["stepName"])
    elif kind == "MESSAGES_SNAPSHOT":
        _restate(progress, event)


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
    progress.messages = {}
    still_open = facts.get("open", ())
    if not still_open:
        progress.thought = 0
    for message in event["messages"]:
        identifier = message["id"]
        closed = identifier not in still_open
        if not closed or identifier in facts.get("said", ()):
            progress.messages[identifier] = OpenMessage(
                identifier, message["role"], [message["content"]], closed
            )
