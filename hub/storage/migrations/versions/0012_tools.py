"""The permission to call tools, and guests who come in when their address is verified."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

PERMISSIONS = (("admin", "tool:call:*/*"),)


def upgrade() -> None:
    # The names of servers and tools are part of it.
    with op.batch_alter_table("role_permissions") as batch:
        batch.alter_column(
            "permission",
            existing_type=sa.String(length=120),
            type_=sa.String(length=280),
            existing_nullable=False,
        )
    permissions = sa.table(
        "role_permissions", sa.column("role_id", sa.String), sa.column("permission", sa.String)
    )
    op.bulk_insert(
        permissions,
        [{"role_id": role, "permission": permission} for role, permission in PERMISSIONS],
    )
    with op.batch_alter_table("invitations") as batch:
        batch.add_column(sa.Column("guest_id", sa.String(length=32), nullable=True))
        # The name that PostgreSQL gives it by itself.
        batch.create_foreign_key(
            "invitations_guest_id_fkey", "users", ["guest_id"], ["id"], ondelete="SET NULL"
        )
    op.create_index("ix_invitations_guest_id", "invitations", ["guest_id"], unique=False)
