"""Second factors, and what identity providers say of users."""

from datetime import datetime

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

from hub.storage.tables.columns import Dated, TenantOwned, instant, now


class TotpFactor(Dated, table=True):
    """A user's authenticator (RFC 6238). Not in force before it is confirmed by a code."""

    __tablename__ = "totp_factors"

    user_id: str = Field(
        primary_key=True, foreign_key="users.id", ondelete="CASCADE", max_length=32
    )
    secret: str = Field(max_length=200)  # sealed; see hub.identity.tokens.seal
    confirmed_at: datetime | None = instant(default=None, nullable=True)
    last_step: int = Field(default=0)  # of the newest code that was taken; none older is


class RecoveryCode(SQLModel, table=True):
    """A single-use code for who has lost their authenticator, stored as SHA-256."""

    __tablename__ = "recovery_codes"

    code_hash: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32)
    used_at: datetime | None = instant(default=None, nullable=True)


class LoginChallenge(TenantOwned, table=True):
    """A sign-in that waits for its second factor, stored as SHA-256 of what continues it."""

    __tablename__ = "login_challenges"

    code_hash: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32)
    failures: int = Field(default=0)
    created_at: datetime = instant(default_factory=now)
    expires_at: datetime = instant()
    used_at: datetime | None = instant(default=None, nullable=True)


class FactorPolicy(TenantOwned, Dated, table=True):
    """That a tenant demands a second factor of whoever has a role of this rank or above."""

    __tablename__ = "factor_policies"

    id: str = Field(primary_key=True, max_length=32)  # the tenant's
    rank: int


class ProviderIdentity(Dated, table=True):
    """Who a user is at an identity provider: ``subject`` of ``issuer``, which names never change.
    ``updated_at`` is the last sign-in.
    """

    __tablename__ = "provider_identities"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32)
    issuer: str = Field(max_length=300)
    subject: str = Field(max_length=255)


class ProvidedRole(TenantOwned, table=True):
    """A role that a user has because a provider said so, and that goes when it says so no more."""

    __tablename__ = "provided_roles"
    __table_args__ = (UniqueConstraint("issuer", "user_id", "tenant_id", "role_id"),)

    id: str = Field(primary_key=True, max_length=32)
    issuer: str = Field(max_length=300)
    user_id: str = Field(foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32)
    role_id: str = Field(foreign_key="roles.id", ondelete="CASCADE", max_length=64)
