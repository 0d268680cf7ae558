"""The connections that HTTP comes on: how long they are waited for, and how they end."""

import asyncio
from functools import partial
from typing import Any, Final, cast

from uvicorn.server import ServerState

from hub.transports.deadlines import BODY_S, HEAD_S, TAKE_S, Deadline
from hub.transports.door import Handover
from hub.transports.peer import BoundedHttp

SOON_S: Final = 1.0
"""A connection is handed over no later than this after it was opened: it waits for its head once
more there.
"""


class HttpState(ServerState):
    """What the connections of one server share: how long they are waited for, and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = Deadline(HEAD_S)
        self.bodies = Deadline(BODY_S)
        self.answers = Deadline(TAKE_S)
        self.draining = False
        """Whether every connection ends with its next answer."""
        self.handover: Handover | None = None
        """Where sign-ins are handed over to, if there is a door."""


class HttpProtocol(BoundedHttp):
    """The bounded protocol, with the way to cut its peer off in the scope's ``hub.abort``, and
    deadlines for what the peer sends. Its server's state is an ``HttpState``.
    """

    server_state: HttpState

    _began = 0.0
    """When the head that is awaited, or came last, began to be."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def _await_head(self) -> None:
        self._began = self.loop.time()
        self.server_state.heads.begin(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        handover = self.server_state.handover
        if (
            handover is not None
            and self._begins_anew()
            and handover.take(self.transport.get_extra_info("socket").fileno(), data)
        ):
            self.transport.abort()  # which closes no more than our descriptor of it
            return
        super().data_received(data)
        # A kept-alive connection waits for its next request as long as uvicorn says; from its next
        # byte on, be it of an empty line, like a new one.
        state, cycle = self.server_state, self.cycle
        if (
            self.timeout_keep_alive_task is None
            and cycle is not None
            and cycle.response_complete
            and self not in state.heads
            and self not in state.bodies
            and not self.transport.is_closing()
        ):
            self._await_head()

    def _begins_anew(self) -> bool:
        """Whether nothing was read of the next request yet, and nobody owes anything before it."""
        cycle = self.cycle
        if cycle is None:
            soon = self.loop.time() - self._began < SOON_S
            return soon and not self._unfinished and not self._ended
        return self.timeout_keep_alive_task is not None and not cycle.more_body

    def on_message_begin(self) -> None:
        super().on_message_begin()
        abort: Any = self.transport.abort
        self.scope["extensions"] = {"hub.abort": abort}
        if self not in self.server_state.heads:
            self._await_head()

    def on_headers_complete(self) -> None:
        self.server_state.heads.met(self)
        self.server_state.bodies.begin(self)
        super().on_headers_complete()
        if self.server_state.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self.server_state.bodies.met(self)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._arrived()
        # Who has taken its time for the head has the less for its credentials.
        begun: Any = partial(cast(Any, self.ws_protocol_class), opened=self._began)
        self.ws_protocol_class = begun
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        self.server_state.answers.begin(self)
        super().pause_writing()

    def resume_writing(self) -> None:
        self.server_state.answers.met(self)
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._closing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._closing()

    def _closing(self) -> None:
        # It ends when its last answer is taken, if ever.
        if self.transport.is_closing() and self in self.connections:
            self.server_state.answers.begin(self)

    def late(self) -> bool:
        # We may be those who do not read: a large body is taken as the application asks for it.
        if self.flow.read_paused and not self.flow.write_paused:
            return True
        self.transport.abort()
        return False

    def _arrived(self) -> None:
        state = self.server_state
        for deadline in (state.heads, state.bodies, state.answers):
            deadline.met(self)


class HandedOver(HttpProtocol):
    """A connection of which another process has read the ``first`` bytes."""

    def __init__(self, first: bytes, **named: Any) -> None:
        super().__init__(**named)
        self._first = first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.data_received(self._first)
        self._first = b""
