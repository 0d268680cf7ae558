"""Guests who come in when their address is verified."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("invitations") as batch:
        batch.add_column(sa.Column("guest_id", sa.String(length=32), nullable=True))
        # The name that PostgreSQL gives it by itself.
        batch.create_foreign_key(
            "invitations_guest_id_fkey", "users", ["guest_id"], ["id"], ondelete="SET NULL"
        )
    op.create_index("ix_invitations_guest_id", "invitations", ["guest_id"], unique=False)
