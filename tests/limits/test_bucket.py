"""A node's bucket: never more than the budget, and little on trust."""

from hypothesis import given
from hypothesis import strategies as st

from hub.limits.bucket import ON_TRUST, Budget, NodeBucket

BUDGETS = st.builds(Budget, rate=st.floats(0.1, 1_000), burst=st.floats(1, 10_000))
STEPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 50)), max_size=200)


@given(BUDGETS, STEPS)
def test_a_node_never_gives_out_more_than_the_budget(
    budget: Budget, steps: list[tuple[float, float]]
) -> None:
    now, given_out = 0.0, 0.0
    bucket = NodeBucket(budget, now)
    for passed, cost in steps:
        now += passed
        if not bucket.wait_ms(cost, now):
            bucket.give(cost)
            given_out += min(cost, budget.burst)
        assert given_out <= budget.burst + budget.rate * now + 1e-6


@given(BUDGETS, STEPS)
def test_who_waits_as_long_as_told_is_let_in(
    budget: Budget, steps: list[tuple[float, float]]
) -> None:
    now = 0.0
    bucket = NodeBucket(budget, now)
    for passed, cost in steps:
        now += passed
        if wait_ms := bucket.wait_ms(cost, now):
            now += wait_ms / 1000 + 1e-6
            assert bucket.wait_ms(cost, now) == 0
        bucket.give(cost)


@given(BUDGETS, st.lists(st.floats(0.1, 50), min_size=1, max_size=100))
def test_no_more_is_given_out_on_trust_than_its_share(budget: Budget, costs: list[float]) -> None:
    bucket = NodeBucket(budget, 0.0)
    for cost in costs:
        bucket.give(cost)
        if bucket.must_ask:
            assert bucket.owed > budget.burst * ON_TRUST
            owed = bucket.settle()
            assert bucket.must_ask, "until there is an answer"
            bucket.settled(owed)
        assert bucket.owed <= budget.burst * ON_TRUST


def test_what_the_others_have_spent_blocks_until_there_is_more() -> None:
    bucket = NodeBucket(Budget(10, 100), 0.0)
    bucket.give(20)
    owed = bucket.settle()
    assert (owed, bucket.idle) == (20, True)
    bucket.refused(owed, 500, 1.0)  # until 1.5
    assert (bucket.idle, bucket.wait_ms(1, 1.25)) == (False, 250)
    assert bucket.wait_ms(1, 1.6) == 0
