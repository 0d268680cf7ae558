"""The session: requests, replies and subscriptions over a socket that comes and goes. Pure.

The IO part tells it what happened (``opened``, ``received``, ``lost``, ``closed``) and what is
wanted (``call``, ``want``, ``unwant``); each answers with effects for the IO part to carry out, in
order. It knows nothing of sockets, tasks or time.
"""

from collections.abc import Mapping
from typing import Any

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
    Resuming,
    Send,
    Subscribed,
)
from hub_client.events import SNAPSHOT, Event, Position, Since
from hub_client.faults import (
    BadFrame,
    ConnectionClosed,
    Fault,
    HubError,
    ResumeGap,
    SubscriptionEnded,
    fault_from,
    fault_of,
)
from hub_client.frames import Aside, ErrorReply, Notice, Reply, Request, decode, encode_error
from hub_client.requests import Requests
from hub_client.state import TABLE, Input, State


class Session:
    """One client's session with the hub across any number of sockets. ``persistent``: the hub
    remembers what is wanted with ``remember``.
    """

    def __init__(self, *, persistent: bool = False) -> None:
        self._persistent = persistent
        self._disowned: set[str] = set()
        self.state = State.OFFLINE
        self._requests = Requests()
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
                return self._reply(id, result) + self._send()
            case ErrorReply(id, error):
                return self._refusal(id, fault_from(error)) + self._send()
            case Notice(method, params):
                return self._notice(method, params)
            case Request(id, method, _):
                message = f"This client does not offer {method}."
                return [Send(encode_error(id, -32601, "method_not_found", message))]

    def lost(self, error: ConnectionClosed) -> list[Effect]:
        """The socket is gone and another will come. Requests that are safe to repeat wait."""
        self._move(Input.LOST)
        effects = self._requests.lost(error)
        for channel in list(self._channels.values()):
            channel.move(Move.LOST)
            channel.stale = channel.postponed = False
            self._advance(channel)
        return effects

    def closed(self, error: HubError) -> list[Effect]:
        """No socket will come any more. Everything that waits fails with ``error``."""
        self._move(Input.CLOSED)
        self._error = error
        channels, self._channels = self._channels, {}
        effects = self._requests.closed(error)
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
        return self._requests.waiting

    def forget(self, id: int) -> None:
        """Nobody waits for this request any more; its reply is ignored."""
        self._requests.forget(id)

    def want(
        self, name: str, since: Since, *, presence: bool = False, remember: bool = False
    ) -> list[Effect]:
        """Subscribe; answers with ``Subscribed`` when it is there. Once per channel."""
        if self.state is State.CLOSED:
            raise self._error.with_traceback(None)  # or it would grow with every call
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, since)
        elif not channel.wanted:  # it is being left; come back afterwards
            channel.wanted, channel.since, channel.position = True, since, None
            channel.stale = channel.phase in (Phase.RESUMING, Phase.SUBSCRIBING, Phase.LIVE)
        channel.presence = presence
        channel.remember |= remember
        self._disowned.discard(name)
        return self._advance(channel)

    def attend(self, name: str, presence: bool) -> list[Effect]:
        """Follow a channel that is wanted with presence, or without, from where it stands."""
        channel = self._channels.get(name)
        if channel is None or channel.presence == presence:
            return []
        channel.presence = presence
        channel.stale = channel.phase in (Phase.RESUMING, Phase.SUBSCRIBING, Phase.LIVE)
        return self._advance(channel)

    def remember(self, name: str) -> None:
        """Let the persistent session remember a channel that is wanted already."""
        self._channels[name].remember = True
        self._disowned.discard(name)

    def disown(self, name: str) -> None:
        """The channel is not to come back by itself any more."""
        self._disowned.add(name)
        if name in self._channels:
            self._channels[name].remember = False

    def restart(self, name: str, since: Since) -> list[Effect]:
        """Leave the channel and subscribe again from elsewhere."""
        channel = self._channels.get(name)
        if channel is None:
            return []
        channel.since, channel.position = since, None
        channel.stale = channel.phase in (Phase.RESUMING, Phase.SUBSCRIBING, Phase.LIVE)
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
        self.state = TABLE[self.state, what]

    def _begin(
        self, method: str, params: Mapping[str, Any], channel: Channel | None = None
    ) -> tuple[int, list[Effect]]:
        if self.state is State.CLOSED:
            raise self._error.with_traceback(None)  # or it would grow with every call
        id = self._requests.begin(method, params, channel)
        return id, self._send()

    def _send(self) -> list[Effect]:
        return self._requests.send() if self.state is State.READY else []

    def _notice(self, method: str, params: Mapping[str, Any]) -> list[Effect]:
        effects: list[Effect] = [Noticed(method, params)]
        if method == "session.ready":
            if self.state is not State.OPENING:
                raise BadFrame("session.ready came twice")
            self._move(Input.AUTHENTICATED)
            effects += self._resuming(params.get("channels", ()))
            held = self._requests.hold()
            for channel in list(self._channels.values()):
                effects += self._advance(channel)
            self._requests.unhold(held)
            effects += self._send()
        elif method == "subscription.resumed":
            effects += self._resumed(params)
        elif method == "subscription.ended":
            effects += self._subscription_ended(params)
        return effects

    def _resuming(self, remembered: Any) -> list[Effect]:
        """The hub follows again, by itself, what the persistent session remembers."""
        effects: list[Effect] = []
        for item in remembered:
            match item:
                case {"channel": str(name), "epoch": str(epoch), "seq": int(seq)}:
                    at = Position(epoch, seq)
                case _:
                    raise BadFrame("a session that remembers what is no position")
            if name in self._disowned:
                continue
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = Channel(name, at, remember=True)
                effects.append(Resuming(name, at))
            channel.move(Move.RESUME)
            # The hub brings it back without presence: come again with it, from the position.
            channel.stale = channel.stale or channel.presence
        return effects

    def _resumed(self, params: Mapping[str, Any]) -> list[Effect]:
        """A channel is back where it was acknowledged, which may be before what we have of it."""
        channel = self._channels.get(str(params.get("channel")))
        if channel is None or channel.phase is not Phase.RESUMING:
            return []
        ours = channel.resume_from
        match params:
            case {"epoch": str(epoch), "seq": int(seq)} if params.get("recovered") is not False:
                at = Position(epoch, seq)
            case _:  # a snapshot, which stands for all that we have
                return self._subscribed(channel, dict(params))
        if ours is None or ours == at:
            return self._subscribed(channel, dict(params))
        channel.move(Move.SUBSCRIBED)
        channel.joined = True
        ahead = isinstance(ours, tuple) and ours[0] == epoch and ours[1] > seq
        if not ahead or channel.stale or not channel.wanted:
            channel.stale = True
            return self._advance(channel)
        channel.position = Position(*ours)  # what comes again until there is dropped
        return [Subscribed(channel.name, channel.position)]

    def _subscription_ended(self, params: Mapping[str, Any]) -> list[Effect]:
        name = str(params.get("channel"))
        channel = self._channels.get(name)
        following = (Phase.RESUMING, Phase.LIVE)
        if channel is None or not channel.wanted or channel.phase not in following:
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
        pending = self._requests.answered(id)
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
        pending = self._requests.answered(id)
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
        following = channel.phase in (Phase.RESUMING, Phase.LIVE)
        if following and (channel.stale or not channel.wanted):
            if self.state is not State.READY:
                return []
            channel.move(Move.LEAVE)
            params: dict[str, Any] = {"channel": channel.name, **self._remembering(channel)}
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
        params = {"channel": channel.name, "since": _since(since), **self._remembering(channel)}
        if channel.presence:
            params["presence"] = True
        return self._begin("channel.subscribe", params, channel)[1]

    def _remembering(self, channel: Channel) -> dict[str, Any]:
        return {"remember": channel.remember} if self._persistent else {}


def _since(since: Since) -> Any:
    return {"epoch": since[0], "seq": since[1]} if isinstance(since, tuple) else since
