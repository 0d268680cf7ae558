"""Who is present, as nodes work it out among themselves."""

from collections.abc import Iterable
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hub.events.roster import (
    LINGER_S,
    TYPING_S,
    Change,
    Member,
    Present,
    Roster,
    Whisper,
    difference,
)

NODES = ("n_1", "n_2", "n_3")
USERS = ("u_ada", "u_bob", "u_eve")
TTL_S = 40.0


def said(changes: Iterable[Change]) -> list[tuple[str, str]]:
    return [(change.kind, change.member.user_id) for change in changes]


def users(roster: Roster) -> list[str]:
    return [who.member.user_id for who in roster.present()]


def renewed(roster: Roster, found: Iterable[Member] = (), now: float = 0.0) -> list[Change]:
    """The changes of an exchange with a backplane that holds ``found``."""
    return roster.settle(roster.plan(now), [member.encode() for member in found])[0]


ADA = Member("n_2", "u_ada", 5, "Ada")
BOB = Member("n_3", "u_bob", 7, "")


def test_the_first_exchange_finds_who_is_there_and_tells_others_of_oneself() -> None:
    here = Roster("n_1")
    here.sit("u_eve", "Eve", 9)
    assert not here.held("u_eve")
    changes, whispers = here.settle(here.plan(0), [BOB.encode(), ADA.encode(), b"nonsense", b"[1]"])
    assert sorted(said(changes)) == [("joined", who) for who in ("u_ada", "u_bob", "u_eve")]
    assert [(each.kind, each.member.user_id) for each in whispers] == [("+", "u_eve")]
    assert users(here) == ["u_ada", "u_bob", "u_eve"]  # who came first before others
    assert here.held("u_eve")


def test_a_second_connection_of_a_user_changes_nothing() -> None:
    here = Roster("n_1")
    for _ in range(3):
        here.sit("u_eve", "Eve", 9)
    renewed(here)
    here.stand("u_eve", 1)
    here.stand("u_eve", 1)
    assert here.next_leave() == inf
    here.stand("u_eve", 1)
    assert here.next_leave() == 1 + LINGER_S


def test_who_may_be_here_no_more_leaves_at_once() -> None:
    here = Roster("n_1")
    for _ in range(2):
        here.sit("u_eve", "Eve", 9)
    renewed(here)
    here.stand("u_eve", 1, barred=True)
    assert here.next_leave() == inf
    here.stand("u_eve", 1, barred=True)
    assert here.next_leave() == 1


def test_who_comes_back_in_time_never_left() -> None:
    here = Roster("n_1")
    here.sit("u_eve", "Eve", 9)
    renewed(here)
    here.stand("u_eve", 1)
    here.sit("u_eve", "Eve", 99)
    assert here.next_leave() == inf
    assert here.plan(100).leave == ()
    (eve,) = here.own
    assert eve.since == 9


def test_who_leaves_is_taken_out_and_others_are_told() -> None:
    here = Roster("n_1")
    here.sit("u_eve", "Eve", 9)
    renewed(here)
    (eve,) = here.own
    here.stand("u_eve", 1)
    plan = here.plan(1 + LINGER_S)
    assert (plan.stay, plan.leave) == ((), (eve,))
    changes, whispers = here.settle(plan, [eve.encode()])
    assert (said(changes), whispers) == ([("left", "u_eve")], [Whisper("-", eve)])
    assert here.idle


def test_a_user_of_two_nodes_leaves_with_the_second() -> None:
    here = Roster("n_1")
    other = ADA._replace(node="n_3", since=6)
    assert said(renewed(here, [ADA, other])) == [("joined", "u_ada")]
    assert here.hear(Whisper("-", ADA), 1) == []
    assert here.present() == [Present(other, False)]
    assert said(here.hear(Whisper("-", other), 1)) == [("left", "u_ada")]


def test_a_node_that_has_died_is_missed() -> None:
    here = Roster("n_1")
    here.sit("u_eve", "", 9)
    renewed(here, [ADA, BOB])
    assert said(renewed(here, [*here.own, BOB])) == [("left", "u_ada")]


