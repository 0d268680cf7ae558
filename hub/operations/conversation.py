"""Conversations."""

from pydantic import Field
from sqlmodel import col, select

from hub.agents.erasure import delete_conversation
from hub.faults import Fault
from hub.ids import new_id
from hub.operations.call import Call
from hub.operations.operation import Done, Http, Params, operation
from hub.operations.shapes import Conversation, Id, Listing, PageById, Text
from hub.storage import tables
from hub.telemetry.logs import log_failure

_GUARDS = ("conversation", "conversation_id")
_FAULTS = ("not_found", "permission_denied")
_PATH = "/v1/conversations/{conversation_id}"


class Create(Params):
    title: Text | None = Field(None, min_length=1, max_length=200)
    model: Text | None = Field(
        None, min_length=1, max_length=200, description="The model of its runs."
    )
    instructions: Text | None = Field(
        None, max_length=32_000, description="The system message of its runs."
    )


class Named(Params):
    conversation_id: Id


class Update(Create, Named):
    """What is left out stays as it is; null takes it away."""


@operation(
    "conversation.create",
    permission="conversation:create",
    kind="write",
    http=Http("POST", "/v1/conversations", 201),
    faults=("permission_denied",),
)
async def create(call: Call, params: Create) -> Conversation:
    """Begin a conversation."""
    row = tables.Conversation(
        id=new_id("c"),
        tenant_id=call.actor.tenant_id,
        owner_id=call.actor.user_id,
        **params.model_dump(),
    )
    async with call.services.database.write(call.actor.tenant_id) as session:
        session.add(row)
    return Conversation.of(row)


@operation(
    "conversation.list",
    permission="conversation:read",
    kind="read",
    http=Http("GET", "/v1/conversations"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: PageById) -> Listing[Conversation]:
    """List your own conversations, the newest first."""
    statement = (
        select(tables.Conversation)
        .where(col(tables.Conversation.owner_id) == call.actor.user_id)
        .order_by(col(tables.Conversation.id).desc())
        .limit(params.limit + 1)
    )
    if params.cursor is not None:
        statement = statement.where(col(tables.Conversation.id) < params.cursor)
    async with call.services.database.read(call.actor.tenant_id) as session:
        rows = (await session.exec(statement)).all()
    return Listing.page([Conversation.of(row) for row in rows], params.limit, lambda item: item.id)


@operation(
    "conversation.get",
    permission="conversation:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=_GUARDS,
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> Conversation:
    """Read a conversation."""
    async with call.services.database.read(call.actor.tenant_id) as session:
        row = await session.get(tables.Conversation, params.conversation_id)
    if row is None:
        raise Fault("not_found")
    return Conversation.of(row)


@operation(
    "conversation.update",
    permission="conversation:write",
    kind="write",
    http=Http("PATCH", _PATH),
    guards=_GUARDS,
    ordered_by="conversation_id",
    faults=_FAULTS,
)
async def update(call: Call, params: Update) -> Conversation:
    """Change a conversation's title, model or instructions."""
    async with call.services.database.write(call.actor.tenant_id) as session:
        row = await session.get(tables.Conversation, params.conversation_id)
        if row is None:
            raise Fault("not_found")
        changes = params.model_dump(exclude={"conversation_id"}, exclude_unset=True)
        for name, value in changes.items():
            setattr(row, name, value)
        if changes:
            row.updated_at = tables.now()
            session.add(row)
    return Conversation.of(row)


@operation(
    "conversation.delete",
    permission="conversation:delete",
    kind="write",
    http=Http("DELETE", _PATH),
    guards=_GUARDS,
    ordered_by="conversation_id",
    faults=(*_FAULTS, "conversation_busy"),
)
async def delete(call: Call, params: Named) -> Done:
    """Delete a conversation with its messages and runs, for good.

    While a run is active there it is answered `conversation_busy`: cancel the run first.
    """
    tenant_id, conversation_id = call.actor.tenant_id, params.conversation_id
    async with call.services.database.write(tenant_id) as session:
        await delete_conversation(session, conversation_id)
    try:
        await call.services.resources.gone(conversation_id, tenant_id)
        # What was said is in the log too.
        await call.services.backplane.discard(f"conversation:{conversation_id}")
    except Fault as fault:
        log_failure(fault)  # it is deleted all the same; other nodes find out
    return Done()
