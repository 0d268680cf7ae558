"""How long the backplane takes to bring what was published: a node hears itself now and then."""

import asyncio
from time import perf_counter_ns
from typing import Final

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.telemetry.metrics import Metrics

EVERY_S: Final = 5.0


class Pulse:
    """A message that the node publishes to itself, every ``EVERY_S``. ``start``, then ``close``.

    While the backplane is away nothing is measured: ``hub_backplane_away`` tells that.
    """

    def __init__(
        self, backplane: Backplane, metrics: Metrics, node: str, *, every_s: float = EVERY_S
    ) -> None:
        self._backplane = backplane
        self._lag = metrics.pubsub_lag
        self._topic = f"pulse:{node}"
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. Raises Fault("backend_unavailable")."""
        await self._backplane.listen(self._topic, self._heard)
        self._task = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            try:
                await self._backplane.publish(self._topic, b"%d" % perf_counter_ns())
            except Fault as fault:
                if fault.reason != "backend_unavailable":
                    raise
            await asyncio.sleep(self._every_s)

    def _heard(self, message: bytes) -> None:
        self._lag.observe((perf_counter_ns() - int(message)) / 1e9)
