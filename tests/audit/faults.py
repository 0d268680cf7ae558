"""What somebody does to a trail behind the hub's back: to a real database, by SQL."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from hub.storage.database import Database
from tests.parts.postgres import SUPERUSER

_REFUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "sqlite": (
        "CREATE TRIGGER refuses BEFORE INSERT ON audit_entries "
        "BEGIN SELECT RAISE(ABORT, 'the trail is full'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the trail is full'; END $$",
        "CREATE TRIGGER refuses BEFORE INSERT ON audit_entries "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
}


async def meddle(database: Database, *statements: str, **values: Any) -> None:
    """Run SQL on the database, on a connection that knows nothing of the hub, nor of its walls."""
    url = database.url if database.embedded else database.url.set(username=SUPERUSER)
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            if not database.embedded:  # past the wall, as its owner can
                await connection.execute(text("SELECT set_config('hub.tenant', '*', true)"))
            for statement in statements:
                await connection.execute(text(statement), values)
    finally:
        await engine.dispose()


async def refuse_entries(database: Database) -> None:
    """Have the database refuse every audit entry from now on."""
    await meddle(database, *_REFUSES[database.url.get_backend_name()])
