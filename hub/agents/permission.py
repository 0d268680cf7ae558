"""Whether a run may go on: asked before its model is, and again whenever the answer may differ.

A run belongs to who asked for it, not to the socket that it was asked on. It ends when they may no
longer send messages into its conversation.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol

from hub.faults import Fault
from hub.storage.tables import Run
from hub.telemetry.logs import log

RECHECK_S: Final = 4.0
"""How long an answer is taken for granted when nothing is heard of a change."""
AWAY_S: Final = 0.5


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a run, and where. ``session_id`` is what they asked with: the login session,
    whose end does not end the run, or the API key, whose end does.
    """

    user_id: str
    tenant_id: str
    conversation_id: str
    session_id: str | None


class Permits(Protocol):
    """Answers whether an asker may go on. Made where the rooms are put together."""

    async def may_go_on(self, asker: Asker) -> bool:
        """Raises Fault("backend_unavailable") if it cannot be known."""

    def watch(self, asker: Asker, doubt: Callable[[], None]) -> Callable[[], None]:
        """Call ``doubt()`` whenever the answer may be another one; what is given back ends it."""


class Permission:
    """One run's. While it is entered, ``end`` is called once, and ``taken`` true, if the run may
    not go on.

    While it cannot be known (the database is away), a run that is under way goes on: nobody is
    given what it says but who may read it then. It begins nothing.
    """

    def __init__(self, permits: Permits, run: Run, end: Callable[[], None]) -> None:
        self.taken = False
        self._permits = permits
        self._asker = Asker(run.user_id, run.tenant_id, run.conversation_id, run.session_id)
        self._end = end
        self._given = asyncio.Event()
        self._doubtful = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None

    async def __aenter__(self) -> "Permission":
        self._unwatch = self._permits.watch(self._asker, self._doubtful.set)
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._unwatch is not None
        assert self._asking is not None
        self._unwatch()
        self._asking.cancel()
        await asyncio.wait({self._asking})
        # Nothing refers in a circle to what has ended, or it would stay until a full collection.
        self._asking = self._unwatch = None
        self._end = _nothing

    def fault(self) -> Fault:
        """What the run ends with when the permission was taken."""
        return Fault("permission_denied", "Who asked for this run may not send messages here now.")

    async def given(self) -> None:
        """Return once the run is known to be allowed; never if it is not."""
        await self._given.wait()

    async def _ask(self) -> None:
        while True:
            self._doubtful.clear()
            try:
                allowed = await self._permits.may_go_on(self._asker)
            except Fault as fault:
                log.warning("a run's permission cannot be known", why=fault.reason)
                await asyncio.sleep(AWAY_S)
                continue
            except Exception:
                log.exception("asking for a run's permission failed")
                await asyncio.sleep(AWAY_S)
                continue
            if not allowed:
                self.taken = True
                self._end()
                return
            self._given.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await self._doubtful.wait()
