"""Following one run through its conversation's events. Pure.

One run at a time is active in a conversation, and message events do not name their run: what
comes between a run's ``RUN_STARTED`` and its end belongs to it. When events are lost for good, the
snapshot or the stored messages give the rest of the text, as deltas of our own (``recovered``).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hub_client.events import REASONING, SNAPSHOT, Event
from hub_client.faults import Fault, fault_of
from hub_client.records import Message, Run, Usage


class RunFollower:
    """What has been seen of one run.

    ``texts`` holds the text of each of its messages by id, in order, ``thoughts`` that of each of
    its reasoning messages; ``finished`` is set with its last event; ``error`` is what a failed run
    raises.
    """

    def __init__(self, run_id: str, message_id: str | None, *, inside: bool = False) -> None:
        self.run_id = run_id
        self.message_id = message_id
        self.texts: dict[str, str] = {}
        self.thoughts: dict[str, str] = {}
        self.finished = False
        self.outcome = ""
        self.error: Fault | None = None
        self.usage: tuple[Usage, ...] = ()
        self._inside = inside
        self._started = inside
        self._open: set[str] = set()

    def feed(self, event: Event) -> list[Event]:
        """What to yield for the conversation's next event (not for a recovered snapshot)."""
        if self.finished:
            return []
        if event.type == "RUN_STARTED":
            self._inside = event.run_id == self.run_id
            self._started |= self._inside
        if event.terminal:
            ours = self._inside if event.run_id is None else event.run_id == self.run_id
            if not ours:
                self._inside = False
                return []
            ends = self._end_messages(event)
            self._finish(event)
            return [*ends, event]
        if not self._inside:
            return []
        if event.type == SNAPSHOT:
            self._void(event.data.get("messages"))
        if event.type == "REASONING_END" and event.message_id in self._open:
            self._open.discard(event.message_id)  # its message's own end was lost
            return [_made(event, {**event.data, "type": "REASONING_MESSAGE_END"}), event]
        self._note(event)
        return [event]

    def patch(self, snapshot: Event) -> list[Event]:
        """The run goes on after ``snapshot``: the events that bring its text up to date."""
        self._void(snapshot.data.get("messages"))
        ours = list(self._ours(snapshot.data.get("messages")))
        events = self._begin(snapshot) if ours or self._started else []
        self._inside = bool(events) or self._inside
        for number, (id, role, text) in enumerate(ours):
            events += self._catch_up(snapshot, id, text, role)
            if number < len(ours) - 1:
                events += self._end_message(snapshot, id)
        return events

    def settle(self, at: Event, run: Run, messages: Iterable[Message]) -> list[Event]:
        """The run ended as ``run`` and ``messages`` say: all events that are still missing.

        ``at`` gives the channel and the position of the events.
        """
        if self.finished:
            return []
        events = self._begin(at)
        for message in messages:
            if message.run_id == self.run_id and message.role == "assistant":
                events += self._catch_up(at, message.id, message.content)
        last: dict[str, Any]
        if run.status == "failed":
            error = run.error or fault_of("internal_error", "The run failed.")
            last = {"type": "RUN_ERROR", "message": error.message, "code": error.reason}
        else:
            outcome = "cancelled" if run.status == "cancelled" else "success"
            last = {"type": "RUN_FINISHED", "outcome": {"type": outcome}}
        last |= {"threadId": run.conversation_id, "runId": run.id}
        terminal = _made(at, last)
        events += self._end_messages(at)
        self._finish(terminal)
        self.usage = run.usage
        return [*events, terminal]

    def _note(self, event: Event) -> None:
        id = event.message_id
        kind, _, what = event.type.partition("_MESSAGE_")
        if id is None or not what or kind not in ("TEXT", "REASONING"):
            return
        if what == "END":
            self._open.discard(id)
        else:
            known = self.texts if kind == "TEXT" else self.thoughts
            known[id] = known.get(id, "") + event.delta
            self._open.add(id)

    def _void(self, messages: Any) -> None:
        """Forget what is not in a snapshot: the partial answer of a worker that was lost."""
        listed = messages if isinstance(messages, list) else ()
        said = {item.get("id") for item in listed if isinstance(item, Mapping)}
        for known in (self.texts, self.thoughts):
            for id in [id for id in known if id not in said]:
                del known[id]
                self._open.discard(id)

    def _finish(self, event: Event) -> None:
        self.finished = True
        self.outcome = event.outcome or ("error" if event.type == "RUN_ERROR" else "success")
        self.usage = Usage.parse_all(event.data.get("usage"))
        if event.type == "RUN_ERROR":
            self.error = fault_of(event.code or "internal_error", event.message or None)

    def _ours(self, messages: Any) -> Iterable[tuple[str, str, str]]:
        """The run's messages of a snapshot, id, role and text: those after its user's, up to the
        next user's.
        """
        after = False
        for item in messages if isinstance(messages, list) else ():
            if not isinstance(item, Mapping):
                continue
            id, text = item.get("id"), item.get("content")
            role = item.get("role")
            if role == "user":
                after = id == self.message_id
            elif role in ("assistant", REASONING) and (
                after or id in self.texts or id in self.thoughts
            ):
                yield str(id), role, text if isinstance(text, str) else ""

    def _begin(self, at: Event) -> list[Event]:
        if self._started:
            return []
        self._started = True
        conversation = at.channel.partition(":")[2]
        return [_made(at, {"type": "RUN_STARTED", "threadId": conversation, "runId": self.run_id})]

    def _catch_up(self, at: Event, id: str, text: str, role: str = "assistant") -> list[Event]:
        thought = role == REASONING
        texts, kind = (self.thoughts, REASONING.upper()) if thought else (self.texts, "TEXT")
        known = texts.get(id)
        events = []
        if known is None:
            known = ""
            if thought:
                events.append(_made(at, {"type": "REASONING_START", "messageId": id}))
            start = {"type": f"{kind}_MESSAGE_START", "messageId": id, "role": role}
            events.append(_made(at, start))
            self._open.add(id)
        texts[id] = text
        if text.startswith(known):
            if rest := text[len(known) :]:
                delta = {"type": f"{kind}_MESSAGE_CONTENT", "messageId": id, "delta": rest}
                events.append(_made(at, delta))
        else:  # what was shown is not how it is: give the message anew
            message = {"id": id, "role": role, "content": text}
            events.append(_made(at, {"type": SNAPSHOT, "messages": [message]}))
        return events

    def _end_messages(self, at: Event) -> list[Event]:
        ids = (*self.thoughts, *self.texts)
        return [event for id in ids for event in self._end_message(at, id)]

    def _end_message(self, at: Event, id: str) -> list[Event]:
        if id not in self._open:
            return []
        self._open.discard(id)
        if id in self.texts:
            return [_made(at, {"type": "TEXT_MESSAGE_END", "messageId": id})]
        ends = ("REASONING_MESSAGE_END", "REASONING_END")
        return [_made(at, {"type": end, "messageId": id}) for end in ends]


def _made(at: Event, data: Mapping[str, Any]) -> Event:
    return Event(at.channel, at.epoch, at.seq, 0, data["type"], data, recovered=True)
