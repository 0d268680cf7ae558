"""Who may do what: roles, what they allow, and who has them."""

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

from hub.storage.tables.columns import Dated, TenantOwned


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
