"""The accounts in the database: reserved and settled inside the transaction of whoever asks.

The rows of the accounts are locked in one order, all that a transaction needs at once, so that two
which cross do not wait for each other (SQLite has one writer at a time anyway). What is granted is
durable, or undone, with the deed that it was granted for. On the backplane, where rates are, it
would be neither: a Redis that forgets would let a budget be spent twice.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import bindparam, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.limits.ledger import (
    Account,
    Balance,
    Line,
    SubjectKind,
    end_of,
    first_day,
    reserve,
    settle,
    spend,
    thing_of,
    window_of,
)
from hub.limits.terms import Terms
from hub.storage.padding import padded
from hub.storage.scope import prebuilt
from hub.storage.tables import Quota, Run, Usage, now

_ACCOUNTS: Final = prebuilt(
    select(Quota)
    .where(col(Quota.id).in_(bindparam("ids", expanding=True)))
    .order_by(col(Quota.id))
    .with_for_update()
)

Claim = tuple[Account, int]
"""How much is asked for of an account."""


async def post(
    session: AsyncSession,
    terms: Terms,
    claims: Sequence[Claim],
    ended: Iterable[tuple[Line, int]] = (),
    *,
    sees_all: bool = False,
) -> tuple[Line, ...]:
    """Settle what has ended, then reserve what is claimed: all of it, or nothing.

    ``ended``: lines, with what was used in their place. Answers the lines of what was reserved.
    Raises Fault("quota_exceeded"), with ``details`` of ``hub/protocol/README.md``; ``sees_all``:
    whether whoever asks may know where the tenant as a whole stands.
    """
    settling = list(ended)
    ids = sorted({account.id for account, _ in claims} | {line.account for line, _ in settling})
    if not ids:
        return ()
    moment = now()
    rows = await locked(session, ids)
    missing = [account for account, _ in claims if account.id not in rows]
    if missing:
        await begin(session, missing, moment)
        rows = await locked(session, ids)
    for line, used in settling:
        row = rows.get(line.account)
        if row is not None:  # its tenant or user may be gone
            _put(row, settle(balance_of(row), line, used))
    lines = []
    for account, wanted in claims:
        row = rows[account.id]
        limit = limit_of(row, terms)
        if limit == 0:
            continue
        window = window_of(account.name, moment)
        balance = balance_of(row).at(window)
        if thing_of(account.name) == "requests":
            spent = spend(balance, limit, wanted)
            if spent is None:
                raise _exceeded(row, limit, balance, moment, sees_all)
            _put(row, spent)
            continue
        granted = reserve(balance, limit, wanted)
        if granted is None:
            raise _exceeded(row, limit, balance, moment, sees_all)
        _put(row, granted[0])
        lines.append(Line(account.id, window, granted[1]))
    return tuple(lines)


async def locked(session: AsyncSession, ids: Sequence[str]) -> dict[str, Quota]:
    """The rows of these accounts that there are, locked until the end of the transaction."""
    return {
        row.id: row for row in (await session.exec(_ACCOUNTS, params={"ids": padded(ids)})).all()
    }


async def begin(session: AsyncSession, accounts: Sequence[Account], moment: datetime) -> None:
    """Open accounts, in each what was used already; one that another has opened stays."""
    opened: list[dict[str, Any]] = []
    for account in sorted(accounts, key=lambda account: account.id):
        used = await used_before(session, account, moment)
        opened.append(
            {
                "id": account.id,
                "tenant_id": account.tenant_id,
                "subject_kind": account.subject_kind,
                "subject_id": account.subject_id,
                "name": account.name,
                "amount": None,
                "by_operator": False,
                "set_at": None,
                "window": window_of(account.name, moment),
                "used": used,
                "reserved": 0,
            }
        )
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    await session.exec(insert(Quota).values(opened).on_conflict_do_nothing())


async def used_before(session: AsyncSession, account: Account, moment: datetime) -> int:
    """What the rows of runs and usage say was used in the window, nobody having counted."""
    since = first_day(account.name, moment)
    if since is None:
        return 0  # nothing is used of what has no window
    kind, id = account.subject_kind, account.subject_id
    thing = thing_of(account.name)
    if thing == "requests":
        return await _requests(session, since, moment, kind, id)
    tokens = col(Usage.input_tokens) + col(Usage.output_tokens)
    counted: Any = func.sum(col(Usage.cost) if thing == "budget" else tokens)
    statement = select(counted).where(col(Usage.day) >= since)
    if kind != "tenant":
        of_whom = Usage.user_id if kind == "user" else Usage.key_id
        statement = statement.where(col(of_whom) == id)
    return int((await session.exec(statement)).one() or 0)


async def _requests(
    session: AsyncSession, since: date, moment: datetime, kind: SubjectKind, id: str
) -> int:
    begun = moment.replace(
        year=since.year, month=since.month, day=since.day, hour=0, minute=0, second=0, microsecond=0
    )
    statement = select(func.count()).select_from(Run).where(col(Run.created_at) >= begun)
    if kind != "tenant":
        of_whom = Run.user_id if kind == "user" else Run.session_id
        statement = statement.where(col(of_whom) == id)
    return int((await session.exec(statement)).one())


def balance_of(row: Quota) -> Balance:
    return Balance(row.window, row.used, row.reserved)


def limit_of(row: Quota, terms: Terms) -> int:
    """The limit that is set, else the default; 0 if there is none."""
    return terms.default(row.subject_kind, row.name) if row.amount is None else row.amount


def _put(row: Quota, balance: Balance) -> None:
    row.window, row.used, row.reserved = balance.window, balance.used, balance.reserved


def _exceeded(row: Quota, limit: int, balance: Balance, moment: datetime, sees_all: bool) -> Fault:
    whose = {"user": "your", "key": "this key's", "tenant": "the tenant's"}[row.subject_kind]
    details: dict[str, Any] = {"quota": row.name, "subject": row.subject_kind}
    if row.subject_kind != "tenant" or sees_all:  # what others use is theirs to know
        details |= {"limit": limit, "used": balance.used, "reserved": balance.reserved}
    end = end_of(row.name, moment)
    if end is None:
        again = "Wait until a run has ended."
    else:
        details["retry_after_ms"] = int((end - moment).total_seconds() * 1000) + 1
        again = f"It begins anew at {end:%Y-%m-%d} 00:00 UTC."
    return Fault(
        "quota_exceeded", f"All of {whose} quota {row.name} is taken. {again}", details=details
    )
