"""A chore: what comes up again and again, and is done by one node at a time."""

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from hub.backplane.interface import Backplane, LeaseLost
from hub.rounds import Rounds
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
        self._rounds = Rounds(f"do the chore {name}", self.once, every_s=every_s, spread=0.5)

    async def start(self) -> None:
        """Begin."""
        self._rounds.start()

    async def close(self) -> None:
        """Stop; what was begun goes on elsewhere, or after the next start. Idempotent."""
        await self._rounds.close()

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
