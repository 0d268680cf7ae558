"""The sieve: a few of each source get through, and the rest is counted and told once."""

from hypothesis import given
from hypothesis import strategies as st

from hub.audit.sieve import Sieve


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sieve(clock: Clock, most: int = 100) -> Sieve[str]:
    return Sieve(burst=3, every_s=10.0, clock=clock, most=most)


def test_of_a_source_a_few_get_through_at_once_and_then_one_now_and_then() -> None:
    clock = Clock()
    of = sieve(clock)
    assert [of.admits("ada", "login") for _ in range(5)] == [True, True, True, False, False]
    assert of.admits("bob", "login")
    clock.now = 10.0
    assert [of.admits("ada", "login") for _ in range(2)] == [True, False]


def test_what_was_left_out_is_told_once() -> None:
    of = sieve(Clock())
    assert of.left() == []
    for kind in ("login", "login", "login", "login", "revoke", "login"):
        of.admits("ada", kind)
    assert of.left() == [("ada", {"login": 2, "revoke": 1})]
    assert of.left() == []


def test_sources_beyond_those_that_can_be_known_are_counted_as_one() -> None:
    clock = Clock()
    of = sieve(clock, most=2)
    assert [of.admits(name, "login") for name in "abcd"] == [True, True, False, False]
    assert of.left() == [(None, {"login": 2})]
    clock.now = 100.0
    assert of.admits("c", "login"), "the ones before have been silent"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 30)), max_size=200))
def test_every_one_gets_through_or_is_counted_and_no_more_than_the_rate(
    asked: list[tuple[str, float]],
) -> None:
    clock = Clock()
    of = sieve(clock, most=3)
    admitted = dict.fromkeys("abcde", 0)
    for name, later in asked:
        clock.now += later
        admitted[name] += of.admits(name, "login")
    left = sum(kinds.total() for _, kinds in of.left())
    assert sum(admitted.values()) + left == len(asked)
    assert all(count <= 3 + clock.now / 10.0 for count in admitted.values())
