"""What was used before there were quotas is kept: it has a day, cost nothing, and is of the API key
that asked for it.
"""

import asyncio
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from alembic import command
from sqlalchemy import make_url

from hub.storage import schema
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Usage

AT = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
DATED = {"created_at": AT, "updated_at": AT}
RUN: dict[str, Any] = {
    **DATED, "tenant_id": "t_1", "conversation_id": "c_1", "user_id": "u_1", "message_id": "m_1",
    "status": "succeeded", "attempt": 1, "cancel_requested": False, "announced": True,
}  # fmt: skip
USAGE: dict[str, Any] = {
    "tenant_id": "t_1", "user_id": "u_1", "provider": "ollama", "model": "echo",
    "input_tokens": 3, "output_tokens": 4, "created_at": AT,
}  # fmt: skip
ROWS: dict[str, dict[str, Any] | list[dict[str, Any]]] = {
    "tenants": {**DATED, "id": "t_1", "name": "Ours"},
    "users": {**DATED, "id": "u_1", "email": "ada@hub.example"},
    "conversations": {
        **DATED, "tenant_id": "t_1", "id": "c_1", "owner_id": "u_1", "turns": 1
    },
    "runs": [
        {**RUN, "id": "r_1", "turn": 1, "session_id": "s_1"},
        {**RUN, "id": "r_2", "turn": 2, "session_id": "ak_1"},
    ],
    "usage": [{**USAGE, "id": "us_1", "run_id": "r_1"}, {**USAGE, "id": "us_2", "run_id": "r_2"}],
}  # fmt: skip
"""Rows as they were at the second revision."""


def _fill(connection: sa.Connection) -> None:
    config = schema._config()
    config.attributes["connection"] = connection
    command.upgrade(config, "0002")
    for name, row in ROWS.items():
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        connection.execute(table.insert(), row)


async def test_usage_of_before_has_a_day_a_key_and_cost_nothing(unmigrated_url: str) -> None:
    database = Database(unmigrated_url)
    await database.start()
    engine = schema._engine(make_url(unmigrated_url))
    async with engine.begin() as connection:
        await connection.run_sync(_fill)
    await engine.dispose()
    await asyncio.to_thread(schema.upgrade, make_url(unmigrated_url))
    async with database.read(EVERY_TENANT) as session:
        usage = await session.get_one(Usage, "us_1")
        by_key = await session.get_one(Usage, "us_2")
    await database.close()
    assert (usage.day, usage.cost) == (date(2026, 3, 1), 0)
    assert (usage.key_id, by_key.key_id) == (None, "ak_1")
    assert (usage.input_tokens, usage.output_tokens, usage.run_id) == (3, 4, "r_1")
