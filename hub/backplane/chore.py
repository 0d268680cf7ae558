"""A chore: what comes up again and again, and is done by one node at a time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from hub.backplane.interface import Backplane, LeaseLost
from hub.faults import Fault
from hub.telemetry.logs import log

LEASE_S: Final = 60.0
"""How long a node that does a chore may be silent before another one takes it over."""

Keep = Callable[[], Awaitable[None]]
"""Keeps a chore this node's for ``LEASE_S`` more. Raises LeaseLost when it is not any more: what
is done of it is done, and another node goes on.
"""

T = TypeVar("T")


class Chore(Generic[T]):
    """Does ``work(keep)`` about every ``every_s`` seconds, unless another node is at the chore
    ``name``. ``await start()`` … ``await close()``.
    """

    def __init__(
        self,
        backplane: Backplane,
        name: str,
        work: Callable[[Keep], Awaitable[T]],
        *,
        every_s: float,
    ) -> None:
        self._backplane = backplane
        self._name = name
        self._work = work
        self._every_s = every_s
        self._going: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._going = asyncio.create_task(self._go())

    async def close(self) -> None:
        """Stop; what was begun goes on elsewhere, or after the next start. Idempotent."""
        if self._going is not None:
            self._going.cancel()
            await asyncio.gather(self._going, return_exceptions=True)

    async def once(self) -> T | None:
        """Do it now: what came of it. None if another node is at it, or took it over.

        Raises Fault("backend_unavailable"), and what the work raises.
        """
        lease = await self._backplane.acquire(self._name, LEASE_S)
        if lease is None:
            return None

        async def keep() -> None:
            await self._backplane.renew(lease, LEASE_S)

        try:
            return await self._work(keep)
        except LeaseLost:
            log.info("another node goes on with a chore", chore=self._name)
            return None
        finally:
            await self._backplane.release(lease)

    async def _go(self) -> None:
        while True:
            # Nodes that started together do not come together.
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            try:
                await self.once()
            except Fault as fault:
                log.warning("a chore could not be done now", chore=self._name, why=fault.reason)
            except Exception:
                log.exception("a chore failed", chore=self._name)
