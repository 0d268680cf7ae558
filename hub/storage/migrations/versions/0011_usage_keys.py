"""What was used by which API key."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage", sa.Column("key_id", sa.String(length=32), nullable=True))
    # Of conversations that were deleted nobody knows any more.
    op.execute(
        "UPDATE usage SET key_id = (SELECT runs.session_id FROM runs"
        " WHERE runs.id = usage.run_id AND substr(runs.session_id, 1, 3) = 'ak_')"
    )
    op.create_index("ix_usage_by_key", "usage", ["tenant_id", "key_id", "day"], unique=False)
