"""How much of a log is kept, and for how long."""

from dataclasses import dataclass

from hub.backplane.interface import (
    IDEMPOTENCY_TTL_S,
    LOG_MAX_BYTES,
    LOG_MAX_ENTRIES,
    LOG_TTL_S,
    LOGS_MAX_BYTES,
)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """``entries`` newest are kept at least, for ``ttl_s`` seconds after the last of them; the key
    of an append is remembered for ``key_ttl_s`` seconds.

    In memory a log holds ``log_bytes`` of data at most, or its newest entry, and all logs of the
    process ``total_bytes``, or the newest log.
    """

    entries: int = LOG_MAX_ENTRIES
    ttl_s: float = LOG_TTL_S
    key_ttl_s: float = IDEMPOTENCY_TTL_S
    log_bytes: int = LOG_MAX_BYTES
    total_bytes: int = LOGS_MAX_BYTES
