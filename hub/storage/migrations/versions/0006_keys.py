"""Service accounts and API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)

# What the built-in roles may do in addition.
PERMISSIONS = {
    "viewer": ("apikey:read", "apikey:revoke"),
    "member": ("apikey:create", "apikey:write"),
    "admin": (
        "apikey:create:any",
        "apikey:read:any",
        "apikey:revoke:any",
        "apikey:write:any",
        "service:create",
        "service:delete",
        "service:delete:any",
        "service:read",
        "service:read:any",
        "service:write",
        "service:write:any",
    ),
}


def upgrade() -> None:
    op.add_column(
        "users",
        sa.Column("kind", sa.String(length=16), nullable=False, server_default="person"),
    )
    op.create_table(
        "api_keys",
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=True),
        sa.Column("previous_until", INSTANT, nullable=True),
        sa.Column("rotated_at", INSTANT, nullable=True),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("last_used_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id"], unique=False)
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"], unique=False)
    op.bulk_insert(
        sa.table("role_permissions", sa.column("role_id"), sa.column("permission")),
        [
            {"role_id": role, "permission": permission}
            for role, permissions in PERMISSIONS.items()
            for permission in permissions
        ],
    )
