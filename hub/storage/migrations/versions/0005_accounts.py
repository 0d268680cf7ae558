"""Verification and recovery of accounts, disabled members, and what administers users."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)

# As they were at this revision.
PERMISSIONS = (
    ("admin", "user:delete"),
    ("admin", "user:disable"),
    ("admin", "user:export"),
    ("admin", "user:read"),
)
EXPIRING = ("invitations", "login_links", "login_sessions", "refresh_tokens")


def upgrade() -> None:
    op.add_column("users", sa.Column("verified_at", INSTANT, nullable=True))
    op.add_column("users", sa.Column("deleted_at", INSTANT, nullable=True))
    # Who came before addresses were verified is not locked out for it.
    users = sa.table("users", sa.column("verified_at", INSTANT))
    op.execute(sa.update(users).values(verified_at=datetime.now(UTC)))
    create_tables()
    for table in EXPIRING:
        op.create_index(f"ix_{table}_expires_at", table, ["expires_at"], unique=False)
    op.create_index(
        "ix_login_sessions_place", "login_sessions", ["user_id", "address"], unique=False
    )
    op.bulk_insert(
        sa.table(
            "role_permissions", sa.column("role_id", sa.String), sa.column("permission", sa.String)
        ),
        [{"role_id": role, "permission": permission} for role, permission in PERMISSIONS],
    )


def create_tables() -> None:
    op.create_table(
        "disabled_members",
        sa.Column("tenant_id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("disabled_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("tenant_id", "user_id"),
    )
    op.create_index("ix_disabled_members_user_id", "disabled_members", ["user_id"], unique=False)
    op.create_table(
        "account_tokens",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("used_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index("ix_account_tokens_user_id", "account_tokens", ["user_id"], unique=False)
    op.create_index("ix_account_tokens_expires_at", "account_tokens", ["expires_at"], unique=False)
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("tenant_id", sa.String(32), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
