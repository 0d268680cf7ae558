"""The audit trail of one's tenant: look into it, export it, verify it."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from hub.audit.export import FORMATS, lines
from hub.audit.reading import Filters, extent, newest, pages
from hub.audit.trail import record
from hub.audit.verifier import Finding, Known
from hub.operations.call import Call
from hub.operations.operation import Http, Params, Result, Streamed, operation
from hub.operations.shapes import DEFAULT_LIMIT, MAX_LIMIT, Id, Listing, Text

Seq = Annotated[int, Field(ge=1, lt=2**31)]


def _written_out(value: Any) -> Any:
    """An instant as RFC 3339 writes it, and not a number that could be one."""
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise ValueError("not an instant such as 2026-01-31T12:00:00Z")
    return value


_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
Instant = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class Wanted(Params):
    """Which entries: all that is given must be so."""

    actor: Id | None = Field(None, description="Who acted.")
    action: Text | None = Field(
        None, min_length=1, max_length=64, description="What the action begins with: `account.`."
    )
    outcome: Literal["done", "denied", "failed"] | None = None
    resource: Text | None = Field(
        None,
        max_length=233,
        pattern=r"^[a-z_]{1,32}(:.{1,200})?$",
        description="What was acted on: a kind (`user`), or `kind:id`.",
    )
    since: Instant | None = Field(None, description="From this instant on.")
    until: Instant | None = Field(None, description="Before this instant.")

    def filters(self) -> Filters:
        kind, _, id = (self.resource or "").partition(":")
        return Filters(
            actor=self.actor,
            action=self.action,
            outcome=self.outcome,
            resource_kind=kind or None,
            resource_id=id or None,
            since=self.since,
            until=self.until,
        )


class AuditQuery(Wanted):
    cursor: str | None = Field(
        None,
        max_length=10,
        pattern=r"^[1-9][0-9]*$",
        description="`next_cursor` of the page before; none: the first page.",
    )
    limit: int = Field(
        DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Most items that a page may have."
    )


class AuditEntry(Result):
    """An entry: all that its hash is over, and the hash."""

    id: Id
    tenant_id: Id
    seq: int = Field(description="1, 2, 3 … in the tenant, without holes.")
    at: str = Field(
        description="UTC, always with microseconds.", json_schema_extra={"format": "date-time"}
    )
    action: str = Field(description="A method, or a name like one.")
    outcome: Literal["done", "denied", "failed"]
    actor_id: str | None = Field(None, description="Absent: the hub itself, or nobody known.")
    session_id: str | None = None
    resource_kind: str | None = None
    resource_id: str | None = None
    transport: str = Field(description="`websocket`, `rest`, `cli`, or `hub` for the hub itself.")
    address: str | None = None
    trace_id: str | None = None
    details: dict[str, Any]
    previous_hash: str
    hash: str


class Export(Wanted):
    format: Literal["jsonl", "csv"] = Field("jsonl", description="JSON Lines, or CSV.")


class Exported(Streamed):
    """Entries, the oldest first."""

    media: ClassVar[tuple[str, ...]] = tuple(FORMATS.values())


class Verify(Params):
    after: Seq | None = Field(
        None, description="Go on after this entry, `last` of a reply that was not complete."
    )
    known: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]{0,9}:[0-9a-f]{64}$",
        description="An entry that you have seen before, and its hash then: `seq:hash`.",
    )


class AuditFinding(Result):
    """Something that is wrong with the entries from `seq` to `last`."""

    kind: Literal[
        "edited", "removed", "inserted", "moved", "rewritten", "cut", "head", "unproven"
    ] = Field(
        description="`rewritten`, `cut`: beside what you know. `unproven`: pruned, and by nobody "
        "who is trusted."
    )
    seq: int
    last: int
    entry_id: str | None = None
    was: int | None = Field(None, description="Where a moved entry stood.")
    message: str

    @classmethod
    def of(cls, finding: Finding) -> "AuditFinding":
        return cls(
            kind=finding.kind,
            seq=finding.seq,
            last=finding.last,
            entry_id=finding.entry_id,
            was=finding.was,
            message=f"{finding}.".capitalize(),
        )


class Verified(Result):
    """What was found. Keep `last` and `hash`: they are the `known` of a later time."""

    ok: bool
    complete: bool = Field(description="False: it took too long; go on with `after: last`.")
    entries: int = Field(description="How many were looked at,")
    first: int = Field(description="from this one")
    last: int = Field(description="to this one,")
    hash: str = Field(description="which has this hash.")
    found: int = Field(description="How many findings there are, of which some are in the list.")
    findings: list[AuditFinding]


@operation(
    "audit.query",
    permission="audit:read",
    kind="read",
    http=Http("GET", "/v1/audit"),
    faults=("permission_denied",),
    audited=True,
)
async def query(call: Call, params: AuditQuery) -> Listing[AuditEntry]:
    """Look into the tenant's audit trail, the newest entries first.

    That it was looked into is an entry of the trail itself, once an hour of each session.
    """
    found = await newest(
        call.services.database,
        call.actor.tenant_id,
        params.filters(),
        before=None if params.cursor is None else int(params.cursor),
        limit=params.limit + 1,
    )
    await call.services.audit.looked(call.actor.tenant_id)
    entries = [AuditEntry.model_validate(entry) for entry in found]
    return Listing.page(entries, params.limit, lambda entry: str(entry.seq))


@operation(
    "audit.verify",
    permission="audit:verify",
    kind="read",
    http=Http("GET", "/v1/audit/verify"),
    faults=("permission_denied", "conflict"),
    audited=True,
)
async def verify(call: Call, params: Verify) -> Verified:
    """Verify the tenant's audit trail: name what was edited, removed, inserted or moved.

    Give what you know of it from before, and a chain that was cut off or rewritten shows too. A
    long one is verified in parts. That it was verified is an entry of the trail itself, after those
    that were, once an hour of each session, and again when it is found to be otherwise.
    """
    known = []
    if params.known is not None:
        seq, _, hash = params.known.partition(":")
        known.append(Known(int(seq), hash))
    found = await call.services.audit.verify(
        call.actor.tenant_id, after=params.after or 0, known=known
    )
    report = found.report
    await call.services.audit.verified(call.actor.tenant_id, report)
    return Verified(
        ok=report.ok,
        complete=found.complete,
        entries=report.entries,
        first=report.first,
        last=report.last,
        hash=report.hash,
        found=report.found,
        findings=[AuditFinding.of(finding) for finding in report.findings],
    )


@operation(
    "audit.export",
    permission="audit:export",
    kind="read",
    http=Http("GET", "/v1/audit/export"),
    socket=False,
    faults=("permission_denied",),
    audited=True,
)
async def export(call: Call, params: Export) -> Exported:
    """Export the tenant's audit trail, or a part of it, the oldest entries first.

    As JSON Lines each line is an entry, exactly what its hash is over, and the hash. In CSV a cell
    that a spreadsheet would take for a formula begins with an apostrophe. That it was exported is
    an entry of the trail itself.
    """
    services, tenant_id = call.services, call.actor.tenant_id
    asked = params.model_dump(mode="json", exclude_none=True)
    async with services.database.write(tenant_id) as session:
        await record(session, tenant_id, "audit.export", details=asked)
    reach = await extent(services.database, tenant_id)
    through = reach.head.seq if reach.head is not None else reach.last

    async def chunks() -> AsyncIterator[bytes]:
        read = pages(services.database, tenant_id, params.filters(), through=through)
        async for chunk in lines(params.format, read):
            yield chunk

    return Exported.of(FORMATS[params.format], f"audit.{params.format}", chunks())
