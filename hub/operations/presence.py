"""Presence in a channel: who is there, and who types."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import Field
from sqlmodel import col, select

from hub.events.roster import Present
from hub.events.seat import Seat
from hub.faults import Fault
from hub.identity.access.names import name_in
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, Result, operation
from hub.operations.shapes import CHANNEL_PATTERN, Id, fit
from hub.storage.tables import User


class Attendee(Result):
    """A user who is present, however many connections and nodes they are on."""

    user_id: Id
    name: str | None = None
    since: datetime
    typing: bool | None = Field(None, description="True while they type; only told to who sees.")


class Look(Params):
    channel: str = Field(max_length=64, pattern=CHANNEL_PATTERN)


class Typing(Params):
    channel: str = Field(max_length=64, pattern=CHANNEL_PATTERN)
    typing: bool = Field(description="True while you type, false when you do no more.")


class Attendance(Result):
    """Who is present, those who came first before others; the list ends when it is too long."""

    items: list[Attendee]


@operation(
    "channel.presence",
    permission="channel:subscribe",
    kind="read",
    http=Http("GET", "/v1/channels/{channel}/presence"),
    guards=("channel", "channel"),
    faults=("not_found", "permission_denied"),
)
async def look(call: Call, params: Look) -> Attendance:
    """See who is present in a conversation: who follows it with `presence` on some connection.

    `backend_unavailable` means that it is not known now.
    """
    only_conversations(params.channel)
    return Attendance(items=attendees(await call.services.presence.look(params.channel)))


@operation(
    "channel.typing",
    permission="channel:subscribe",
    kind="read",
    guards=("channel", "channel"),
    ordered_by="channel",
    faults=("not_found", "permission_denied", "conflict", "rate_limited"),
)
async def typing(call: Call, params: Typing) -> Done:
    """Tell the others who are present that you type, or do no more.

    It is over 6 seconds after it was last said: repeat it every 3 seconds or so while it lasts.
    What is known already is not passed on. A connection may begin 5 times at once in a channel,
    then once in 2 seconds. Only who follows the channel with `presence` may type there; others get
    `conflict`.
    """
    assert call.connection is not None, "declared for the socket only"
    seat = call.connection.seat(params.channel)
    if seat is None:
        raise Fault("conflict", "Follow the channel with `presence` first.")
    await seat.type(params.typing)
    return Done()


async def take_seat(call: Call, channel: str) -> Seat:
    """The caller's connection is present from now on. Raises Fault backend_unavailable when the
    database is away.
    """
    connection, user_id = call.connection, call.actor.user_id
    assert connection is not None
    called = select(name_in(call.actor.tenant_id)).where(col(User.id) == user_id)
    async with call.services.database.read(call.actor.tenant_id) as session:
        name = (await session.exec(called)).first()
    return await call.services.presence.sit(channel, user_id, name or "", connection)


def only_conversations(channel: str) -> None:
    """Raises Fault invalid_params for a channel that people are not present in."""
    if not channel.startswith("conversation:"):
        raise Fault("invalid_params", "presence: only conversations have it.")


def attendees(found: Sequence[Present]) -> list[Attendee]:
    """As results carry them, as many as fit."""
    items = [
        Attendee(
            user_id=who.member.user_id,
            name=who.member.name or None,
            since=datetime.fromtimestamp(who.member.since / 1000, UTC),
            typing=who.typing or None,
        )
        for who in found
    ]
    return items[: fit(items, lambda item: len(item.encode()))]
