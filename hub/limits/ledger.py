"""The ledger: what was used of a quota, and what is still spoken for. Pure.

An account counts one thing of one subject in one window of time: the tokens of a user on a day.
Before a run, an estimate is *reserved*; when it has ended, what it really used is *settled* in its
place. A window that is over is never touched again: a run counts in the window in which it was
asked for, and what it settles after that window is of no account.

A reservation is granted as long as anything is left, and takes no more than that. So a hundred
that ask at once cannot pass a limit of one, and the last of a window may still use more than it
reserved: a run under way is not cut off.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple

import orjson

SubjectKind = Literal["tenant", "user", "key"]
SUBJECT_KINDS: Final[tuple[SubjectKind, ...]] = ("user", "key", "tenant")
"""Who may have a quota; the nearest to who asks comes first."""

QuotaName = Literal[
    "requests.day",
    "requests.month",
    "runs",
    "tokens.day",
    "tokens.month",
    "budget.day",
    "budget.month",
]
NAMES: Final[tuple[QuotaName, ...]] = (
    "requests.day",
    "requests.month",
    "runs",
    "tokens.day",
    "tokens.month",
    "budget.day",
    "budget.month",
)
"""What may be limited: messages that were accepted, runs that wait or run at once, tokens of
prompts and answers, and money in millionths of the currency. Days and months are those of UTC.
"""


def thing_of(name: str) -> str:
    """What is counted: ``requests``, ``runs``, ``tokens``, ``budget``."""
    return name.partition(".")[0]


def window_of(name: str, moment: datetime) -> str:
    """The window that is open at this moment; empty for what has none."""
    match name.partition(".")[2]:
        case "day":
            return moment.astimezone(UTC).strftime("%Y-%m-%d")
        case "month":
            return moment.astimezone(UTC).strftime("%Y-%m")
    return ""


def first_day(name: str, moment: datetime) -> date | None:
    """The first day of the open window."""
    today = moment.astimezone(UTC).date()
    match name.partition(".")[2]:
        case "day":
            return today
        case "month":
            return today.replace(day=1)
    return None


def end_of(name: str, moment: datetime) -> datetime | None:
    """When the open window ends and the next one begins."""
    begun = first_day(name, moment)
    if begun is None:
        return None
    following = begun + timedelta(days=1 if name.endswith(".day") else 31)
    if name.endswith(".month"):
        following = following.replace(day=1)
    return datetime(following.year, following.month, following.day, tzinfo=UTC)


class Account(NamedTuple):
    """What is counted of whom."""

    tenant_id: str
    subject_kind: SubjectKind
    subject_id: str
    name: str

    @property
    def id(self) -> str:
        """Its name among all: ``<tenant>/<kind>:<subject>/<quota>``."""
        return f"{self.tenant_id}/{self.subject_kind}:{self.subject_id}/{self.name}"


class Line(NamedTuple):
    """What a run has reserved of one account (by its id) in one window."""

    account: str
    window: str
    amount: int

    @property
    def name(self) -> str:
        return self.account.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account says of its window."""

    window: str = ""
    used: int = 0
    reserved: int = 0

    @property
    def taken(self) -> int:
        """What nobody else can have."""
        return self.used + self.reserved

    def at(self, window: str) -> "Balance":
        """The balance in this window: a new one begins with nothing."""
        return self if self.window == window else Balance(window)


def reserve(balance: Balance, limit: int, wanted: int) -> tuple[Balance, int] | None:
    """The balance with as much of ``wanted`` reserved as is left, and how much; None if nothing is.

    ``limit`` and ``wanted`` are 1 or more.
    """
    left = limit - balance.taken
    if left <= 0:
        return None
    amount = min(wanted, left)
    return replace(balance, reserved=balance.reserved + amount), amount


def spend(balance: Balance, limit: int, amount: int) -> Balance | None:
    """The balance with ``amount`` used, which is known at once; None if nothing is left."""
    if balance.taken >= limit:
        return None
    return replace(balance, used=balance.used + amount)


def settle(balance: Balance, line: Line, used: int) -> Balance:
    """The balance with what was used in the place of what was reserved."""
    if balance.window != line.window:
        return balance
    # Never below nothing, should an operator have counted anew meanwhile.
    reserved = max(0, balance.reserved - line.amount)
    return replace(balance, used=balance.used + used, reserved=reserved)


def spread(lines: Iterable[Line], used: Mapping[str, int]) -> list[tuple[Line, int]]:
    """Each line with what is to be settled for it, of what was used of each thing.

    Of several lines of one account (a run was steered, perhaps in the next window) the newest is
    charged, and the others are given back.
    """
    newest: dict[str, int] = {}
    held = list(lines)
    for at, line in enumerate(held):
        known = newest.get(line.account)
        if known is None or held[known].window <= line.window:
            newest[line.account] = at
    return [
        (line, used.get(thing_of(line.name), 0) if newest[line.account] == at else 0)
        for at, line in enumerate(held)
    ]


def dump(lines: Sequence[Line]) -> str | None:
    """The lines as a run's row keeps them."""
    return orjson.dumps([list(line) for line in lines]).decode() if lines else None


def load(kept: str | None) -> tuple[Line, ...]:
    """The lines of a run's row."""
    return () if kept is None else tuple(Line(*line) for line in orjson.loads(kept))
