"""The ledger: whatever is asked in whatever order, no account gives more than its limit."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from hub.limits.ledger import (
    NAMES,
    Account,
    Balance,
    Line,
    dump,
    end_of,
    first_day,
    load,
    reserve,
    settle,
    spend,
    spread,
    window_of,
)

ACCOUNT = Account("t_1", "user", "u_1", "tokens.day").id
moments = st.datetimes(datetime(2020, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))


class OneAccount(RuleBasedStateMachine):
    """Runs that reserve and settle, days that end, limits that change; beside a plain model."""

    lines = Bundle("lines")

    def __init__(self) -> None:
        super().__init__()
        self.day = 1
        self.limit = 10
        self.balance = Balance()
        self.open: list[Line] = []
        self.used = 0

    @property
    def window(self) -> str:
        return f"2026-01-{self.day:02}"

    def here(self) -> list[Line]:
        return [line for line in self.open if line.window == self.balance.window]

    def turn(self) -> None:
        """As whoever reserves does first: the window of now."""
        if self.balance.window != self.window:
            self.used = 0
        self.balance = self.balance.at(self.window)

    @rule(target=lines, wanted=st.integers(1, 20))
    def ask(self, wanted: int) -> object:
        self.turn()
        left = self.limit - self.balance.taken
        granted = reserve(self.balance, self.limit, wanted)
        assert (granted is None) == (left <= 0), "refused if and only if nothing is left"
        if granted is None:
            return multiple()
        self.balance, amount = granted
        assert amount == min(wanted, left)
        assert self.balance.taken <= self.limit
        line = Line(ACCOUNT, self.window, amount)
        self.open.append(line)
        return line

    @rule(line=consumes(lines), used=st.integers(0, 30))
    def end(self, line: Line, used: int) -> None:
        self.open.remove(line)
        if line.window == self.balance.window:
            self.used += used
        self.balance = settle(self.balance, line, used)

    @rule(amount=st.integers(1, 3))
    def take(self, amount: int) -> None:
        self.turn()
        spent = spend(self.balance, self.limit, amount)
        assert (spent is None) == (self.balance.taken >= self.limit)
        if spent is not None:
            self.balance, self.used = spent, self.used + amount

    @rule(limit=st.integers(1, 30))
    def change(self, limit: int) -> None:
        self.limit = limit

    @rule()
    def sleep(self) -> None:
        self.day += 1

    @invariant()
    def is_what_was_said(self) -> None:
        assert self.balance.reserved == sum(line.amount for line in self.here())
        assert self.balance.used == self.used


TestOneAccount = OneAccount.TestCase


@given(st.integers(1, 100), st.lists(st.integers(1, 100), min_size=1, max_size=100))
def test_many_that_ask_before_one_has_ended_get_the_limit_together(
    limit: int, wanted: list[int]
) -> None:
    balance, total = Balance(), 0
    for amount in wanted:
        granted = reserve(balance, limit, amount)
        if granted is not None:
            balance, got = granted
            total += got
    assert total == min(limit, sum(wanted))


@given(moments)
def test_a_window_holds_its_moment_and_ends_where_the_next_begins(moment: datetime) -> None:
    for name in NAMES:
        begun, end = first_day(name, moment), end_of(name, moment)
        if begun is None or end is None:
            assert (name, begun, end, window_of(name, moment)) == ("runs", None, None, "")
            continue
        assert begun <= moment.date()
        assert moment < end
        assert window_of(name, end) != window_of(name, moment)
        assert window_of(name, end - timedelta(microseconds=1)) == window_of(name, moment)
        assert begun.isoformat().startswith(window_of(name, moment))


@pytest.mark.parametrize("kind", ["tenant", "user", "key"])
def test_an_account_is_named_by_all_that_it_is_of(kind: str) -> None:
    accounts = [Account("t_1", kind, "x_1", name) for name in NAMES]  # type: ignore[arg-type]
    assert len({account.id for account in accounts}) == len(NAMES)
    for account in accounts:
        assert Line(account.id, "", 1).name == account.name
        assert len(account.id) <= 128


texts = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=20)


@given(st.lists(st.builds(Line, texts, texts, st.integers(0, 2**53))))
def test_what_a_run_has_reserved_is_kept_as_it_was(lines: list[Line]) -> None:
    assert load(dump(lines)) == tuple(lines)
    assert (dump(lines) is None) == (not lines)


windows = st.sampled_from(["2026-01-01", "2026-01-02"])
accounts = st.sampled_from([f"t_1/user:u_1/{name}" for name in NAMES])


@given(
    st.lists(st.builds(Line, accounts, windows, st.integers(1, 9))),
    st.integers(0, 99),
    st.integers(0, 99),
)
def test_what_a_run_used_is_charged_once_to_each_account_in_its_newest_window(
    lines: list[Line], tokens: int, cost: int
) -> None:
    settled = spread(lines, {"tokens": tokens, "budget": cost})
    assert [line for line, _ in settled] == lines
    for account in {line.account for line in lines}:
        of = [(line.window, used) for line, used in settled if line.account == account]
        name = account.rpartition("/")[2]
        due = tokens if name.startswith("tokens") else cost if name.startswith("budget") else 0
        assert sum(used for _, used in of) == due
        assert all(window == max(of)[0] for window, used in of if used)
