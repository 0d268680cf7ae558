"""Keeping the access token of an open socket fresh."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from hub_client.auth import Auth
from hub_client.faults import Fault, HubError
from hub_client.retry import Backoff

log = logging.getLogger("hub_client")

LOOK_S: Final = 60.0
"""How often the clock is looked at: a machine that slept wakes up with an old token."""


class TokenKeeper:
    """Renews the token when it is due, or when ``expiring`` is set, and hands it to ``swap``."""

    def __init__(self, auth: Auth, swap: Callable[[str], Awaitable[None]]) -> None:
        self.expiring = asyncio.Event()
        self._auth = auth
        self._swap = swap

    async def run(self) -> None:
        """For as long as tokens can be had; ends when the hub gives no more."""
        retry = Backoff()
        while self._auth.renewable:
            await self._wait()
            if not self.expiring.is_set() and not self._due():
                continue
            self.expiring.clear()
            try:
                await self._swap(await self._auth.access(renew=True))
                retry.failures = 0
            except HubError as error:
                if isinstance(error, Fault) and not error.retryable:
                    log.warning("the access token cannot be renewed: %s", error)
                    return
                self.expiring.set()
                wait = 1.0 + retry.failed()
                log.info("cannot renew the access token: %s; trying again in %.1f s", error, wait)
                await asyncio.sleep(wait)

    def _due(self) -> bool:
        due = self._auth.refresh_in
        return due is not None and due <= 0

    async def _wait(self) -> None:
        due = self._auth.refresh_in
        wait = None if due is None else min(max(due, 0.0), LOOK_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.expiring.wait()
