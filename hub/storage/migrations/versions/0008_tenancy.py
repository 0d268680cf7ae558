"""The life of tenants, and names for invitations.

The walls between tenants (row-level security) are no step of this chain: they are raised after it,
over whatever tables there are (``hub.storage.walls``).
"""

import sqlalchemy as sa
from alembic import op
from ulid import ULID

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)

# As they are given at this revision.
GIVEN = {
    "viewer": ("tenant:read",),
    "admin": ("member:invite", "member:read", "member:remove"),
    "owner": (
        "tenant:create",
        "tenant:delete",
        "tenant:delete:any",
        "tenant:list",
        "tenant:read:any",
        "tenant:restore",
        "tenant:suspend",
        "tenant:update",
        "tenant:update:any",
    ),
}


def upgrade() -> None:
    for column in ("deleted_at", "purge_at", "purge_began_at"):
        op.add_column("tenants", sa.Column(column, INSTANT, nullable=True))
    op.add_column("tenants", sa.Column("settings", sa.String(), nullable=True))
    op.create_index("ix_tenants_purge_at", "tenants", ["purge_at"], unique=False)
    op.add_column("invitations", sa.Column("id", sa.String(length=32), nullable=True))
    name_invitations()
    with op.batch_alter_table("invitations") as invitations:
        invitations.alter_column("id", existing_type=sa.String(length=32), nullable=False)
    op.create_index("ix_invitations_id", "invitations", ["id"], unique=True)
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


def name_invitations() -> None:
    invitations = sa.table(
        "invitations", sa.column("code_hash", sa.String), sa.column("id", sa.String)
    )
    connection = op.get_bind()
    for code_hash in connection.scalars(sa.select(invitations.c.code_hash)).all():
        connection.execute(
            sa.update(invitations)
            .where(invitations.c.code_hash == code_hash)
            .values(id=f"iv_{ULID()}")
        )