def test_a_set_that_was_lost_is_no_sign_that_anybody_left() -> None:
    here = Roster("n_1")
    here.sit("u_eve", "", 9)
    renewed(here, [ADA, BOB])
    plan = here.plan(1)
    changes, whispers = here.settle(plan, [])
    assert changes == []
    assert whispers == [Whisper("+", *here.own)]
    # Ada's node has said her again by the time of the next exchange; Bob's has not.
    assert said(renewed(here, [*here.own, ADA])) == [("left", "u_bob")]


def test_what_is_heard_during_an_exchange_counts_whatever_the_exchange_found() -> None:
    here = Roster("n_1")
    renewed(here, [BOB])
    plan = here.plan(1)
    assert said(here.hear(Whisper("+", ADA), 1)) == [("joined", "u_ada")]
    assert said(here.hear(Whisper("-", BOB), 1)) == [("left", "u_bob")]
    assert here.settle(plan, [BOB.encode()]) == ([], [])
    assert users(here) == ["u_ada"]


def test_typing_is_told_once_and_ends_by_itself() -> None:
    here = Roster("n_1")
    renewed(here, [ADA])
    assert here.hear(Whisper("typing", ADA), 10) == [Change("typing", ADA, True)]
    assert here.hear(Whisper("typing", ADA), 12) == []
    assert here.next_lapse() == 12 + TYPING_S
    assert here.lapse(11.9 + TYPING_S) == []
    assert here.present() == [Present(ADA, True)]
    assert here.lapse(12 + TYPING_S) == [Change("typing", ADA, False)]
    assert here.hear(Whisper("silent", ADA), 20) == []


def test_who_types_is_there_even_if_their_coming_was_not_heard() -> None:
    here = Roster("n_1")
    assert here.hear(Whisper("typing", ADA), 10) == [
        Change("joined", ADA),
        Change("typing", ADA, True),
    ]
    assert said(here.hear(Whisper("-", ADA), 11)) == [("left", "u_ada")]
    assert here.next_lapse() == inf


def test_typing_on_two_nodes_ends_with_the_second() -> None:
    here = Roster("n_1")
    other = ADA._replace(node="n_3")
    here.hear(Whisper("typing", ADA), 10)
    here.hear(Whisper("typing", other), 11)
    assert here.hear(Whisper("silent", ADA), 12) == []
    assert here.hear(Whisper("-", other), 13) == [Change("typing", ADA, False)]


@pytest.mark.parametrize("data", [b"", b"{}", b"[1,2]", b'["?",["n","u",1,""]]', b'["+",["n"]]'])
def test_what_another_version_whispers_is_let_pass(data: bytes) -> None:
    assert Whisper.decode(data) is None


@pytest.mark.parametrize("since", [-1, 2**60, 1.5, None, "1"])
def test_a_member_of_an_impossible_time_is_none(since: object) -> None:
    assert Member.of(["n", "u", since, ""]) is None


def test_a_member_and_a_whisper_come_back_as_they_were() -> None:
    assert Member.decode(ADA.encode()) == ADA
    assert Whisper.decode(Whisper("typing", ADA).encode()) == Whisper("typing", ADA)


def test_the_difference_is_what_somebody_has_to_be_told() -> None:
    told = [Present(ADA, True), Present(BOB, False)]
    eve = Member("n_1", "u_eve", 9, "")
    now = [Present(ADA, False), Present(eve, True)]
    assert difference(told, now) == [
        Change("left", BOB),
        Change("typing", ADA, False),
        Change("joined", eve),
        Change("typing", eve, True),
    ]
    assert difference(now, now) == []


