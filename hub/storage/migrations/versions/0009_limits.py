"""Quotas, budgets and cached answers."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)

# As they were at this revision; a change of hub.rbac.roles is a revision of its own.
GIVEN = {
    "viewer": ("quota:read", "usage:read"),
    "operator": ("quota:read:any", "usage:read:any"),
    "admin": ("quota:set",),
}

# PostgreSQL gives this name by itself; SQLite has no names for what was made without one.
NAMES = {"fk": "%(table_name)s_%(column_0_name)s_fkey"}


def upgrade() -> None:
    add_quotas()
    change_usage()
    give_permissions()


def add_quotas() -> None:
    op.create_table(
        "quotas",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("subject_kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("by_operator", sa.Boolean(), nullable=False),
        sa.Column("set_at", INSTANT, nullable=True),
        sa.Column("window", sa.String(length=10), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_quotas_tenant_id", "quotas", ["tenant_id"], unique=False)
    op.add_column("runs", sa.Column("reservation", sa.String(), nullable=True))


def change_usage() -> None:
    """What was used outlives its run, has a cost, and is found by its day."""
    with op.batch_alter_table("usage", naming_convention=NAMES) as batch:
        batch.drop_constraint("usage_run_id_fkey", type_="foreignkey")
        batch.add_column(sa.Column("cost", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("day", sa.Date(), nullable=True))
    postgres = op.get_bind().dialect.name == "postgresql"
    day = "(created_at AT TIME ZONE 'UTC')::date" if postgres else "date(created_at)"
    op.execute(sa.text(f"UPDATE usage SET cost = 0, day = {day}"))  # noqa: S608  # no input
    with op.batch_alter_table("usage") as batch:
        batch.alter_column("cost", existing_type=sa.BigInteger(), nullable=False)
        batch.alter_column("day", existing_type=sa.Date(), nullable=False)
    op.create_index("ix_usage_by_day", "usage", ["tenant_id", "day"], unique=False)
    op.create_index("ix_usage_by_user", "usage", ["tenant_id", "user_id", "day"], unique=False)


def give_permissions() -> None:
    permissions = sa.table(
        "role_permissions", sa.column("role_id", sa.String), sa.column("permission", sa.String)
    )
    op.bulk_insert(
        permissions,
        [
            {"role_id": role, "permission": permission}
            for role, given in GIVEN.items()
            for permission in given
        ],
    )
