"""The events of a conversation's channel: AG-UI 1.0, encoded once, optional fields left out.

https://docs.ag-ui.com/concepts/events. The tests hold every event against the models of the
``ag-ui-protocol`` package; the hub itself builds them without it, because no model validation may
stand between a model's token and the wire.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

Message = dict[str, Any]
"""An AG-UI message: ``{"id", "role", "content"}`` and, for what a user sent, nothing more."""


def _stamped(event: dict[str, Any]) -> bytes:
    event["timestamp"] = time.time_ns() // 1_000_000
    return orjson.dumps(event)


def run_started(conversation_id: str, run_id: str, messages: Sequence[Message]) -> bytes:
    """A run begins; ``messages`` are the new ones that it answers."""
    return _stamped(
        {
            "type": "RUN_STARTED",
            "threadId": conversation_id,
            "runId": run_id,
            "input": {"threadId": conversation_id, "runId": run_id, "messages": list(messages)},
        }
    )


def run_finished(
    conversation_id: str, run_id: str, outcome: str, usage: Sequence[dict[str, Any]]
) -> bytes:
    """A run's one terminal event; ``outcome`` is ``success`` or ``cancelled``."""
    event: dict[str, Any] = {
        "type": "RUN_FINISHED",
        "threadId": conversation_id,
        "runId": run_id,
        "outcome": {"type": outcome},
    }
    if usage:
        event["usage"] = list(usage)
    return _stamped(event)


def run_error(run_id: str, code: str, message: str, usage: Sequence[dict[str, Any]]) -> bytes:
    """A run's one terminal event when it failed; ``code`` is a reason of the fault table."""
    event: dict[str, Any] = {
        "type": "RUN_ERROR",
        "message": message,
        "code": code,
        # RUN_ERROR has no field for the run, and a reader may have missed its RUN_STARTED.
        "metadata": {"runId": run_id},
    }
    if usage:
        event["usage"] = list(usage)
    return _stamped(event)


def usage_of(provider: str, model: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Token usage as terminal events carry it."""
    return {
        "provider": provider,
        "model": model,
        "inputTokens": input_tokens,
        "outputTokens": output_tokens,
        "totalTokens": input_tokens + output_tokens,
    }


def text_start(message_id: str, role: str = "assistant") -> bytes:
    return _stamped({"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": role})


def text_content(message_id: str, delta: str) -> bytes:
    """More of a message. No timestamp: it would be half of the event."""
    return orjson.dumps({"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta})


def text_end(message_id: str) -> bytes:
    return _stamped({"type": "TEXT_MESSAGE_END", "messageId": message_id})


def reasoning_start(message_id: str) -> tuple[bytes, bytes]:
    """Visible thinking begins: the phase, and its message."""
    return (
        _stamped({"type": "REASONING_START", "messageId": message_id}),
        _stamped({"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"}),
    )


def reasoning_content(message_id: str, delta: str) -> bytes:
    return orjson.dumps(
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}
    )


def reasoning_message_end(message_id: str) -> bytes:
    return _stamped({"type": "REASONING_MESSAGE_END", "messageId": message_id})


def reasoning_phase_end(message_id: str) -> bytes:
    return _stamped({"type": "REASONING_END", "messageId": message_id})


def reasoning_end(message_id: str) -> tuple[bytes, bytes]:
    """Visible thinking ends: the message, and its phase."""
    return reasoning_message_end(message_id), reasoning_phase_end(message_id)


def step_started(name: str) -> bytes:
    return _stamped({"type": "STEP_STARTED", "stepName": name})


def step_finished(name: str) -> bytes:
    return _stamped({"type": "STEP_FINISHED", "stepName": name})


def messages_snapshot(messages: Sequence[Message]) -> dict[str, Any]:
    """All messages of a conversation, as a value (a reply carries it, or ``encode`` does)."""
    return {"type": "MESSAGES_SNAPSHOT", "messages": list(messages)}


def presence(
    kind: str, user_id: str, name: str, since_ms: int, typing: bool | None = None
) -> bytes:
    """Somebody has ``joined`` or ``left``, or is ``typing`` or not. ``name`` may be empty; who has
    joined is there since ``since_ms`` (Unix time).
    """
    value: dict[str, Any] = {"user_id": user_id}
    if name:
        value["name"] = name
    if kind == "joined":
        value["since"] = instant(since_ms)
    if kind == "typing":
        value["typing"] = bool(typing)
    return orjson.dumps({"type": "CUSTOM", "name": f"presence.{kind}", "value": value})


def instant(ms: int) -> str:
    """An instant in RFC 3339, UTC, as results of operations write it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def encode(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event)
