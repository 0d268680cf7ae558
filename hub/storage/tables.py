"""The tables. Every row that belongs to a tenant says so (``TenantOwned``).

Instants are aware UTC datetimes. Identifiers are ``<prefix>_<ULID>`` (see ``hub.ids``). Secrets
are stored as hashes only.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Index, UniqueConstraint, text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime on every database (SQLite drops the zone and needs it put back)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime; use datetime.now(UTC)")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        aware: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC)


def now() -> datetime:
    """This instant, aware, in UTC."""
    return datetime.now(UTC)


def instant(**options: Any) -> Any:
    """A column of type ``Instant``."""
    return Field(sa_type=Instant, **options)


class Dated(SQLModel):
    """A row that knows when it came and when it last changed."""

    created_at: datetime = instant(default_factory=now)
    updated_at: datetime = instant(default_factory=now, sa_column_kwargs={"onupdate": now})


class TenantOwned(SQLModel):
    """A row of one tenant; the session's tenant scope applies to it (``hub.storage.database``)."""

    tenant_id: str = Field(foreign_key="tenants.id", index=True, max_length=32)


# --- identity -------------------------------------------------------------------------------------


class Tenant(Dated, table=True):
    __tablename__ = "tenants"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=200)
    suspended_at: datetime | None = instant(default=None, nullable=True)


class User(Dated, table=True):
    """A person or a service. Not tenant-owned: one may be a member of several tenants."""

    __tablename__ = "users"

    id: str = Field(primary_key=True, max_length=32)
    email: str = Field(unique=True, max_length=320)  # lower case
    name: str | None = Field(default=None, max_length=200)
    password_hash: str | None = Field(default=None, max_length=200)
    disabled_at: datetime | None = instant(default=None, nullable=True)


class Role(Dated, table=True):
    """A named set of permissions. ``tenant_id`` is null for the built-in roles, which all share."""

    __tablename__ = "roles"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: str = Field(primary_key=True, max_length=64)
    tenant_id: str | None = Field(default=None, foreign_key="tenants.id", index=True, max_length=32)
    name: str = Field(max_length=64)
    rank: int
    inherits: str | None = Field(default=None, foreign_key="roles.id", max_length=64)


class RolePermission(SQLModel, table=True):
    """A permission that a role has of itself; the inherited ones are added when it is compiled."""

    __tablename__ = "role_permissions"

    role_id: str = Field(primary_key=True, foreign_key="roles.id", max_length=64)
    permission: str = Field(primary_key=True, max_length=120)


class Membership(TenantOwned, Dated, table=True):
    """That a user belongs to a tenant, and as what. A user may hold several roles there."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("tenant_id", "user_id", "role_id"),)

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    role_id: str = Field(foreign_key="roles.id", max_length=64)


class LoginSession(TenantOwned, Dated, table=True):
    """One sign-in: the family of refresh tokens that descend from it, and the sockets it opened."""

    __tablename__ = "login_sessions"

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    device: str | None = Field(default=None, max_length=400)
    address: str | None = Field(default=None, max_length=64)
    last_seen_at: datetime = instant(default_factory=now)
    expires_at: datetime = instant()
    revoked_at: datetime | None = instant(default=None, nullable=True)


class RefreshToken(TenantOwned, table=True):
    """A single-use refresh token, stored as its SHA-256; used ones stay to detect reuse."""

    __tablename__ = "refresh_tokens"

    token_hash: str = Field(primary_key=True, max_length=64)
    session_id: str = Field(foreign_key="login_sessions.id", index=True, max_length=32)
    parent_hash: str | None = Field(default=None, max_length=64)
    created_at: datetime = instant(default_factory=now)
    expires_at: datetime = instant()
    used_at: datetime | None = instant(default=None, nullable=True)


class LoginLink(TenantOwned, table=True):
    """A single-use code that signs a user in (printed at the first start), stored as SHA-256."""

    __tablename__ = "login_links"

    code_hash: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(foreign_key="users.id", max_length=32)
    expires_at: datetime = instant()
    used_at: datetime | None = instant(default=None, nullable=True)


class Invitation(TenantOwned, Dated, table=True):
    """A single-use invitation into a tenant, stored as SHA-256 of its code."""

    __tablename__ = "invitations"

    code_hash: str = Field(primary_key=True, max_length=64)
    role_id: str = Field(foreign_key="roles.id", max_length=64)
    email: str | None = Field(default=None, max_length=320)
    invited_by: str | None = Field(default=None, foreign_key="users.id", max_length=32)
    expires_at: datetime = instant()
    used_at: datetime | None = instant(default=None, nullable=True)


class ClientSession(TenantOwned, Dated, table=True):
    """A persistent session of a client, by the ``key`` that the client gave it: the channels that
    it follows, and where it was in each when it last acknowledged.
    """

    __tablename__ = "client_sessions"
    __table_args__ = (UniqueConstraint("tenant_id", "user_id", "key"),)

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32)
    key: str = Field(max_length=128)
    turn: int = Field(default=1)  # how many connections have had it; the last of them may write
    channels: str = Field(default="{}")  # JSON: {channel: [epoch, seq]}
    expires_at: datetime = instant(index=True)


# --- conversations and runs -----------------------------------------------------------------------


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
    # The login session that asked for it.
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
    started_at: datetime | None = instant(default=None, nullable=True)
    finished_at: datetime | None = instant(default=None, nullable=True)


class Usage(TenantOwned, table=True):
    """Tokens that one run used of one model."""

    __tablename__ = "usage"

    id: str = Field(primary_key=True, max_length=32)
    run_id: str = Field(foreign_key="runs.id", index=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    provider: str = Field(max_length=64)
    model: str = Field(max_length=200)
    input_tokens: int
    output_tokens: int
    created_at: datetime = instant(default_factory=now)
