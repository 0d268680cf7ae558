"""How much of a log is kept, and for how long."""

from dataclasses import dataclass

from hub.backplane.interface import IDEMPOTENCY_TTL_S, LOG_MAX_ENTRIES, LOG_TTL_S


@dataclass(frozen=True, slots=True)
class LogLimits:
    """``entries`` newest are kept at least, for ``ttl_s`` seconds after the last of them; the key
    of an append is remembered for ``key_ttl_s`` seconds.
    """

    entries: int = LOG_MAX_ENTRIES
    ttl_s: float = LOG_TTL_S
    key_ttl_s: float = IDEMPOTENCY_TTL_S
