"""Deadlines of HTTP connections: a peer that asks for nothing is cut off.

uvicorn waits for ever for a request that has begun, or that never does. Here a request's head has
``HEAD_S`` from the connection's first moment (or the last answer), and its body ``BODY_S`` more. A
WebSocket is none of this module's business once its upgrade has come: it has a deadline of its own.

There is no timer per connection. All that wait for the same thing have the same time, so that they
are in the order of their ends, and one look a second takes those from the front whose end it is:
ten thousand silent connections are an ordered table and one timer, and are let go a few hundred in
a turn, so that nobody else waits for it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

HEAD_S: Final = 8.0
"""From the connection, or a kept-alive connection's next byte, to the end of a request's head."""
BODY_S: Final = 20.0
"""From the end of the head to the end of the body: 64 KiB at 26 kbit/s."""
TAKE_S: Final = 20.0
"""For a client to take what fills its connection: 64 KiB, as slowly as a body may come."""
LOOK_S: Final = 1.0
"""How often the connections are looked at; none outlives its deadline by more."""
AT_ONCE: Final = 200
"""Connections that are cut off in one turn of the loop."""


class Awaited(Protocol):
    """A connection that is waited for."""

    def late(self) -> bool:
        """Its time is over. Whether it was no fault of the peer's, and it is given as much more."""


class Deadline:
    """Connections that have ``seconds`` each. One for all of a server, in one event loop."""

    __slots__ = ("_clock", "_due", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[Awaited, float] = {}
        self._clock: Callable[[], float] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, connection: Awaited) -> bool:
        return connection in self._due

    def begin(self, connection: Awaited) -> None:
        """Its time begins now."""
        if self._clock is None:
            self._clock = asyncio.get_running_loop().time
        self._due.pop(connection, None)  # to the end of the order
        self._due[connection] = self._clock() + self._seconds
        if self._timer is None:
            self._look_in(LOOK_S)

    def met(self, connection: Awaited) -> None:
        """What was waited for has come, or the connection has gone. Idempotent."""
        self._due.pop(connection, None)

    def _look_in(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        assert self._clock is not None
        self._timer = None
        now = self._clock()
        over: list[Awaited] = []
        for connection, due in self._due.items():
            if due > now or len(over) == AT_ONCE:
                break
            over.append(connection)
        for connection in over:
            del self._due[connection]
            if connection.late():
                self.begin(connection)
        if self._due and self._timer is None:
            self._look_in(0.0 if len(over) == AT_ONCE else LOOK_S)
