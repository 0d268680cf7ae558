"""Saying that something has changed, once that is in the database."""

from collections.abc import Awaitable, Callable

from hub.faults import Fault
from hub.telemetry.logs import log_failure

Changed = Callable[[str, str], Awaitable[None]]
"""``hub.identity.access.authority.Authority.changed``: called with a kind and an id."""


async def announce(changed: Changed | None, *changes: tuple[str, str]) -> None:
    """Tell every node of changes, ``(kind, id)`` each, after they were committed.

    It is no failure if they cannot be told: every node looks at the database within seconds.
    """
    if changed is None:
        return
    for kind, id in changes:
        try:
            await changed(kind, id)
        except Fault as fault:
            log_failure(fault, changed=f"{kind} {id}")
