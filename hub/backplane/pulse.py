"""How long the backplane takes to bring what was published: a node hears itself now and then."""

from time import perf_counter_ns
from typing import Final

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.rounds import Rounds
from hub.telemetry.metrics import Metrics

EVERY_S: Final = 5.0


class Pulse:
    """A message that the node publishes to itself, every ``EVERY_S``, on a channel of its own: it
    goes the way that entries of a log go, on a cluster too. ``start``, then ``close``.

    While the backplane is away nothing is measured: ``hub_backplane_away`` tells that.
    """

    def __init__(
        self, backplane: Backplane, metrics: Metrics, node: str, *, every_s: float = EVERY_S
    ) -> None:
        self._backplane = backplane
        self._lag = metrics.pubsub_lag
        self._channel = f"pulse:{node}"
        self._rounds = Rounds("hear itself", self._beat, every_s=every_s, first_s=0.0)

    async def start(self) -> None:
        """Begin. Raises Fault("backend_unavailable")."""
        await self._backplane.overhear(self._channel, self._heard)
        self._rounds.start()

    async def close(self) -> None:
        """End."""
        await self._rounds.close()
        await self._backplane.disregard(self._channel)

    async def _beat(self) -> None:
        try:
            await self._backplane.whisper(self._channel, b"%d" % perf_counter_ns())
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise

    def _heard(self, _: str, message: bytes) -> None:
        if message:  # else the connection was broken, and is repaired
            self._lag.observe((perf_counter_ns() - int(message)) / 1e9)
