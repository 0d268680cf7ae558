"""What was used: tokens, runs and cost, summed by day, model, user or API key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal

from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.storage.tables import Usage

By = Literal["day", "model", "user", "key"]
_COLUMNS: Final = {
    "day": Usage.day,
    "model": Usage.model,
    "user": Usage.user_id,
    "key": Usage.key_id,
}


@dataclass(frozen=True, slots=True)
class Used:
    """A sum. ``key``: the day (ISO 8601), model, user or API key that it is of; ``cost`` in
    millionths of the currency.
    """

    key: str
    runs: int
    input_tokens: int
    output_tokens: int
    cost: int


_SUMS: Final = (
    func.count(col(Usage.run_id).distinct()),
    func.sum(col(Usage.input_tokens)),
    func.sum(col(Usage.output_tokens)),
    func.sum(col(Usage.cost)),
)


async def report(
    session: AsyncSession,
    by: By,
    first: date,
    last: date,
    *,
    user_id: str | None = None,
    key_id: str | None = None,
    after: str | None = None,
    limit: int,
) -> tuple[Sequence[Used], Used]:
    """Up to ``limit`` sums in the order of their keys, after the key ``after``, of the session's
    tenant, or one user or API key in it, from the first day to the last; and the sum of them all.
    By key there is only what was asked for by one.

    Raises ValueError for an ``after`` that is no key.
    """
    key: Any = col(_COLUMNS[by])
    within = [col(Usage.day) >= first, col(Usage.day) <= last]
    if user_id is not None:
        within.append(col(Usage.user_id) == user_id)
    if key_id is not None:
        within.append(col(Usage.key_id) == key_id)
    if by == "key":
        within.append(col(Usage.key_id).is_not(None))
    grouped: Any = select(key, *_SUMS).where(*within)  # type: ignore[call-overload]
    if after is not None:
        grouped = grouped.where(key > (date.fromisoformat(after) if by == "day" else after))
    rows = (await session.exec(grouped.group_by(key).order_by(key).limit(limit))).all()
    whole: Any = select(*_SUMS).where(*within)
    (total,) = (await session.exec(whole)).all()
    return [_used(str(key), sums) for key, *sums in rows], _used("", total)


def _used(key: str, sums: Sequence[Any]) -> Used:
    runs, asked, answered, cost = (int(number or 0) for number in sums)
    return Used(key, runs, asked, answered, cost)
