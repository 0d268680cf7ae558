"""Messages: send, list."""

from typing import Literal

from pydantic import Field
from sqlalchemy import tuple_
from sqlmodel import col, select

from hub.operations.call import Call
from hub.operations.operation import Http, Params, Result, operation
from hub.operations.shapes import Id, Listing, Message, Page, Text
from hub.storage import tables

_GUARDS = ("conversation", "conversation_id")
_PATH = "/v1/conversations/{conversation_id}/messages"


class Send(Params):
    conversation_id: Id
    client_message_id: Text = Field(
        min_length=1,
        max_length=128,
        description="Your own name for the message: sent again, it gives the same answer and no "
        "second run.",
    )
    content: Text = Field(min_length=1, max_length=60_000)
    model: Text | None = Field(
        None, min_length=1, max_length=200, description="Overrides the conversation's model."
    )
    on_busy: Literal["queue", "reject", "interrupt", "steer"] = Field(
        "queue",
        description="What to do while a run is active: wait (`queue`), refuse (`reject`), cancel "
        "it and keep what it said (`interrupt`), or give it this text at its next step (`steer`).",
    )


class Sent(Result):
    """The message is durable, and this run answers it."""

    message_id: Id
    run_id: Id


class OfConversation(Page):
    conversation_id: Id
    cursor: str | None = Field(
        None,
        max_length=19,
        pattern=r"^[0-9]{1,9}-[0-9]{1,9}$",
        description="`next_cursor` of the page before; none: the first page.",
    )


@operation(
    "message.send",
    permission="message:send",
    kind="write",
    http=Http("POST", _PATH, 202),
    guards=_GUARDS,
    ordered_by="conversation_id",
    faults=("not_found", "permission_denied", "conflict", "conversation_busy", "quota_exceeded"),
    cost=5,
)
async def send(call: Call, params: Send) -> Sent:
    """Send a message; an agent run answers it.

    The reply comes once message and run are durable. The answer itself streams as events on the
    channel `conversation:<id>`.
    """
    sent = await call.services.orchestrator.send(
        call.actor,
        params.conversation_id,
        params.client_message_id,
        params.content,
        model=params.model,
        on_busy=params.on_busy,
    )
    return Sent(message_id=sent.message_id, run_id=sent.run_id)


@operation(
    "message.list",
    permission="message:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=("not_found", "permission_denied"),
)
async def listing(call: Call, params: OfConversation) -> Listing[Message]:
    """List a conversation's messages, the oldest first."""
    place = tuple_(col(tables.Message.turn), col(tables.Message.step))
    statement = (
        select(tables.Message)
        .where(col(tables.Message.conversation_id) == params.conversation_id)
        .order_by(col(tables.Message.turn), col(tables.Message.step))
        .limit(params.limit + 1)
    )
    if params.cursor is not None:
        statement = statement.where(place > _place(params.cursor))
    async with call.services.database.read(call.actor.tenant_id) as session:
        rows = (await session.exec(statement)).all()
    places = {row.id: f"{row.turn}-{row.step}" for row in rows}
    return Listing.page(
        [Message.of(row) for row in rows], params.limit, lambda item: places[item.id]
    )


def _place(cursor: str) -> tuple[int, int]:
    turn, step = cursor.split("-")
    return int(turn), int(step)