@settings(max_examples=150, stateful_step_count=40, deadline=None)
class Nodes(RuleBasedStateMachine):
    """Three nodes, whispers that arrive late or never, a set that may be lost, and a node that may
    die. Each node's changes, taken together, are always what it sees; and when all is quiet and
    everybody has looked twice, each sees who is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rosters = {node: Roster(node) for node in NODES}
        self.seats: dict[tuple[str, str], int] = {}
        self.set: dict[bytes, float] = {}
        self.way: dict[str, list[Whisper]] = {node: [] for node in NODES}
        self.told: dict[str, dict[str, bool]] = {node: {} for node in NODES}
        self.open: dict[str, tuple[object, frozenset[bytes]]] = {}

    def _tell(self, node: str, changes: list[Change]) -> None:
        told = self.told[node]
        for change in changes:
            user = change.member.user_id
            if change.kind == "joined":
                assert user not in told
                told[user] = False
            elif change.kind == "left":
                del told[user]
            else:
                assert told[user] != change.typing
                told[user] = change.typing

    def _whisper(self, whispers: list[Whisper]) -> None:
        for node in self.rosters:
            self.way[node] += whispers

    def _exchange(self, node: str) -> None:
        self._begin(node)
        self._end(node)

    def _begin(self, node: str) -> None:
        plan = self.rosters[node].plan(self.now)
        self.set = {member: until for member, until in self.set.items() if until > self.now}
        before = frozenset(self.set)
        self.set.update({member.encode(): self.now + TTL_S for member in plan.stay})
        for member in plan.leave:
            self.set.pop(member.encode(), None)
        self.open[node] = plan, before

    def _end(self, node: str) -> None:
        plan, before = self.open.pop(node)
        changes, whispers = self.rosters[node].settle(plan, before)  # type: ignore[arg-type]
        self._tell(node, changes)
        self._whisper(whispers)

    def _hear(self, node: str) -> None:
        self._tell(node, self.rosters[node].hear(self.way[node].pop(0), self.now))

    @rule(node=st.sampled_from(NODES), user=st.sampled_from(USERS))
    def sit(self, node: str, user: str) -> None:
        if node in self.rosters:
            self.rosters[node].sit(user, user.title(), int(self.now * 1000))
            self.seats[node, user] = self.seats.get((node, user), 0) + 1

    @precondition(lambda self: any(self.seats.values()))
    @rule(data=st.data())
    def stand(self, data: st.DataObject) -> None:
        node, user = data.draw(st.sampled_from(sorted(k for k, n in self.seats.items() if n)))
        self.rosters[node].stand(user, self.now)
        self.seats[node, user] -= 1

    @precondition(lambda self: any(self.seats.values()))
    @rule(data=st.data(), kind=st.sampled_from(("typing", "silent")))
    def type(self, data: st.DataObject, kind: str) -> None:
        node, user = data.draw(st.sampled_from(sorted(k for k, n in self.seats.items() if n)))
        self._whisper(self.rosters[node].of(kind, user))  # type: ignore[arg-type]

    @rule(node=st.sampled_from(NODES))
    def exchange(self, node: str) -> None:
        if node in self.rosters and node not in self.open:
            self._exchange(node)

    @rule(node=st.sampled_from(NODES))
    def look_slowly(self, node: str) -> None:
        if node in self.open:
            self._end(node)
        elif node in self.rosters:
            self._begin(node)

    @rule(node=st.sampled_from(NODES), lost=st.booleans())
    def hear(self, node: str, lost: bool) -> None:
        if node in self.rosters and self.way[node]:
            if lost:
                self.way[node].pop(0)
            else:
                self._hear(node)

    @rule(seconds=st.sampled_from((0.5, LINGER_S, TYPING_S, TTL_S)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for node, roster in self.rosters.items():
            self._tell(node, roster.lapse(self.now))

    @rule()
    def lose_the_set(self) -> None:
        self.set.clear()

    @rule(node=st.sampled_from(NODES))
    def fail(self, node: str) -> None:
        if node in self.open:
            self.rosters[node].give_up()
            del self.open[node]

    @precondition(lambda self: len(self.rosters) == len(NODES))
    @rule(node=st.sampled_from(NODES))
    def die(self, node: str) -> None:
        del self.rosters[node]
        self.open.pop(node, None)
        self.seats = {key: seats for key, seats in self.seats.items() if key[0] != node}

    @invariant()
    def what_was_told_is_what_is_seen(self) -> None:
        for node, roster in self.rosters.items():
            seen = {who.member.user_id: who.typing for who in roster.present()}
            assert self.told[node] == seen

    def teardown(self) -> None:
        for node in tuple(self.open):
            self._end(node)
        self.now += TTL_S
        for _ in range(3):
            for node in self.rosters:
                self._exchange(node)
            for node, roster in self.rosters.items():
                while self.way[node]:
                    self._hear(node)
                self._tell(node, roster.lapse(self.now))
        there = {user for (_, user), seats in self.seats.items() if seats}
        for roster in self.rosters.values():
            assert set(users(roster)) == there


TestNodes = Nodes.TestCase
