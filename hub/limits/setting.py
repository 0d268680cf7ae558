"""Setting quotas, and where they stand. Each inside the transaction of its caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.holdings import hand_of, held_by
from hub.limits import book
from hub.limits.ledger import (
    NAMES,
    Account,
    Balance,
    Line,
    QuotaName,
    SubjectKind,
    dump,
    end_of,
    load,
    thing_of,
    window_of,
)
from hub.limits.terms import Terms
from hub.rbac.actor import Actor
from hub.rbac.inheritance import rank_of
from hub.rbac.roles import HIGHEST
from hub.storage.tables import ApiKey, Quota, Run, now

Source = Literal["set", "operator", "default"]
"""Where a limit comes from: set in the tenant, set at the machine, or a default of the hub."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose quotas. ``id`` is the tenant's own for the tenant as a whole."""

    tenant_id: str
    kind: SubjectKind
    id: str

    def __str__(self) -> str:
        return "tenant" if self.kind == "tenant" else f"{self.kind}:{self.id}"

    def account(self, name: str) -> Account:
        return Account(self.tenant_id, self.kind, self.id, name)


@dataclass(frozen=True, slots=True)
class Standing:
    """A quota that has a limit, and where it stands in the window that is open."""

    name: QuotaName
    limit: int
    source: Source
    used: int
    reserved: int
    resets_at: datetime | None

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used - self.reserved)


async def standings(session: AsyncSession, terms: Terms, subject: Subject) -> list[Standing]:
    """The quotas of a subject that have a limit."""
    moment = now()
    accounts = {name: subject.account(name) for name in NAMES}
    statement = select(Quota).where(col(Quota.id).in_([a.id for a in accounts.values()]))
    rows = {row.name: row for row in (await session.exec(statement)).all()}
    found = []
    for name, account in accounts.items():
        row = rows.get(name)
        if row is not None:
            limit, balance = book.limit_of(row, terms), book.balance_of(row)
        else:
            limit, balance = terms.default(subject.kind, name), None
        if not limit:
            continue
        window = window_of(name, moment)
        if balance is None:
            balance = Balance(window, await book.used_before(session, account, moment))
        balance = balance.at(window)
        found.append(
            Standing(
                name, limit, _source(row), balance.used, balance.reserved, end_of(name, moment)
            )
        )
    return found


def _source(row: Quota | None) -> Source:
    if row is None or row.amount is None:
        return "default"
    return "operator" if row.by_operator else "set"


async def set_quota(
    session: AsyncSession,
    terms: Terms,
    subject: Subject,
    name: QuotaName,
    limit: int | None,
    *,
    by: Actor | None,
) -> None:
    """Set a quota; 0: no limit, None: the default again. ``by``: who does; None is the operator,
    at the machine.

    Raises Fault: "permission_denied" where the rank of ``by`` does not reach, for what the operator
    has set, and for more than the operator gives a tenant.
    """
    if by is not None:
        await _check_rank(session, subject, by)
        most = terms.default("tenant", name) if subject.kind == "tenant" else 0
        if most and limit is not None and not 0 < limit <= most:
            raise Fault(
                "permission_denied", f"The operator gives a tenant at most {most} of {name}."
            )
    account, moment = subject.account(name), now()
    active = await _active(session, subject)  # locked before the account, as by whoever ends them
    rows = await book.locked(session, [account.id])
    if not rows:
        await book.begin(session, [account], moment)
        rows = await book.locked(session, [account.id])
    row = rows[account.id]
    if by is not None and row.by_operator:
        raise Fault("permission_denied", "The operator has set this quota, and may change it.")
    before, counted = row.amount, book.limit_of(row, terms) > 0
    row.amount, row.by_operator = limit, by is None and limit is not None
    row.set_at = None if limit is None else moment
    if not counted and book.limit_of(row, terms) > 0:
        # Nobody has counted while there was no limit.
        row.window = window_of(name, moment)
        row.used = await book.used_before(session, account, moment)
        row.reserved = _join(active, account, row.window, terms.estimate()[thing_of(name)])
    session.add(row)
    await record(
        session,
        subject.tenant_id,
        "quota.set",
        resource=("quota", str(subject)),
        details={"quota": name, "limit": _told(limit), "before": _told(before)},
    )


async def _active(session: AsyncSession, subject: Subject) -> Sequence[Run]:
    """The runs of a subject that have not ended, locked."""
    statement = select(Run).where(
        col(Run.announced).is_(False), col(Run.status).in_(("queued", "running"))
    )
    if subject.kind == "user":
        statement = statement.where(col(Run.user_id) == subject.id)
    elif subject.kind == "key":
        statement = statement.where(col(Run.session_id) == subject.id)
    return (await session.exec(statement.order_by(col(Run.id)).with_for_update())).all()


def _join(active: Sequence[Run], account: Account, window: str, amount: int) -> int:
    """Let runs under way hold of an account what they would have reserved; how much that is."""
    if thing_of(account.name) == "requests" or not amount:
        return 0
    for run in active:
        lines = [line for line in load(run.reservation) if line.account != account.id]
        run.reservation = dump([*lines, Line(account.id, window, amount)])
    return amount * len(active)


def _told(limit: int | None) -> int | str:
    return "default" if limit is None else limit


async def _check_rank(session: AsyncSession, subject: Subject, by: Actor) -> None:
    """Who is not of the highest rank sets no quota of the tenant, of their own, and of their
    equals; and a key none of its own. Raises Fault("permission_denied").
    """
    hand, definitions = await hand_of(session, subject.tenant_id, by, "quota:set")
    if subject.id == by.session_id:  # whoever's it is
        raise Fault("permission_denied", "A key sets no quota of its own.")
    if hand.rank >= HIGHEST:
        return
    theirs, user_id = HIGHEST, None
    if subject.kind != "tenant":
        user_id = subject.id
        if subject.kind == "key":
            user_id = await user_of_key(session, subject.id) or by.user_id
        held = await held_by(session, subject.tenant_id, user_id)
        theirs = rank_of(held.role_ids, definitions)
    if theirs >= hand.rank or user_id == by.user_id:
        raise Fault("permission_denied", "Set quotas of those who stand below you.")


async def user_of_key(session: AsyncSession, key_id: str) -> str | None:
    """Whose an API key is, in the tenant of the session."""
    statement = select(ApiKey.user_id).where(col(ApiKey.id) == key_id)
    return (await session.exec(statement)).first()
