"""Alembic's entry: runs the revisions on the connection that ``hub.storage.schema`` hands over."""

from alembic import context

from hub.storage.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite's too: nothing is left half migrated
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
