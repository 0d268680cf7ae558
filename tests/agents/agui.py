"""AG-UI's rules as a judge: the models of ``ag-ui-protocol``, and the order of a stream.

The order is that of AG-UI's own verifier (``verifyEvents`` of its TypeScript client): a stream
begins with RUN_STARTED; what is started is continued and ended, once, by its id; a run that ends
has nothing open; after its end the next event is another RUN_STARTED.
"""

import json
from collections.abc import Iterable
from typing import Any

from ag_ui.core import Event as AnyEvent
from pydantic import TypeAdapter

EVENTS: TypeAdapter[Any] = TypeAdapter(AnyEvent)


def accept(event: dict[str, Any] | bytes) -> dict[str, Any]:
    """The event, if the models accept it, know all its fields, and none is null.

    Raises pydantic's ValidationError or AssertionError.
    """
    value: dict[str, Any] = json.loads(event) if isinstance(event, bytes) else event
    model = EVENTS.validate_json(json.dumps(value))
    assert model.model_dump(mode="json", by_alias=True, exclude_none=True) == value
    assert "null" not in json.dumps(_without_text(value))
    return value


def _without_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_text(item) for item in value]
    return "" if isinstance(value, str) else value


class Order:
    """Where a stream stands. ``feed`` raises AssertionError for an event that may not come now."""

    def __init__(self) -> None:
        self.run: str | None = None
        self.texts: set[str] = set()
        self.phases: set[str] = set()
        self.thoughts: set[str] = set()
        self.steps: set[str] = set()
        self.used: set[str] = set()

    @property
    def open(self) -> set[str]:
        return self.texts | self.phases | self.thoughts | self.steps

    def feed(self, event: dict[str, Any]) -> None:  # noqa: PLR0912 - a table of rules
        kind, identifier = event["type"], event.get("messageId", "")
        if kind == "RUN_STARTED":
            assert self.run is None, f"{event['runId']} starts within {self.run}"
            self.run = event["runId"]
            return
        assert self.run is not None, f"{kind} outside a run"
        match kind:
            case "RUN_FINISHED":
                assert event["runId"] == self.run
                assert not self.open, f"{self.open} are open at the end"
                self.run = None
            case "RUN_ERROR":
                assert not self.open, f"{self.open} are open at the end"
                self.run = None
            case "TEXT_MESSAGE_START":
                assert identifier not in self.used, f"{identifier} starts twice"
                self.used.add(identifier)
                self.texts.add(identifier)
            case "TEXT_MESSAGE_CONTENT":
                assert identifier in self.texts, f"content of {identifier}, which is not open"
            case "TEXT_MESSAGE_END":
                self.texts.remove(identifier)
            case "REASONING_START":
                assert identifier not in self.phases
                self.phases.add(identifier)
            case "REASONING_MESSAGE_START":
                assert identifier not in self.thoughts
                self.thoughts.add(identifier)
            case "REASONING_MESSAGE_CONTENT":
                assert identifier in self.thoughts
            case "REASONING_MESSAGE_END":
                self.thoughts.remove(identifier)
            case "REASONING_END":
                assert identifier not in self.thoughts
                self.phases.remove(identifier)
            case "STEP_STARTED":
                assert event["stepName"] not in self.steps
                self.steps.add(event["stepName"])
            case "STEP_FINISHED":
                self.steps.remove(event["stepName"])
            case "MESSAGES_SNAPSHOT":
                pass  # at any time within a run
            case _:
                raise AssertionError(f"{kind} is not of the hub's vocabulary")


def judge(events: Iterable[dict[str, Any]]) -> None:
    """Hold a whole stream against the models and the order; every run in it has ended."""
    order = Order()
    for event in events:
        order.feed(accept(event))
    assert order.run is None, f"{order.run} has no end"


class Reading:
    """The messages as a client has them that applies what it is told: text by message id."""

    def __init__(self, snapshot: dict[str, Any] | None = None) -> None:
        self.texts: dict[str, str] = {}
        self.roles: dict[str, str] = {}
        if snapshot is not None:
            self.feed(snapshot)

    def feed(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "MESSAGES_SNAPSHOT":
            self.texts, self.roles = {}, {}
            self._take(event["messages"])
        elif kind == "RUN_STARTED":
            self._take(event["input"]["messages"])
        elif kind == "TEXT_MESSAGE_START":
            self._take([{"id": event["messageId"], "role": event["role"], "content": ""}])
        elif kind == "REASONING_MESSAGE_START":
            self._take([{"id": event["messageId"], "role": "reasoning", "content": ""}])
        elif kind in ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"):
            self.texts[event["messageId"]] += event["delta"]
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            for thought in [id for id, role in self.roles.items() if role == "reasoning"]:
                del self.texts[thought], self.roles[thought]

    def _take(self, messages: Iterable[dict[str, Any]]) -> None:
        for message in messages:
            self.texts[message["id"]] = message["content"]
            self.roles[message["id"]] = message["role"]


def told_alike(heard: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A channel's events as one reader got them, alike for all of them: deltas that follow each
    other in a message are one, however few of them each reader got.
    """
    told: list[dict[str, Any]] = []
    for params in heard:
        event, last = params["event"], told[-1] if told else None
        if (
            last is not None
            and "delta" in event
            and {**event, "delta": ""} == {**last["event"], "delta": ""}
            and params["epoch"] == last["epoch"]
            and params["seq"] - params.get("span", 1) == last["seq"]
        ):
            whole = {**event, "delta": last["event"]["delta"] + event["delta"]}
            span = last["span"] + params.get("span", 1)
            told[-1] = {**params, "span": span, "event": whole}
        else:
            told.append({**params, "span": params.get("span", 1)})
    return told
