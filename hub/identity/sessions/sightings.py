"""Sightings: when a login session was last seen, without a write for each request.

A request costs a look into a dictionary. What was seen is written some seconds later, many at a
time, and for a session once in a minute at most, whichever nodes it is on.
"""

import time
from datetime import timedelta
from typing import Final

from sqlalchemy import update
from sqlmodel import col

from hub.rounds import Rounds
from hub.storage.database import Database
from hub.storage.padding import padded
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, now

EVERY_S: Final = 60.0
"""A session is written once in this time at most, and so is never told as seen long ago."""
WRITE_S: Final = 5.0
BATCH: Final = 500


class Sightings:
    """Who was seen. ``await start()`` … ``await close()``."""

    def __init__(self, database: Database, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._every_s = every_s
        self._noted: dict[str, float] = {}  # by session, until when it is not noted again
        self._due: set[str] = set()
        self._rounds = Rounds("write who was seen", self.write, every_s=WRITE_S)

    async def start(self) -> None:
        """Begin to write."""
        self._rounds.start()

    async def close(self) -> None:
        """Stop; what was seen last is forgotten. Idempotent."""
        await self._rounds.close()

    def seen(self, session_id: str) -> None:
        """A request of this login session is being answered."""
        moment = time.monotonic()
        if session_id and self._noted.get(session_id, 0.0) <= moment:
            self._noted[session_id] = moment + self._every_s
            self._due.add(session_id)

    async def write(self) -> None:
        """Write what was seen since. Raises Fault("backend_unavailable")."""
        moment = time.monotonic()
        self._noted = {id: until for id, until in self._noted.items() if until > moment}
        # In one order on every node, so that none waits for another that waits for it.
        due = sorted(self._due)
        self._due.clear()
        for at in range(0, len(due), BATCH):
            seen_at = now()
            async with self._database.write(EVERY_TENANT) as session:
                await session.exec(
                    update(LoginSession)
                    .where(
                        col(LoginSession.id).in_(padded(due[at : at + BATCH])),
                        col(LoginSession.last_seen_at) < seen_at - timedelta(seconds=self._every_s),
                    )
                    .values(last_seen_at=seen_at)
                    .execution_options(synchronize_session=False)
                )
