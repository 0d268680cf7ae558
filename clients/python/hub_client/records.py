"""What the hub's answers hold, as frozen records. Pure.

Fields that a newer hub adds are ignored here and can be had with ``hub.call``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from hub_client.faults import Fault, fault_of

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Access = Literal["reader", "writer", "approver"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a run took from one model."""

    provider: str
    model: str
    input_tokens: int
    output_tokens: int

    @classmethod
    def parse_all(cls, items: Any) -> "tuple[Usage, ...]":
        """Of a run's usage, or of a terminal event's, whose counts AG-UI names in camel case."""
        return tuple(
            cls(
                str(item.get("provider", "")),
                str(item.get("model", "")),
                int(item.get("input_tokens") or item.get("inputTokens") or 0),
                int(item.get("output_tokens") or item.get("outputTokens") or 0),
            )
            for item in (items if isinstance(items, Sequence) else ())
            if isinstance(item, Mapping)
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation. ``complete`` is false while its run writes it, and for good if
    the run was cut short."""

    id: str
    conversation_id: str
    role: str
    content: str
    created_at: datetime
    complete: bool = True
    run_id: str | None = None
    author_id: str | None = None

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Self:
        return cls(
            id=item["id"],
            conversation_id=item["conversation_id"],
            role=item["role"],
            content=item["content"],
            created_at=datetime.fromisoformat(item["created_at"]),
            complete=item.get("complete", True),
            run_id=item.get("run_id"),
            author_id=item.get("author_id"),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as the hub's database has it."""

    id: str
    conversation_id: str
    status: RunStatus
    message_id: str | None = None
    user_id: str | None = None
    model: str | None = None
    attempt: int = 1
    error: Fault | None = None
    usage: tuple[Usage, ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def active(self) -> bool:
        return self.status in ("queued", "running")

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Self:
        error = item.get("error")
        return cls(
            id=item["id"],
            conversation_id=item["conversation_id"],
            status=item["status"],
            message_id=item.get("message_id"),
            user_id=item.get("user_id"),
            model=item.get("model"),
            attempt=item.get("attempt", 1),
            error=fault_of(str(error.get("code")), error.get("message")) if error else None,
            usage=Usage.parse_all(item.get("usage")),
            created_at=_instant(item.get("created_at")),
            started_at=_instant(item.get("started_at")),
            finished_at=_instant(item.get("finished_at")),
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model that runs can name. ``stand_in``: the small packaged one that answers, poorly, when
    there is no other."""

    name: str
    provider: str = ""
    context_length: int | None = None
    stand_in: bool = False

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Self:
        return cls(
            name=item["name"],
            provider=item.get("provider", ""),
            context_length=item.get("context_length"),
            stand_in=item.get("stand_in") is True,
        )


@dataclass(frozen=True, slots=True)
class Present:
    """A user who is present in a conversation. ``typing`` is not known to ``present()``."""

    user_id: str
    name: str | None = None
    since: datetime | None = None
    typing: bool = False

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Self:
        name = item.get("name")
        return cls(
            user_id=str(item.get("user_id", "")),
            name=name if isinstance(name, str) else None,
            since=_instant(item.get("since")),
            typing=item.get("typing") is True,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Users that things are shared with together."""

    id: str
    name: str

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Self:
        return cls(id=item["id"], name=item["name"])


@dataclass(frozen=True, slots=True)
class Share:
    """That a conversation is shared with a colleague (``user_id``), or with all who are in a group
    (``group_id``); the other is None. ``expires_at``: when that ends by itself.
    """

    user_id: str | None
    access: Access
    name: str | None = None
    granted_by: str | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    group_id: str | None = None

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Self:
        return cls(
            user_id=item.get("user_id"),
            group_id=item.get("group_id"),
            access=item["access"],
            name=item.get("name"),
            granted_by=item.get("granted_by"),
            expires_at=_instant(item.get("expires_at")),
            created_at=_instant(item.get("created_at")),
            updated_at=_instant(item.get("updated_at")),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer to ``ask``; ``str(answer)`` is its text.

    ``message_id`` is the last message's (None if the run wrote none). ``outcome`` is ``success``,
    ``cancelled`` (``text`` is what there was by then) or ``interrupt`` (it waits for approval).
    """

    text: str
    run_id: str
    message_id: str | None
    outcome: str
    usage: tuple[Usage, ...]

    def __str__(self) -> str:
        return self.text


def _instant(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
