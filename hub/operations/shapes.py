"""The objects of the wire, as results carry them. Instants are RFC 3339 in UTC."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Final, Generic, Literal, TypeVar

from pydantic import Field, SecretStr

from hub.agents.tally import Used
from hub.identity.accounts.password_policy import MAX_CHARACTERS, MIN_CHARACTERS
from hub.ids import ID_PATTERN
from hub.operations.operation import Params, Result
from hub.rbac.sharing import Access, Granted
from hub.storage import tables

Id = Annotated[str, Field(pattern=ID_PATTERN, max_length=32)]
"""An identifier: a prefix, an underscore and a ULID."""

Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Text without the null character, which PostgreSQL cannot hold."""

NewPassword = Annotated[
    SecretStr,
    Field(
        max_length=1_024,
        description=f"{MIN_CHARACTERS} to {MAX_CHARACTERS} characters, and none of those that many "
        "people use.",
        # The account's own rule says it in better words; the schema is for those who read it.
        json_schema_extra={"minLength": MIN_CHARACTERS, "maxLength": MAX_CHARACTERS},
    ),
]
"""A password to be set."""

CHANNEL_PATTERN: Final = r"^[a-z]+(:[A-Za-z0-9_]+)?$"
"""The name of a channel."""

T = TypeVar("T", bound=Result)
Item = TypeVar("Item")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

PAGE_BYTES: Final = 512 * 1024
"""A page ends before it is longer than this: half of what an outbox and a client's frame hold."""


class Page(Params):
    """Which part of a list."""

    cursor: str | None = Field(
        None, max_length=200, description="`next_cursor` of the page before; none: the first page."
    )
    limit: int = Field(
        DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Most items that a page may have."
    )


class PageById(Page):
    """Which part of a list that is in the order of its ids."""

    cursor: Id | None = Field(
        None, description="`next_cursor` of the page before; none: the first page."
    )


class Listing(Result, Generic[T]):
    """A page of a list. It may have fewer items than ``limit`` when they are long."""

    items: list[T]
    next_cursor: str | None = Field(None, description="The next page's; absent on the last one.")

    @classmethod
    def page(cls, found: Sequence[T], limit: int, cursor: Callable[[T], str]) -> "Listing[T]":
        """Of what was found, one more than ``limit`` if there are more, as much as fits."""
        fitting = fit(found[:limit], lambda item: len(item.encode()))
        items = list(found[:fitting])
        return cls(items=items, next_cursor=cursor(items[-1]) if len(found) > fitting else None)


def fit(items: Sequence[Item], size: Callable[[Item], int]) -> int:
    """How many of the first items fit into ``PAGE_BYTES``; at least one, if there is one."""
    total = 0
    for number, item in enumerate(items):
        total += size(item)
        if total > PAGE_BYTES and number:
            return number
    return len(items)


class Conversation(Result):
    """A conversation."""

    id: Id
    owner_id: Id
    title: str | None = None
    model: str | None = Field(
        None, description="The model of its runs, unless a message names one."
    )
    instructions: str | None = Field(None, description="The system message of its runs.")
    access: Literal["owner"] | Access | None = Field(
        None,
        description="What you are to it: its `owner`, or what it is shared with you as; left out "
        "for who sees it by a permission for others' conversations.",
    )
    access_expires_at: datetime | None = Field(
        None, description="When it is shared with you no longer."
    )
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(
        cls, row: tables.Conversation, user_id: str, granted: Granted | None = None
    ) -> "Conversation":
        """As this user sees it, to whom that was granted."""
        return cls(
            id=row.id,
            owner_id=row.owner_id,
            title=row.title,
            model=row.model,
            instructions=row.instructions,
            access="owner" if row.owner_id == user_id else granted and granted.access,
            access_expires_at=granted and granted.until,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class Message(Result):
    """A durable message."""

    id: Id
    conversation_id: Id
    run_id: Id | None = None
    role: Literal["user", "assistant", "tool"]
    content: str
    author_id: Id | None = Field(None, description="The user who sent it.")
    complete: bool = Field(description="False when a cancel or a failure cut it off.")
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Message) -> "Message":
        return cls.model_validate(row, from_attributes=True)


class RunFailure(Result):
    """Why a run failed; ``code`` is a reason of the fault table."""

    code: str
    message: str


class RunUsage(Result):
    """Tokens that a run used of a model."""

    provider: str
    model: str
    input_tokens: int
    output_tokens: int


class Run(Result):
    """A run."""

    id: Id
    conversation_id: Id
    message_id: Id = Field(description="The message that it answers.")
    user_id: Id
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str | None = Field(None, description="The model that was asked for.")
    attempt: int = Field(description="How many workers have begun it.")
    error: RunFailure | None = None
    usage: list[RunUsage] | None = None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def of(cls, row: tables.Run, usage: Iterable[Used] = ()) -> "Run":
        error = None
        if row.error_code is not None:
            error = RunFailure(code=row.error_code, message=row.error_message or "")
        used = [RunUsage.model_validate(item, from_attributes=True) for item in usage]
        return cls(
            id=row.id,
            conversation_id=row.conversation_id,
            message_id=row.message_id,
            user_id=row.user_id,
            status=row.status,
            model=row.model,
            attempt=row.attempt,
            error=error,
            usage=used or None,
            created_at=row.created_at,
            updated_at=row.updated_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
