"""Durable rows: SQLModel tables, tenant-scoped sessions, migrations; SQLite and PostgreSQL."""
