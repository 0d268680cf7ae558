"""Usage: what runs have used, and what it cost."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from hub.faults import Fault
from hub.limits import usage
from hub.operations.call import Call
from hub.operations.operation import Http, Result, operation
from hub.operations.shapes import Page
from hub.operations.subjects import SubjectName, subject_of

MOST_DAYS: Final = 400
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _written_out(value: object) -> object:
    # Else a number would be taken for seconds since 1970.
    if value is not None and not _DAY.fullmatch(str(value)):
        raise ValueError("write a day as YYYY-MM-DD")
    return value


Day = Annotated[date, BeforeValidator(_written_out)]


class Asked(Page):
    subject: SubjectName = "me"
    by: usage.By = Field(
        "day", description="What to sum by; by `key` there is only what API keys have asked for."
    )
    first_day: Day | None = Field(
        None, description="The first day, of UTC. Default: the first of the last day's month."
    )
    last_day: Day | None = Field(None, description="The last day, included. Default: today.")


class UsageSum(Result):
    """What was used."""

    runs: int = Field(description="Runs that have used a model.")
    input_tokens: int
    output_tokens: int
    cost: int = Field(description="In millionths of the currency.")


class UsageItem(UsageSum):
    """What was used of one day, model, user or API key: the one that was asked for."""

    day: date | None = None
    model: str | None = None
    user_id: str | None = None
    key_id: str | None = None


class UsageReport(Result):
    """A page of sums, in the order of what they are summed by."""

    subject: str
    first_day: date
    last_day: date
    currency: str
    total: UsageSum = Field(description="Of all pages.")
    items: list[UsageItem]
    next_cursor: str | None = Field(None, description="The next page's; absent on the last one.")


@operation(
    "usage.get",
    permission="usage:read",
    kind="read",
    http=Http("GET", "/v1/usage"),
    guards=("usage", "subject"),
    faults=("not_found", "permission_denied"),
)
async def get(call: Call, params: Asked) -> UsageReport:
    """Sum up what runs have used by day, model, user or API key.

    Your own; that of others and of the tenant is told to who holds `usage:read:any`. An answer that
    was cut off, or whose worker was lost, counts with an estimate of what it had used.
    """
    last = params.last_day or datetime.now(UTC).date()
    first = params.first_day or last.replace(day=1)
    if not timedelta(0) <= last - first < timedelta(days=MOST_DAYS):
        raise Fault("invalid_params", f"Ask for 1 to {MOST_DAYS} days, the first before the last.")
    subject = subject_of(params.subject, call.actor)
    async with call.services.database.read(subject.tenant_id) as session:
        try:
            found, total = await usage.report(
                session,
                params.by,
                first,
                last,
                user_id=subject.id if subject.kind == "user" else None,
                key_id=subject.id if subject.kind == "key" else None,
                after=params.cursor,
                limit=params.limit + 1,
            )
        except ValueError:
            raise Fault("invalid_params", "cursor: not of this report") from None
    page = found[: params.limit]
    key = f"{params.by}_id" if params.by in ("user", "key") else params.by
    return UsageReport(
        subject=str(subject),
        first_day=first,
        last_day=last,
        currency=call.services.settings.currency,
        total=_sum(total),
        items=[UsageItem.model_validate({key: used.key, **_sums(used)}) for used in page],
        next_cursor=page[-1].key if len(found) > len(page) else None,
    )


def _sums(used: usage.Used) -> dict[str, int]:
    return {
        "runs": used.runs,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cost": used.cost,
    }


def _sum(used: usage.Used) -> UsageSum:
    return UsageSum.model_validate(_sums(used))
