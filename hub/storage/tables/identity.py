"""Users, and how they sign in."""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from hub.ids import new_id
from hub.storage.tables.columns import Dated, TenantOwned, instant, now


class User(Dated, table=True):
    """A person or a service. Not tenant-owned: one may be a member of several tenants.

    A service (``kind``) has no password and an address that no mail reaches; it comes in by API
    keys alone, and is a member of one tenant.
    """

    __tablename__ = "users"

    id: str = Field(primary_key=True, max_length=32)
    kind: str = Field(  # person, service
        default="person", max_length=16, sa_column_kwargs={"server_default": "person"}
    )
    email: str = Field(unique=True, max_length=320)  # lower case
    name: str | None = Field(default=None, max_length=200)
    password_hash: str | None = Field(default=None, max_length=200)
    verified_at: datetime | None = instant(default=None, nullable=True)  # the address is theirs
    disabled_at: datetime | None = instant(default=None, nullable=True)  # everywhere
    # The account is no more; the row stays for its id, and holds nothing of the person.
    deleted_at: datetime | None = instant(default=None, nullable=True)


class DisabledMember(TenantOwned, table=True):
    """That a user may do nothing in one tenant, whose administrators said so. They stay a member,
    with their roles.
    """

    __tablename__ = "disabled_members"

    tenant_id: str = Field(primary_key=True, foreign_key="tenants.id", max_length=32)
    user_id: str = Field(primary_key=True, foreign_key="users.id", index=True, max_length=32)
    disabled_at: datetime = instant(default_factory=now)


class MemberName(TenantOwned, table=True):
    """What a user is called in one tenant, as its administrators say, in place of the account's own
    name. It ends with the membership.
    """

    __tablename__ = "member_names"

    tenant_id: str = Field(primary_key=True, foreign_key="tenants.id", max_length=32)
    user_id: str = Field(primary_key=True, foreign_key="users.id", index=True, max_length=32)
    name: str = Field(max_length=200)


class AccountToken(SQLModel, table=True):
    """A single-use token that was sent to an address, stored as its SHA-256: it shows that who has
    it reads what comes there. Good for one purpose (``verify``, ``reset``, ``move``, ``factor``).
    """

    __tablename__ = "account_tokens"

    token_hash: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    purpose: str = Field(max_length=16)
    email: str = Field(max_length=320)
    expires_at: datetime = instant(index=True)
    used_at: datetime | None = instant(default=None, nullable=True)


class Erasure(SQLModel, table=True):
    """That a user's conversations are to be deleted, in one tenant or in all."""

    __tablename__ = "erasures"

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", max_length=32)
    tenant_id: str | None = Field(default=None, foreign_key="tenants.id", max_length=32)
    created_at: datetime = instant(default_factory=now)


class LoginSession(TenantOwned, Dated, table=True):
    """One sign-in: the family of refresh tokens that descend from it, and the sockets it opened."""

    __tablename__ = "login_sessions"
    # Where somebody has signed in before: asked at each sign-in, in the same time for everybody.
    __table_args__ = (Index("ix_login_sessions_place", "user_id", "address"),)

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    device: str | None = Field(default=None, max_length=400)
    address: str | None = Field(default=None, max_length=64)
    last_seen_at: datetime = instant(default_factory=now)
    expires_at: datetime = instant(index=True)
    revoked_at: datetime | None = instant(default=None, nullable=True)
    second_factor: str | None = Field(  # that was shown: totp, recovery, provider, operator
        default=None, max_length=16
    )


class RefreshToken(TenantOwned, table=True):
    """A single-use refresh token, stored as its SHA-256; used ones stay to detect reuse."""

    __tablename__ = "refresh_tokens"

    token_hash: str = Field(primary_key=True, max_length=64)
    session_id: str = Field(foreign_key="login_sessions.id", index=True, max_length=32)
    parent_hash: str | None = Field(default=None, max_length=64)
    created_at: datetime = instant(default_factory=now)
    expires_at: datetime = instant(index=True)
    used_at: datetime | None = instant(default=None, nullable=True)


class LoginLink(TenantOwned, table=True):
    """A single-use code that signs a user in (printed at the first start), stored as SHA-256."""

    __tablename__ = "login_links"

    code_hash: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(foreign_key="users.id", max_length=32)
    expires_at: datetime = instant(index=True)
    used_at: datetime | None = instant(default=None, nullable=True)
    second_factor: str | None = Field(default=None, max_length=16)  # that was shown already


class Invitation(TenantOwned, Dated, table=True):
    """A single-use invitation into a tenant, stored as SHA-256 of its code."""

    __tablename__ = "invitations"

    code_hash: str = Field(primary_key=True, max_length=64)
    id: str = Field(default_factory=lambda: new_id("iv"), index=True, unique=True, max_length=32)
    role_id: str = Field(foreign_key="roles.id", max_length=64)
    email: str | None = Field(default=None, max_length=320)
    invited_by: str | None = Field(default=None, foreign_key="users.id", max_length=32)
    # Who registered with it, and comes in by it as soon as the address is verified.
    guest_id: str | None = Field(
        default=None, foreign_key="users.id", ondelete="SET NULL", index=True, max_length=32
    )
    expires_at: datetime = instant(index=True)
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
