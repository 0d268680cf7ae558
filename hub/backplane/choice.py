"""Which backplane a hub has: Redis if it is given one, else the memory of this process."""

from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane
from hub.backplane.redis import RedisBackplane
from hub.backplane.standby import StandbyBackplane
from hub.telemetry.metrics import Metrics


def open_backplane(redis_url: str | None, node: str, metrics: Metrics | None = None) -> Backplane:
    """The backplane of this node, not started yet. Raises ValueError for a URL that is not of
    Redis (``redis://``, ``rediss://``, ``redis+cluster://``, ``rediss+cluster://``).
    """
    if redis_url is None:
        return MemoryBackplane()
    return StandbyBackplane(RedisBackplane(redis_url, node=node), metrics or Metrics())
