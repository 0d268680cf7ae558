"""Channels: subscribe, resume, read back."""

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field

from hub.backplane.interface import Position
from hub.events.delivery import Delivery
from hub.events.recovery import resume
from hub.events.span import joined
from hub.faults import Fault
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.presence import Attendee, attendees, only_conversations, take_seat
from hub.operations.shapes import CHANNEL_PATTERN, MAX_LIMIT, fit


class At(Params):
    """A position in a channel's log."""

    epoch: str = Field(max_length=64)
    seq: int = Field(ge=0, lt=2**53)


class Subscribe(Params):
    channel: str = Field(max_length=64, pattern=CHANNEL_PATTERN)
    since: At | Literal["start"] | None = Field(
        None, description="From now on (none), from the `start`, or after a position."
    )
    presence: bool = Field(
        False,
        description="Be seen by the others who are present in this conversation, and see them: the "
        "reply has who is there, and events `presence.joined`, `presence.left` and "
        "`presence.typing` follow, outside the log and at no position.",
    )


class Subscribed(Result):
    """Where you are once you have processed this; missed events follow, then live ones.

    With ``recovered: false`` the log could not continue ``since``: start again from ``snapshot``,
    which is the state at this position.
    """

    channel: str
    epoch: str
    seq: int
    recovered: bool
    snapshot: Mapping[str, Any] | None = None
    presence: list[Attendee] | None = Field(
        None, description="Who is there, oneself included, if it was asked for."
    )


class Unsubscribe(Params):
    channel: str = Field(max_length=64, pattern=CHANNEL_PATTERN)


class History(Params):
    channel: str = Field(max_length=64, pattern=CHANNEL_PATTERN)
    after: int = Field(0, ge=0, lt=2**53, description="Events after this `seq`.")
    limit: int = Field(100, ge=1, le=MAX_LIMIT)


class PastEvent(Result):
    """``span``: the event stands for so many positions, which end at ``seq``; left out, for one."""

    seq: int
    span: int | None = None
    event: Mapping[str, Any]


class Past(Result):
    """Events of the log, deltas of one message joined; fewer than asked for when they are long.

    ``first`` and ``last`` tell what the log holds.
    """

    epoch: str
    first: int
    last: int
    items: list[PastEvent]


@operation(
    "channel.subscribe",
    permission="channel:subscribe",
    kind="read",
    guards=("channel", "channel"),
    ordered_by="channel",
    faults=("not_found", "permission_denied", "conflict", "rate_limited"),
)
async def subscribe(call: Call, params: Subscribe) -> Subscribed:
    """Follow a channel's events: what was missed since a position, then live, without gap.

    Channels are `conversation:<id>` and `user:<id>`. A channel is followed at most once on a
    connection; unsubscribe first to begin again elsewhere.
    """
    connection = call.connection
    assert connection is not None, "declared for the socket only"
    if params.presence:
        only_conversations(params.channel)
    since = (
        Position(*params.since.model_dump().values())
        if isinstance(params.since, At)
        else (params.since)
    )
    fanout = call.services.fanout
    join = await fanout.join(params.channel, connection.reader, since)
    seat = None
    try:
        snapshot = None
        if not join.recovered:
            join.position, snapshot = await _snapshot(call, params.channel, join.position)
        if params.presence:
            seat = await take_seat(call, params.channel)
        connection.subscribed(params.channel, join, seat)
    except BaseException:
        join.abandon()
        if seat is not None:
            seat.leave()
        raise
    call.after_reply(lambda: connection.follow(params.channel, join))
    return Subscribed(
        channel=params.channel,
        epoch=join.position.epoch,
        seq=join.position.seq,
        recovered=join.recovered,
        snapshot=snapshot,
        presence=None if seat is None else attendees(seat.present()),
    )


async def _snapshot(
    call: Call, channel: str, at: Position
) -> tuple[Position, Mapping[str, Any] | None]:
    kind, _, identifier = channel.partition(":")
    if kind != "conversation":
        return at, None
    taken = await call.services.transcript.snapshot(call.actor.tenant_id, identifier)
    return taken.position, taken.event


@operation("channel.unsubscribe", permission="channel:subscribe", kind="read", ordered_by="channel")
async def unsubscribe(call: Call, params: Unsubscribe) -> Done:
    """Follow a channel no longer. One that is not followed is fine."""
    assert call.connection is not None
    call.connection.unsubscribe(params.channel)
    return Done()


@operation(
    "channel.history",
    permission="channel:subscribe",
    kind="read",
    http=Http("GET", "/v1/channels/{channel}/history"),
    guards=("channel", "channel"),
    faults=("not_found", "permission_denied", "resume_gap"),
)
async def history(call: Call, params: History) -> Past:
    """Read a channel's log back, oldest first, without following it."""
    page = await call.services.backplane.read(params.channel, params.after, params.limit)
    if params.after and resume(Position(page.epoch, params.after), page) is None:
        raise Fault("resume_gap")
    entries = page.entries[: fit(page.entries, lambda entry: len(entry.data))]
    return Past(
        epoch=page.epoch,
        first=page.first,
        last=page.last,
        items=[
            PastEvent(
                seq=delivery.seq,
                span=delivery.span if delivery.span > 1 else None,
                event=orjson.loads(delivery.event),
            )
            for delivery in joined(
                [Delivery(params.channel, page.epoch, entry.seq, entry.data) for entry in entries]
            )
        ],
    )
