"""The data of a hub, as a command at the machine finds it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hub.faults import Fault
from hub.settings import Settings
from hub.storage.database import Database


@asynccontextmanager
async def data_of(settings: Settings, *, makes: bool = False) -> AsyncIterator[Database]:
    """The database, with the newest tables. ``makes``: one that is not there yet is made.

    Raises Fault: "not_found" where a hub never was, "backend_unavailable".
    """
    database = Database(settings.database)
    if not makes and database.file is not None and not database.file.exists():
        raise Fault(
            "not_found",
            f"there is no hub's data at {database.file}; use --data-dir (or HUB_DATABASE_URL)",
        )
    await database.start()
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()
