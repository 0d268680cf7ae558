"""Conversations."""

from typing import Any

from pydantic import Field
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.agents.erasure import delete_conversation
from hub.audit.trail import record
from hub.faults import Fault
from hub.ids import new_id
from hub.operations.call import Call
from hub.operations.grants import KIND, reaching
from hub.operations.operation import Done, Http, Params, operation
from hub.operations.shapes import Conversation, Id, Listing, PageById, Text
from hub.rbac.actor import Actor
from hub.rbac.sharing import Granted, strongest
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


class Which(PageById):
    shared: bool = Field(
        False,
        description="Those that others share with you or a group that you are in, instead of your "
        "own.",
    )


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
    return Conversation.of(row, call.actor.user_id)


@operation(
    "conversation.list",
    permission="conversation:read",
    kind="read",
    http=Http("GET", "/v1/conversations"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: Which) -> Listing[Conversation]:
    """List your own conversations, the newest first; or those that are shared with you.

    One that is shared with you and with groups of yours is listed once, by the strongest.
    """
    find = _shared_with if params.shared else _owned_by
    async with call.services.database.read(call.actor.tenant_id) as session:
        found = await find(session, call.actor, params)
    items = [Conversation.of(row, call.actor.user_id, granted) for row, granted in found]
    return Listing.page(items, params.limit, lambda item: item.id)


_Found = list[tuple[tables.Conversation, Granted | None]]


async def _owned_by(session: AsyncSession, actor: Actor, params: Which) -> _Found:
    own = select(tables.Conversation).where(col(tables.Conversation.owner_id) == actor.user_id)
    return [(row, None) for row in (await session.exec(_paged(own, params))).all()]


async def _shared_with(session: AsyncSession, actor: Actor, params: Which) -> _Found:
    """Each once, however often it is granted to them."""
    reaches = reaching(actor)
    of = col(tables.Grant.resource_id) == col(tables.Conversation.id)
    page = _paged(
        select(tables.Conversation.id)
        .join(tables.Grant, of)
        .where(reaches, col(tables.Conversation.owner_id) != actor.user_id)
        .distinct(),
        params,
    ).subquery()
    statement: Any = select(tables.Conversation, tables.Grant.access, tables.Grant.expires_at)
    statement = (
        statement.join(page, page.c.id == col(tables.Conversation.id))
        .join(tables.Grant, of)
        .where(reaches)
        .order_by(col(tables.Conversation.id).desc())
    )
    found: dict[str, tuple[tables.Conversation, list[Granted]]] = {}
    for row, access, expires_at in (await session.exec(statement)).all():
        found.setdefault(row.id, (row, []))[1].append(Granted(access, expires_at))
    return [(row, strongest(granted)) for row, granted in found.values()]


def _paged(statement: Any, params: Which) -> Any:
    """The newest first, one more than are asked for."""
    if params.cursor is not None:
        statement = statement.where(col(tables.Conversation.id) < params.cursor)
    return statement.order_by(col(tables.Conversation.id).desc()).limit(params.limit + 1)


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
    granted = await _granted(call, params.conversation_id)
    async with call.services.database.read(call.actor.tenant_id) as session:
        row = await session.get(tables.Conversation, params.conversation_id)
    if row is None:
        raise Fault("not_found")
    return Conversation.of(row, call.actor.user_id, granted)


async def _granted(call: Call, conversation_id: str) -> Granted | None:
    """What the caller, who may see it, was granted on it. Raises Fault not_found."""
    place = await call.services.resources.find(KIND, conversation_id, call.actor)
    return strongest(place.granted)


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
    granted = await _granted(call, params.conversation_id)
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
    return Conversation.of(row, call.actor.user_id, granted)


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
    """Delete a conversation with its messages and runs, for good. What they used stays used.

    While a run is active there it is answered `conversation_busy`: cancel the run first.
    """
    tenant_id, conversation_id = call.actor.tenant_id, params.conversation_id
    async with call.services.database.write(tenant_id) as session:
        owner_id = await delete_conversation(session, conversation_id)
        await record(
            session,
            tenant_id,
            "conversation.delete",
            resource=("conversation", conversation_id),
            details={"owner": owner_id},
        )
    try:
        await call.services.resources.gone(conversation_id, tenant_id)
        # What was said is in the log too.
        await call.services.backplane.discard(f"conversation:{conversation_id}")
    except Fault as fault:
        log_failure(fault)  # it is deleted all the same; other nodes find out
    return Done()
