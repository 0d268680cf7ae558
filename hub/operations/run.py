"""Runs: look, cancel."""

from pydantic import Field
from sqlmodel import col, select

from hub.agents.tally import summed
from hub.faults import Fault
from hub.operations.call import Call
from hub.operations.operation import Http, Params, operation
from hub.operations.shapes import Id, Listing, PageById, Run
from hub.storage import tables

_FAULTS = ("not_found", "permission_denied")


class Named(Params):
    run_id: Id


class OfConversation(PageById):
    conversation_id: Id = Field(description="The conversation whose runs to list.")


@operation(
    "run.get",
    permission="run:read",
    kind="read",
    http=Http("GET", "/v1/runs/{run_id}"),
    guards=("run", "run_id"),
    faults=_FAULTS,
)
async def get(call: Call, params: Named) -> Run:
    """Read a run: its status, and what it has used so far."""
    return await _read(call, params.run_id)


async def _read(call: Call, run_id: str) -> Run:
    async with call.services.database.read(call.actor.tenant_id) as session:
        row = await session.get(tables.Run, run_id)
        used = select(tables.Usage).where(col(tables.Usage.run_id) == run_id)
        usage = (await session.exec(used.order_by(col(tables.Usage.id)))).all()
    if row is None:
        raise Fault("not_found")
    return Run.of(row, summed(usage))


@operation(
    "run.list",
    permission="run:read",
    kind="read",
    http=Http("GET", "/v1/conversations/{conversation_id}/runs"),
    guards=("conversation", "conversation_id"),
    faults=_FAULTS,
)
async def listing(call: Call, params: OfConversation) -> Listing[Run]:
    """List a conversation's runs, the newest first."""
    statement = (
        select(tables.Run)
        .where(col(tables.Run.conversation_id) == params.conversation_id)
        .order_by(col(tables.Run.id).desc())
        .limit(params.limit + 1)
    )
    if params.cursor is not None:
        statement = statement.where(col(tables.Run.id) < params.cursor)
    async with call.services.database.read(call.actor.tenant_id) as session:
        rows = (await session.exec(statement)).all()
    return Listing.page([Run.of(row) for row in rows], params.limit, lambda item: item.id)


@operation(
    "run.cancel",
    permission="run:cancel",
    kind="write",
    http=Http("POST", "/v1/runs/{run_id}/cancel"),
    guards=("run", "run_id"),
    faults=_FAULTS,
)
async def cancel(call: Call, params: Named) -> Run:
    """Cancel a run; what it has said so far is kept.

    The model stops within a second, and `RUN_FINISHED` with outcome `cancelled` follows on the
    conversation's channel. A run that has ended is left as it is.
    """
    await call.services.orchestrator.cancel(call.actor.tenant_id, params.run_id)
    return await _read(call, params.run_id)
