"""The sweeper: deletes what has expired, on one node at a time, a little at a time.

A login session is kept for a while after its end: it says where its user has signed in before,
which the throttle asks. Its refresh tokens are not.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlmodel import SQLModel, col, select

from hub.backplane.chore import Chore, Keep
from hub.backplane.interface import Backplane
from hub.storage.database import Database
from hub.storage.erasing import erase
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    AccountToken,
    Invitation,
    LoginChallenge,
    LoginLink,
    LoginSession,
    RefreshToken,
    now,
)

SWEEP_S: Final = 600.0
CHORE: Final = "sweep:identity"
BATCH: Final = 500
"""Rows that are deleted in one transaction: who signs in meanwhile waits for no more than that."""
PAUSE_S: Final = 0.05

KEPT: Final[Mapping[type[SQLModel], timedelta]] = {
    RefreshToken: timedelta(0),
    LoginSession: timedelta(days=30),
    LoginLink: timedelta(days=1),
    LoginChallenge: timedelta(days=1),
    AccountToken: timedelta(days=1),
    Invitation: timedelta(days=30),
}
"""How long what has expired is kept; tokens come before the sessions that they are of."""


class Sweeper:
    """Sweeps, again and again. ``await start()`` … ``await close()``."""

    def __init__(
        self, database: Database, backplane: Backplane, *, sweep_s: float = SWEEP_S
    ) -> None:
        self._database = database
        self._chore = Chore(backplane, CHORE, self._delete_all, every_s=sweep_s)

    async def start(self) -> None:
        """Begin."""
        await self._chore.start()

    async def close(self) -> None:
        """Stop. Idempotent."""
        await self._chore.close()

    async def sweep(self) -> int | None:
        """Delete all that has expired; how many rows. None if another node is at it.

        Raises Fault("backend_unavailable").
        """
        return await self._chore.once()

    async def _delete_all(self, keep: Keep) -> int:
        return sum([await self._delete(kind, keep) for kind in KEPT])

    async def _delete(self, kind: type[SQLModel], keep: Keep) -> int:
        row: Any = kind
        (key,) = kind.__table__.primary_key.columns  # type: ignore[attr-defined]
        of = getattr(row, key.key)
        expired = (
            select(of)
            .where(col(row.expires_at) < now() - KEPT[kind])
            .order_by(row.expires_at)
            .limit(BATCH)
        )
        deleted = 0
        while True:
            # What has expired is looked for in all tenants, and goes by its key.
            async with self._database.write(EVERY_TENANT) as session:
                keys = (await session.exec(expired)).all()
                if keys:
                    deleted += await erase(session, kind, of.in_(keys))
            if len(keys) < BATCH:
                return deleted
            await asyncio.sleep(PAUSE_S)
            await keep()
