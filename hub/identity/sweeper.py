"""The sweeper: deletes what has expired, on one node at a time, a little at a time.

A login session is kept for a while after its end: it says where its user has signed in before,
which the throttle asks. Its refresh tokens are not.
"""

import asyncio
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlmodel import SQLModel, col, select

from hub.backplane.interface import Backplane, Lease, LeaseLost
from hub.faults import Fault
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
from hub.telemetry.logs import log

SWEEP_S: Final = 600.0
LEASE: Final = "sweep:identity"
LEASE_S: Final = 60.0
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
        self._backplane = backplane
        self._sweep_s = sweep_s
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._sweeping = asyncio.create_task(self._sweep_for_ever())

    async def close(self) -> None:
        """Stop. Idempotent."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def sweep(self) -> int | None:
        """Delete all that has expired; how many rows. None if another node is at it.

        Raises Fault("backend_unavailable").
        """
        lease = await self._backplane.acquire(LEASE, LEASE_S)
        if lease is None:
            return None
        try:
            return sum([await self._delete(kind, lease) for kind in KEPT])
        except LeaseLost:
            return None  # another node goes on with it
        finally:
            await self._backplane.release(lease)

    async def _delete(self, kind: type[SQLModel], lease: Lease) -> int:
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
            async with self._database.write(EVERY_TENANT) as session:
                keys = (await session.exec(expired)).all()
                if keys:
                    deleted += await erase(session, kind, of.in_(keys))
            if len(keys) < BATCH:
                return deleted
            await asyncio.sleep(PAUSE_S)
            await self._backplane.renew(lease, LEASE_S)

    async def _sweep_for_ever(self) -> None:
        while True:
            # Nodes that started together do not come together.
            await asyncio.sleep(self._sweep_s * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                await self.sweep()
            except Fault as fault:
                log.warning("could not sweep what has expired", why=fault.reason)
            except Exception:
                log.exception("sweeping what has expired failed")
