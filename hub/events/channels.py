"""The names of channels, as clients say them, and of the logs that are behind them. Pure.

A channel that each tenant has of its own is said without the tenant, which the server knows: no
name can reach another's.
"""

from typing import Final

OF_TENANT: Final = frozenset({"audit"})
"""The channels that each tenant has of its own."""


def log_of(channel: str, tenant_id: str) -> str:
    """The log of a channel, for who is of this tenant."""
    return f"{channel}:{tenant_id}" if channel in OF_TENANT else channel


def channel_of(log: str) -> str:
    """The channel, as clients say it, that has this log."""
    noun = log.partition(":")[0]
    return noun if noun in OF_TENANT else log
