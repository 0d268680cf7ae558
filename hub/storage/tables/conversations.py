"""Conversations, their messages, and the runs that answer them."""

from datetime import date, datetime

from sqlalchemy import BigInteger, Index, UniqueConstraint, text
from sqlmodel import Field

from hub.storage.tables.columns import Dated, TenantOwned, instant, now


class Conversation(TenantOwned, Dated, table=True):
    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_listing", "tenant_id", "owner_id", "id"),)

    id: str = Field(primary_key=True, max_length=32)
    owner_id: str = Field(foreign_key="users.id", max_length=32)
    title: str | None = Field(default=None, max_length=200)
    model: str | None = Field(default=None, max_length=200)
    instructions: str | None = Field(default=None)  # the system message
    turns: int = Field(default=0)  # how many messages were sent into it; the next turn's number


class Message(TenantOwned, table=True):
    """A durable message. A conversation reads in the order of (``turn``, ``step``): what a user
    sent opens a turn at step 0, what its run produced follows at 1, 2 …, even if another user
    message arrived before the answer was finished.
    """

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("conversation_id", "turn", "step"),
        UniqueConstraint("conversation_id", "client_message_id"),
    )

    id: str = Field(primary_key=True, max_length=32)
    conversation_id: str = Field(foreign_key="conversations.id", max_length=32)
    turn: int
    step: int
    role: str = Field(max_length=16)  # user, assistant, tool
    content: str
    author_id: str | None = Field(default=None, foreign_key="users.id", max_length=32)
    run_id: str | None = Field(default=None, index=True, max_length=32)
    client_message_id: str | None = Field(default=None, max_length=128)
    complete: bool = Field(default=True)  # false: cut off by a cancel or a failure
    created_at: datetime = instant(default_factory=now)


class Run(TenantOwned, Dated, table=True):
    """One answer being made. ``status`` is a state of ``hub.agents.run_state``."""

    __tablename__ = "runs"
    __table_args__ = (
        Index(
            "ux_runs_one_running",
            "conversation_id",
            unique=True,
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
        Index("ix_runs_conversation", "conversation_id", "turn"),
        Index("ix_runs_unannounced", "announced", "status"),
    )

    id: str = Field(primary_key=True, max_length=32)
    conversation_id: str = Field(foreign_key="conversations.id", max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    # The login session, or the API key, that asked for it.
    session_id: str | None = Field(default=None, max_length=32)
    message_id: str = Field(max_length=32)
    turn: int
    status: str = Field(default="queued", max_length=16)
    model: str | None = Field(default=None, max_length=200)
    attempt: int = Field(default=0)  # how many workers have begun it
    cancel_requested: bool = Field(default=False)
    announced: bool = Field(default=False)  # its terminal event is in the log
    error_code: str | None = Field(default=None, max_length=64)
    error_message: str | None = Field(default=None)
    reservation: str | None = Field(default=None)  # JSON: the lines of ``hub.limits.ledger``
    started_at: datetime | None = instant(default=None, nullable=True)
    finished_at: datetime | None = instant(default=None, nullable=True)


def _today() -> date:
    return now().date()


class Usage(TenantOwned, table=True):
    """Tokens that one generation of a run used, and what they cost in millionths of the currency.

    It outlives its run: what was used stays used when a conversation is deleted.
    """

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_by_day", "tenant_id", "day"),
        Index("ix_usage_by_user", "tenant_id", "user_id", "day"),
        Index("ix_usage_by_key", "tenant_id", "key_id", "day"),
    )

    id: str = Field(primary_key=True, max_length=32)
    run_id: str = Field(index=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    key_id: str | None = Field(default=None, max_length=32)  # the API key that asked for the run
    provider: str = Field(max_length=64)
    model: str = Field(max_length=200)
    input_tokens: int
    output_tokens: int
    cost: int = Field(default=0, sa_type=BigInteger)
    day: date = Field(default_factory=_today)  # of UTC
    created_at: datetime = instant(default_factory=now)
