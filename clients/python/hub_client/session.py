"""The session: requests, replies and subscriptions over a socket that comes and goes. Pure.

The IO part tells it what happened (``opened``, ``received``, ``lost``, ``closed``) and what is
wanted (``call``, ``want``, ``unwant``); each answers with effects for the IO part to carry out, in
order. It knows nothing of sockets, tasks or time.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from hub_client.channels import MAX_RESYNCS, Channel, Move, Phase, Verdict
from hub_client.effects import (
    Answered,
    Delivered,
    Effect,
    Ended,
    Noticed,
    Overheard,
    Postponed,
    Refused,
    Send,
    Subscribed,
)
from hub_client.events import SNAPSHOT, Event, Position, Since
from hub_client.faults import (
    BadFrame,
    ConnectionClosed,
    ConnectionLost,
    Fault,
    HubError,
    ResumeGap,
    SubscriptionEnded,
    fault_from,
    fault_of,
)
from hub_client.frames import Aside, ErrorReply, Notice, Reply, Request, decode, encode_error
from hub_client.frames import encode_request as encode
from hub_client.retry import is_safe

MAX_IN_FLIGHT: Final = 60
"""Requests without an answer on one socket; more of them wait here. The hub refuses the 65th."""


class State(Enum):
    OFFLINE = auto()
    OPENING = auto()
    READY = auto()
    CLOSED = auto()


class Input(Enum):
    OPENED = auto()
    AUTHENTICATED = auto()
    LOST = auto()
    CLOSED = auto()


_TABLE: Final = {
    (State.OFFLINE, Input.OPENED): State.OPENING,
    (State.OPENING, Input.AUTHENTICATED): State.READY,
    (State.OFFLINE, Input.LOST): State.OFFLINE,
    (State.OPENING, Input.LOST): State.OFFLINE,
    (State.READY, Input.LOST): State.OFFLINE,
    (State.OFFLINE, Input.CLOSED): State.CLOSED,
    (State.OPENING, Input.CLOSED): State.CLOSED,
    (State.READY, Input.CLOSED): State.CLOSED,
    (State.CLOSED, Input.CLOSED): State.CLOSED,
}


@dataclass(slots=True)
class _Pending:
    request: Request
    text: str
    channel: Channel | None = None


class Session:
    """One client's session with the hub across any number of sockets."""

    def __init__(self) -> None:
        self.state = State.OFFLINE
        self._last_id = 0
        self._pending: dict[int, _Pending] = {}
        self._unsent: deque[int] = deque()
        # With those whose caller left: the hub works on them until it answers.
        self._in_flight: set[int | str] = set()
        self._channels: dict[str, Channel] = {}
        self._error: HubError = ConnectionClosed(1000)

    # --- what happened ---

    def opened(self) -> list[Effect]:
        """A socket is open; the hub will say ``session.ready``."""
        self._move(Input.OPENED)
        return []

    def received(self, text: str) -> list[Effect]:
        """A frame came. Raises BadFrame if it is none."""
        frame = decode(text)
        match frame:
            case Event():
                return self._event(frame)
            case Aside(name, data):
                channel = self._channels.get(name)
                return [Overheard(name, data)] if channel and channel.attended else []
            case Reply(id, result):
                self._in_flight.discard(id)
                return self._reply(id, result) + self._send()
            case ErrorReply(id, error):
                self._in_flight.discard(id or 0)
                return self._refusal(id, fault_from(error)) + self._send()
            case Notice(method, params):
                return self._notice(method, params)
            case Request(id, method, _):
                message = f"This client does not offer {method}."
                return [Send(encode_error(id, -32601, "method_not_found", message))]

    def lost(self, error: ConnectionClosed) -> list[Effect]:
        """The socket is gone and another will come. Requests that are safe to repeat wait."""
        self._move(Input.LOST)
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
        for channel in list(self._channels.values()):
            channel.move(Move.LOST)
            channel.stale = channel.postponed = False
            self._advance(channel)
        return effects

    def closed(self, error: HubError) -> list[Effect]:
        """No socket will come any more. Everything that waits fails with ``error``."""
        self._move(Input.CLOSED)
        self._error = error
        pending, self._pending = self._pending, {}
        self._unsent.clear()
        channels, self._channels = self._channels, {}
        effects: list[Effect] = [Refused(id, error) for id in pending if not pending[id].channel]
        effects += [Ended(name, error) for name, channel in channels.items() if channel.wanted]
        return effects

    # --- what is wanted ---

    def call(self, method: str, params: Mapping[str, Any]) -> tuple[int, list[Effect]]:
        """Begin a request; it is sent when the session is ready and the hub takes one more.

        Raises BadFrame if it cannot be encoded, and the closing error once closed.
        """
        return self._begin(method, params)

    @property
    def waiting(self) -> bool:
        """Whether there are requests that the hub does not take yet."""
        return bool(self._unsent)

    def forget(self, id: int) -> None:
        """Nobody waits for this request any more; its reply is ignored."""
        self._pending.pop(id, None)

    def want(self, name: str, since: Since, *, presence: bool = False) -> list[Effect]:
        """Subscribe; answers with ``Subscribed`` when it is there. Once per channel."""
        if self.state is State.CLOSED:
            raise self._error.with_traceback(None)  # or it would grow with every call
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, since)
        elif not channel.wanted:  # it is being left; come back afterwards
            channel.wanted, channel.since, channel.position = True, since, None
            channel.stale = channel.phase in (Phase.SUBSCRIBING, Phase.LIVE)
        channel.presence = presence
        return self._advance(channel)

    def attend(self, name: str, presence: bool) -> list[Effect]:
        """Follow a channel that is wanted with presence, or without, from where it stands."""
        channel = self._channels.get(name)
        if channel is None or channel.presence == presence:
            return []
        channel.presence = presence
        channel.stale = channel.phase in (Phase.SUBSCRIBING, Phase.LIVE)
        return self._advance(channel)

    def restart(self, name: str, since: Since) -> list[Effect]:
        """Leave the channel and subscribe again from elsewhere."""
        channel = self._channels.get(name)
        if channel is None:
            return []
        channel.since, channel.position = since, None
        channel.stale = channel.phase in (Phase.SUBSCRIBING, Phase.LIVE)
        return self._advance(channel)

    def again(self, name: str) -> list[Effect]:
        """The wait of a ``Postponed`` channel is over. One that is not waiting any more is fine."""
        channel = self._channels.get(name)
        if channel is None or not channel.postponed:
            return []
        channel.postponed = False
        return self._advance(channel)

    def unwant(self, name: str) -> list[Effect]:
        """Unsubscribe. Not subscribed is fine."""
        channel = self._channels.get(name)
        if channel is None:
            return []
        channel.wanted = False
        return self._advance(channel)

    def live(self, name: str) -> Position | None:
        """Where the channel stands, if it is live and in order."""
        channel = self._channels.get(name)
        if channel is None or channel.phase is not Phase.LIVE:
            return None
        return channel.position if channel.wanted and not channel.stale else None

    # --- the rest ---

    def _move(self, what: Input) -> None:
        self.state = _TABLE[self.state, what]

    def _begin(
        self, method: str, params: Mapping[str, Any], channel: Channel | None = None
    ) -> tuple[int, list[Effect]]:
        if self.state is State.CLOSED:
            raise self._error.with_traceback(None)  # or it would grow with every call
        request = Request(self._last_id + 1, method, params)
        text = encode(request)
        self._last_id += 1
        self._pending[self._last_id] = _Pending(request, text, channel)
        self._unsent.append(self._last_id)
        return self._last_id, self._send()

    def _send(self) -> list[Effect]:
        """Send what waits, in order, as far as the hub takes it."""
        effects: list[Effect] = []
        while self.state is State.READY and self._unsent and len(self._in_flight) < MAX_IN_FLIGHT:
            pending = self._pending.get(id := self._unsent.popleft())
            if pending is not None:
                self._in_flight.add(id)
                effects.append(Send(pending.text))
        return effects

    def _notice(self, method: str, params: Mapping[str, Any]) -> list[Effect]:
        effects: list[Effect] = [Noticed(method, params)]
        if method == "session.ready":
            if self.state is not State.OPENING:
                raise BadFrame("session.ready came twice")
            self._move(Input.AUTHENTICATED)
            later, self._unsent = self._unsent, deque()
            for channel in list(self._channels.values()):
                effects += self._advance(channel)
            self._unsent += later
            effects += self._send()
        elif method == "subscription.ended":
            effects += self._subscription_ended(params)
        return effects

    def _subscription_ended(self, params: Mapping[str, Any]) -> list[Effect]:
        name = str(params.get("channel"))
        channel = self._channels.get(name)
        if channel is None or not channel.wanted or channel.phase is not Phase.LIVE:
            return []
        reason = str(params.get("reason", "unknown"))
        if reason == "resume_gap" and channel.resyncs < MAX_RESYNCS:
            # The hub lost the log: asked again, it answers with a snapshot.
            channel.resyncs += 1
            channel.move(Move.LOST)
            return self._advance(channel)
        if fault_of(reason).retryable:
            return self._postpone(channel)
        del self._channels[name]
        return [Ended(name, SubscriptionEnded(name, reason))]

    def _reply(self, id: int | str, result: Any) -> list[Effect]:
        pending = self._pending.pop(id, None) if isinstance(id, int) else None
        if pending is None:
            return []  # its caller has gone
        if not isinstance(result, dict):
            raise BadFrame(f"the result of {pending.request.method} is not an object")
        if pending.channel is None:
            return [Answered(pending.request.id, result)]  # type: ignore[arg-type]
        if pending.request.method == "channel.unsubscribe":
            return self._left(pending.channel)
        return self._subscribed(pending.channel, result)

    def _refusal(self, id: int | str | None, error: Fault) -> list[Effect]:
        if id is None:  # the hub could not tell which request it was
            return [Noticed("error", {"message": error.message, "reason": error.reason})]
        pending = self._pending.pop(id, None) if isinstance(id, int) else None
        if pending is None:
            return []
        if pending.channel is None:
            return [Refused(pending.request.id, error)]  # type: ignore[arg-type]
        if pending.request.method == "channel.unsubscribe":
            return self._left(pending.channel)  # there was nothing to leave
        if error.retryable and pending.channel.joined and pending.channel.wanted:
            return self._postpone(pending.channel, error.retry_after or 0.0)
        return self._end(pending.channel, error)

    def _postpone(self, channel: Channel, retry_after: float = 0.0) -> list[Effect]:
        """The hub does not carry the channel, but may before long; its position is kept."""
        channel.move(Move.LOST)
        channel.stale, channel.postponed = False, True
        return [Postponed(channel.name, retry_after)]

    def _end(self, channel: Channel, error: HubError) -> list[Effect]:
        """The subscription is over, though the hub may not know it yet."""
        effects: list[Effect] = [Ended(channel.name, error)] if channel.wanted else []
        channel.wanted = False
        if channel.phase is Phase.SUBSCRIBING:  # refused: there is nothing to leave
            self._channels.pop(channel.name, None)
        return effects + self._advance(channel)

    def _subscribed(self, channel: Channel, result: dict[str, Any]) -> list[Effect]:
        match result:
            case {"epoch": str(epoch), "seq": int(seq)}:
                position = Position(epoch, seq)
            case _:
                raise BadFrame("a subscription without epoch and seq")
        channel.move(Move.SUBSCRIBED)
        channel.joined = True
        if not channel.wanted or channel.stale:
            return self._advance(channel)
        asked = channel.resume_from
        channel.position = position
        present = result.get("presence") if channel.presence else None
        effects: list[Effect] = [Subscribed(channel.name, position, present)]
        snapshot = result.get("snapshot")
        if result.get("recovered") is False and isinstance(snapshot, dict):
            event = Event(channel.name, epoch, seq, 0, SNAPSHOT, snapshot, recovered=True)
            effects.append(Delivered(event))
        elif isinstance(asked, tuple) and position != asked:
            # Neither resumed nor a snapshot: to go on would pass a gap in silence.
            return self._end(channel, ResumeGap("The hub did not resume the position."))
        return effects

    def _left(self, channel: Channel) -> list[Effect]:
        channel.move(Move.LEFT)
        channel.stale = False
        return self._advance(channel)

    def _event(self, event: Event) -> list[Effect]:
        channel = self._channels.get(event.channel)
        if channel is None:
            return []
        verdict = channel.judge(event)
        if verdict is Verdict.NEXT:
            channel.position, channel.resyncs = event.position, 0
            return [Delivered(event)]
        if verdict is Verdict.REPEAT:
            return []
        channel.resyncs += 1
        if channel.resyncs > MAX_RESYNCS:
            return self._end(channel, ResumeGap("The hub's events have a gap that stays."))
        channel.stale = True
        return self._advance(channel)

    def _advance(self, channel: Channel) -> list[Effect]:
        """Do what the channel's phase and wishes ask for next."""
        if channel.phase is Phase.LIVE and (channel.stale or not channel.wanted):
            if self.state is not State.READY:
                return []
            channel.move(Move.LEAVE)
            params: dict[str, Any] = {"channel": channel.name}
            return self._begin("channel.unsubscribe", params, channel)[1]
        if channel.phase is not Phase.DETACHED:
            return []
        if not channel.wanted:
            self._channels.pop(channel.name, None)
            return []
        if self.state is not State.READY or channel.postponed:
            return []
        channel.move(Move.SUBSCRIBE)
        since = channel.resume_from
        params = {"channel": channel.name, "since": _since(since)}
        if channel.presence:
            params["presence"] = True
        return self._begin("channel.subscribe", params, channel)[1]


def _since(since: Since) -> Any:
    return {"epoch": since[0], "seq": since[1]} if isinstance(since, tuple) else since


def _lost(method: str) -> str:
    return f"The connection broke before {method} was answered; whether it was done is unknown"
