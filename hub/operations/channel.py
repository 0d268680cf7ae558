"""Channels: subscribe, resume, read back."""

from asyncio import gather
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field

from hub.audit.live import NOUN as TRAIL
from hub.backplane.interface import Position
from hub.events.channels import log_of
from hub.events.delivery import Delivery
from hub.events.recovery import acknowledged, resume
from hub.events.span import joined
from hub.faults import Fault
from hub.operations import joining
from hub.operations.call import Call
from hub.operations.operation import SIGNED_IN, Done, Http, Params, Result, operation
from hub.operations.presence import Attendee, attendees, only_conversations, take_seat
from hub.operations.shapes import CHANNEL_PATTERN, MAX_LIMIT, fit
from hub.protocol.limits import MAX_SUBSCRIPTIONS


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
    remember: bool = Field(
        True, description="Whether the connection's persistent session, if any, remembers it."
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
    remember: bool = Field(
        False, description="Whether the persistent session, if any, goes on remembering it."
    )


class ChannelAt(At):
    """The last event of a channel that you have dealt with."""

    channel: str = Field(max_length=64, pattern=CHANNEL_PATTERN)


class Acknowledge(Params):
    channels: list[ChannelAt] = Field(min_length=1, max_length=MAX_SUBSCRIPTIONS)


class Kept(Result):
    """Where a channel goes on when the session comes back."""

    channel: str
    epoch: str
    seq: int


class RefusedPosition(Result):
    """A position that was not taken; ``reason`` is of the fault table."""

    channel: str
    reason: str
    message: str


class Acknowledged(Result):
    """What is kept now, of the channels named; ``refused``: what was not taken, and why."""

    channels: list[Kept]
    refused: list[RefusedPosition] | None = None


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
    noted_of=(TRAIL,),
)
async def subscribe(call: Call, params: Subscribe) -> Subscribed:
    """Follow a channel's events: what was missed since a position, then live, without gap.

    Channels are `conversation:<id>`, `user:<id>` and, with `audit:read`, `audit`, whose followers
    are in the trail themselves. A channel is followed at most once on a connection; unsubscribe
    first to begin again elsewhere. A persistent session remembers it at the position of the reply;
    one that it remembers already stays where it was acknowledged.
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
    services, tenant_id = call.services, call.actor.tenant_id
    await services.audit.followed(params.channel, tenant_id)
    join, snapshot = await joining.begin(
        services.fanout,
        services.transcript,
        connection.reader,
        channel=params.channel,
        tenant_id=tenant_id,
        since=since,
    )
    seat = None
    try:
        if params.presence:
            seat = await take_seat(call, params.channel)
        connection.subscribed(params.channel, join, seat)
    except BaseException:
        join.abandon()
        if seat is not None:
            seat.leave()
        raise
    if params.remember and connection.persistent is not None:
        try:
            await connection.persistent.remember(params.channel, join.position)
        except BaseException:
            connection.unsubscribe(params.channel)
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


@operation("channel.unsubscribe", permission="channel:subscribe", kind="read", ordered_by="channel")
async def unsubscribe(call: Call, params: Unsubscribe) -> Done:
    """Follow a channel no longer. One that is not followed is fine."""
    connection = call.connection
    assert connection is not None, "declared for the socket only"
    if connection.persistent is not None:
        await connection.persistent.leave(params.channel, remember=params.remember)
    connection.unsubscribe(params.channel)
    return Done()


@operation(
    "channel.acknowledge",
    permission=SIGNED_IN,
    kind="write",
    by_key=True,
    faults=("conflict", "rate_limited"),
)
async def acknowledge(call: Call, params: Acknowledge) -> Acknowledged:
    """Say how far you have dealt with the events of channels: there a persistent session goes on.

    Answered once it is durable, for many channels at once: a request a second is plenty. A position
    before the one that is kept changes nothing. What is not taken does not hold up the rest:
    `not_found` (the session does not know the channel), `resume_gap` (of another log than the
    channel's), `invalid_params` (after its newest event).
    """
    assert call.connection is not None, "declared for the socket only"
    session = call.connection.persistent
    if session is None:
        raise Fault("conflict", "No persistent session: name one when you authenticate.")
    # Only what the session knows is looked at: who may not follow a channel learns nothing of it.
    asked = {at.channel: at for at in params.channels}
    known = [channel for channel in asked if session.knows(channel)]
    backplane, tenant_id = call.services.backplane, call.actor.tenant_id
    logs = await gather(*(backplane.read(log_of(channel, tenant_id), 0, 0) for channel in known))
    refused = {channel: Fault("not_found") for channel in asked if channel not in known}
    kept: dict[str, Position] = {}
    for channel, log in zip(known, logs, strict=True):
        at = Position(asked[channel].epoch, asked[channel].seq)
        try:
            if not session.knows(channel):
                raise Fault("not_found")
            kept[channel] = acknowledged(session.channels.get(channel), at, log)
        except Fault as fault:
            refused[channel] = fault
    if kept:
        await session.acknowledge(kept)
    return Acknowledged(
        channels=[
            Kept(channel=channel, epoch=at.epoch, seq=at.seq) for channel, at in kept.items()
        ],
        refused=[
            RefusedPosition(channel=channel, reason=fault.reason, message=fault.message)
            for channel, fault in refused.items()
        ]
        or None,
    )


@operation(
    "channel.history",
    permission="channel:subscribe",
    kind="read",
    http=Http("GET", "/v1/channels/{channel}/history"),
    guards=("channel", "channel"),
    faults=("not_found", "permission_denied", "resume_gap"),
    noted_of=(TRAIL,),
)
async def history(call: Call, params: History) -> Past:
    """Read a channel's log back, oldest first, without following it."""
    tenant_id = call.actor.tenant_id
    await call.services.audit.read_back(params.channel, tenant_id)
    log = log_of(params.channel, tenant_id)
    page = await call.services.backplane.read(log, params.after, params.limit)
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
