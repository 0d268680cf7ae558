"""The requests of one session: those that wait to be sent, and those that wait for an answer. Pure.

An answer finds its request by the id. What the connection took with it is sent again on the next
one, if doing it twice does no more than doing it once.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hub_client.channels import Channel
from hub_client.effects import Effect, Refused, Send
from hub_client.faults import ConnectionClosed, ConnectionLost, HubError
from hub_client.frames import Request
from hub_client.frames import encode_request as encode

SAFE_VERBS: Final = frozenset({"get", "list", "info", "ping", "history", "presence", "search"})
SAFE_METHODS: Final = frozenset(
    {"run.cancel", "channel.subscribe", "channel.unsubscribe", "channel.acknowledge"}
)
MAX_IN_FLIGHT: Final = 60
"""Requests without an answer on one socket; more of them wait here. The hub refuses the 65th."""


@dataclass(slots=True)
class Pending:
    """A request without an answer; ``channel``: the session made it for this subscription."""

    request: Request
    text: str
    channel: Channel | None = None


class Requests:
    """The requests of one session across any number of sockets."""

    def __init__(self) -> None:
        self._last_id = 0
        self._pending: dict[int, Pending] = {}
        self._unsent: deque[int] = deque()
        # With those whose caller left: the hub works on them until it answers.
        self._in_flight: set[int | str] = set()

    @property
    def waiting(self) -> bool:
        """Whether there are requests that the hub does not take yet."""
        return bool(self._unsent)

    def begin(self, method: str, params: Mapping[str, Any], channel: Channel | None = None) -> int:
        """Queue a request; its id. Raises BadFrame if it cannot be encoded."""
        request = Request(self._last_id + 1, method, params)
        text = encode(request)
        self._last_id += 1
        self._pending[self._last_id] = Pending(request, text, channel)
        self._unsent.append(self._last_id)
        return self._last_id

    def send(self) -> list[Effect]:
        """Send what waits, in order, as far as the hub takes it."""
        effects: list[Effect] = []
        while self._unsent and len(self._in_flight) < MAX_IN_FLIGHT:
            pending = self._pending.get(id := self._unsent.popleft())
            if pending is not None:
                self._in_flight.add(id)
                effects.append(Send(pending.text))
        return effects

    def answered(self, id: int | str | None) -> Pending | None:
        """The request that this is the answer to; None if its caller has gone."""
        self._in_flight.discard(id or 0)
        return self._pending.pop(id, None) if isinstance(id, int) else None

    def forget(self, id: int) -> None:
        """Nobody waits for this request any more; its reply is ignored."""
        self._pending.pop(id, None)

    def hold(self) -> deque[int]:
        """Take out what waits, so that others go first; ``unhold`` it then."""
        held, self._unsent = self._unsent, deque()
        return held

    def unhold(self, held: deque[int]) -> None:
        self._unsent += held

    def lost(self, error: ConnectionClosed) -> list[Effect]:
        """The socket is gone: what cannot be repeated fails, the rest waits for the next one."""
        effects: list[Effect] = []
        for id, pending in list(self._pending.items()):
            if pending.channel is not None:
                del self._pending[id]
            elif id in self._in_flight and not is_safe(pending.request):
                del self._pending[id]
                lost = ConnectionLost(error.code, error.reason, _lost(pending.request.method))
                effects.append(Refused(id, lost))
        self._in_flight.clear()
        self._unsent = deque(self._pending)
        return effects

    def closed(self, error: HubError) -> list[Effect]:
        """No socket will come: everything that somebody waits for fails."""
        pending, self._pending = self._pending, {}
        self._unsent.clear()
        return [Refused(id, error) for id in pending if not pending[id].channel]


def is_safe(request: Request) -> bool:
    """Whether sending it twice does what sending it once does."""
    if request.method == "message.send":
        return "client_message_id" in request.params
    family, _, verb = request.method.rpartition(".")
    return request.method in SAFE_METHODS or (family != "" and verb in SAFE_VERBS)


def _lost(method: str) -> str:
    return f"The connection broke before {method} was answered; whether it was done is unknown"
