"""Which backplane a hub has: Redis if it is given one, else the memory of this process."""

from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane
from hub.backplane.redis import RedisBackplane


def open_backplane(redis_url: str | None, node: str) -> Backplane:
    """The backplane of this node, not started yet. Raises ValueError for a URL that is not of
    Redis (``redis://``, ``rediss://``, ``redis+cluster://``, ``rediss+cluster://``).
    """
    if redis_url is None:
        return MemoryBackplane()
    return RedisBackplane(redis_url, node=node)
