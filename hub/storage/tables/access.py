"""Who may do what: roles, what they allow, groups, and who has a role, for how long."""

from datetime import datetime
from typing import Final

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

from hub.storage.tables.columns import Dated, TenantOwned, instant

BUILT_INS: Final = "built-in"
"""The ``RoleState`` of the roles that all tenants share."""


class Role(Dated, table=True):
    """A named set of permissions. ``tenant_id`` is null for the built-in roles, which all share."""

    __tablename__ = "roles"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: str = Field(primary_key=True, max_length=64)
    tenant_id: str | None = Field(default=None, foreign_key="tenants.id", index=True, max_length=32)
    name: str = Field(max_length=64)
    rank: int
    inherits: str | None = Field(default=None, foreign_key="roles.id", max_length=64)
    description: str | None = Field(default=None, max_length=400)  # of the tenant's own


class RolePermission(SQLModel, table=True):
    """A permission that a role has of itself; the inherited ones are added when it is compiled."""

    __tablename__ = "role_permissions"

    role_id: str = Field(primary_key=True, foreign_key="roles.id", max_length=64)
    permission: str = Field(primary_key=True, max_length=280)


class RoleState(SQLModel, table=True):
    """The name of the state that a tenant's own roles are in, or the built-in ones: another one,
    that never was, with every change of them. The database writes it (``hub.storage.role_states``)
    and nobody else. ``id`` is that of the tenant, or ``BUILT_INS``.
    """

    __tablename__ = "role_states"

    id: str = Field(primary_key=True, max_length=32)
    tenant_id: str | None = Field(
        default=None, foreign_key="tenants.id", ondelete="CASCADE", unique=True, max_length=32
    )
    state: str = Field(max_length=64)


class Membership(TenantOwned, Dated, table=True):
    """That a user belongs to a tenant, and as what. A user may hold several roles there. One that
    has expired is as good as none.
    """

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("tenant_id", "user_id", "role_id"),)

    id: str = Field(primary_key=True, max_length=32)
    user_id: str = Field(foreign_key="users.id", index=True, max_length=32)
    role_id: str = Field(foreign_key="roles.id", max_length=64)
    expires_at: datetime | None = instant(default=None, nullable=True)


class Group(TenantOwned, Dated, table=True):
    """Users of a tenant that are spoken of together."""

    __tablename__ = "user_groups"  # "groups" is a word of SQL
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=64)
    description: str | None = Field(default=None, max_length=400)


class GroupMember(TenantOwned, Dated, table=True):
    """That a user is in a group. It counts while the user is a member of the tenant."""

    __tablename__ = "group_members"

    group_id: str = Field(
        primary_key=True, foreign_key="user_groups.id", ondelete="CASCADE", max_length=32
    )
    user_id: str = Field(
        primary_key=True, foreign_key="users.id", ondelete="CASCADE", index=True, max_length=32
    )


class GroupRole(TenantOwned, Dated, table=True):
    """That all who are in a group have a role. One that has expired is as good as none."""

    __tablename__ = "group_roles"
    __table_args__ = (UniqueConstraint("group_id", "role_id"),)

    id: str = Field(primary_key=True, max_length=32)
    group_id: str = Field(foreign_key="user_groups.id", ondelete="CASCADE", max_length=32)
    role_id: str = Field(foreign_key="roles.id", max_length=64)
    expires_at: datetime | None = instant(default=None, nullable=True)
