"""When API keys were last used: written once a minute at most, and in nobody's way."""

import asyncio
import time
from datetime import timedelta
from typing import Final

from sqlalchemy import or_
from sqlmodel import col, update

from hub.faults import Fault
from hub.storage.database import Database
from hub.storage.tables import ApiKey, now
from hub.telemetry.logs import log

EVERY_S: Final = 60.0
REMEMBERED: Final = 10_000
"""Keys whose last note is remembered; of one that is not, the database knows."""


class KeyUse:
    """Notes uses. ``await close()`` waits for what is being written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[str, float] = {}  # of time.monotonic(), the oldest first
        self._writing: set[asyncio.Task[None]] = set()

    def note(self, key_id: str, tenant_id: str) -> None:
        """The key is being used."""
        moment = time.monotonic()
        last = self._noted.get(key_id)
        if last is not None and moment - last < EVERY_S:
            return
        self._noted.pop(key_id, None)
        self._noted[key_id] = moment
        if len(self._noted) > REMEMBERED:
            del self._noted[next(iter(self._noted))]
        task = asyncio.create_task(self._write(key_id, tenant_id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Return when nothing is being written."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _write(self, key_id: str, tenant_id: str) -> None:
        moment = now()
        last = col(ApiKey.last_used_at)
        statement = (
            update(ApiKey)
            # Another node may have written it.
            .where(
                col(ApiKey.id) == key_id,
                or_(last.is_(None), last <= moment - timedelta(seconds=EVERY_S)),
            )
            .values(last_used_at=moment, updated_at=ApiKey.updated_at)
            .execution_options(synchronize_session=False)
        )
        try:
            async with self._database.write(tenant_id) as session:
                await session.exec(statement)
        except Fault as fault:
            log.warning("the use of an API key could not be noted", why=fault.reason)
        except Exception:
            log.exception("noting the use of an API key failed")
