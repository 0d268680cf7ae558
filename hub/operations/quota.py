"""Quotas: set, and where they stand."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from sqlmodel import col, select

from hub.faults import Fault
from hub.limits.ledger import QuotaName
from hub.limits.setting import Standing, Subject, set_quota, standings
from hub.limits.terms import MOST
from hub.operations.call import Call
from hub.operations.operation import Http, Params, Result, operation
from hub.operations.shapes import Listing, Page
from hub.operations.subjects import SubjectName, subject_of
from hub.storage import tables
from hub.telemetry.logs import log_failure

_PATH = "/v1/quotas/{subject}"


def _number(value: object) -> object:
    if isinstance(value, bool | str):  # which would be taken for one
        raise ValueError("write a whole number")
    return value


Limit = Annotated[int, Field(ge=0, le=MOST), BeforeValidator(_number)]


class OfSubject(Params):
    subject: SubjectName


class Set(OfSubject):
    quota: QuotaName = Field(
        description="What to limit: messages accepted, runs that wait or run at once, tokens of "
        "prompts and answers, or money in millionths of the currency, in a day or month of UTC."
    )
    limit: Limit | None = Field(None, description="0: no limit. Null: the hub's default again.")


class QuotaStanding(Result):
    """A quota that limits, and where it stands now."""

    quota: QuotaName
    limit: int
    source: Literal["set", "operator", "default"] = Field(
        description="Set in the tenant, by the hub's operator for it, or the hub's default."
    )
    used: int
    reserved: int = Field(description="Spoken for by runs that have not ended.")
    remaining: int
    resets_at: datetime | None = Field(None, description="When it begins anew; none for `runs`.")

    @classmethod
    def of(cls, standing: Standing) -> "QuotaStanding":
        return cls(
            quota=standing.name,
            limit=standing.limit,
            source=standing.source,
            used=standing.used,
            reserved=standing.reserved,
            remaining=standing.remaining,
            resets_at=standing.resets_at,
        )


class Quotas(Result):
    """The quotas of one subject that limit it."""

    subject: str
    currency: str = Field(description="Of budgets, which are in millionths of it.")
    quotas: list[QuotaStanding]


class QuotaSet(Result):
    """A quota that was set in the tenant, or for it."""

    subject: str
    quota: QuotaName
    limit: int = Field(description="0: no limit.")
    source: Literal["set", "operator"]
    set_at: datetime

    @classmethod
    def of(cls, row: tables.Quota) -> "QuotaSet":
        kind, id = row.subject_kind, row.subject_id
        return cls.model_validate(
            {
                "subject": kind if kind == "tenant" else f"{kind}:{id}",
                "quota": row.name,
                "limit": row.amount,
                "source": "operator" if row.by_operator else "set",
                "set_at": row.set_at,
            }
        )


@operation(
    "quota.get",
    permission="quota:read",
    kind="read",
    http=Http("GET", _PATH),
    guards=("quota", "subject"),
    faults=("not_found", "permission_denied"),
)
async def get(call: Call, params: OfSubject) -> Quotas:
    """Read the quotas of a subject: what limits it, and where that stands.

    Where the tenant as a whole and others stand is told to who holds `quota:read:any`.
    """
    return await _read(call, subject_of(params.subject, call.actor))


async def _read(call: Call, subject: Subject) -> Quotas:
    services = call.services
    async with services.database.read(subject.tenant_id) as session:
        found = await standings(session, services.quotas.terms, subject)
    return Quotas(
        subject=str(subject),
        currency=services.settings.currency,
        quotas=[QuotaStanding.of(standing) for standing in found],
    )


@operation(
    "quota.list",
    permission="quota:read:any",
    kind="read",
    http=Http("GET", "/v1/quotas"),
    faults=("permission_denied",),
)
async def listing(call: Call, params: Page) -> Listing[QuotaSet]:
    """List the quotas that were set in the tenant. The hub's defaults are not among them."""
    statement = (
        select(tables.Quota)
        .where(col(tables.Quota.amount).is_not(None))
        .order_by(col(tables.Quota.id))
        .limit(params.limit + 1)
    )
    if params.cursor is not None:
        statement = statement.where(col(tables.Quota.id) > _id(params.cursor, call))
    async with call.services.database.read(call.actor.tenant_id) as session:
        rows = (await session.exec(statement)).all()
    return Listing.page(
        [QuotaSet.of(row) for row in rows],
        params.limit,
        lambda item: f"{item.subject}/{item.quota}",
    )


def _id(cursor: str, call: Call) -> str:
    subject, _, name = cursor.partition("/")
    if subject == "tenant":
        subject = f"tenant:{call.actor.tenant_id}"
    return f"{call.actor.tenant_id}/{subject}/{name}"


@operation(
    "quota.set",
    permission="quota:set",
    kind="write",
    http=Http("POST", _PATH),
    guards=("limited", "subject"),
    ordered_by="subject",
    faults=("not_found", "permission_denied"),
)
async def set_one(call: Call, params: Set) -> Quotas:
    """Set a quota of a user or of the tenant; it acts on the next message, on every node.

    Owners set any in their tenant; others those of users who stand below them. What the hub's
    operator has set for a tenant, and more than the operator's default for tenants, is not for
    the tenant to set. Runs under way go on.
    """
    services, subject = call.services, subject_of(params.subject, call.actor)
    async with services.database.write(subject.tenant_id) as session:
        await set_quota(
            session,
            services.quotas.terms,
            subject,
            params.quota,
            params.limit,
            by=call.actor,
        )
    try:
        await services.quotas.changed(subject.tenant_id)
    except Fault as fault:
        log_failure(fault)  # it is set all the same; other nodes find out
    return await _read(call, subject)
