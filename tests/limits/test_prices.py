"""Prices and the settings of quotas, as an operator writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.limits.prices import FREE, Price, Prices, micro
from hub.limits.terms import MOST, terms_of
from hub.settings import BadSettings, read_settings


def test_a_model_costs_what_stands_by_its_name() -> None:
    prices = Prices.read(["llama3.2:70b=0.50/1.20", "tiny:latest=0/0", "*=1/2"])
    assert prices.of("llama3.2:70b") == Price(500_000, 1_200_000)
    assert prices.of("tiny") == prices.of("tiny:latest") == FREE
    assert prices.of("unheard-of") == Price(1_000_000, 2_000_000)
    assert prices.of(None) == Price(1_000_000, 2_000_000), "the dearest, until it is known"


def test_without_prices_nothing_costs_anything() -> None:
    prices = Prices.read([])
    assert prices.of("echo").cost(10**9, 10**9) == 0
    assert prices.of(None) == FREE
    assert Prices.read(["dear=1/1"]).of("echo") == FREE


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_cost_is_exact_and_rounded_up(i: int, o: int, pi: int, po: int) -> None:
    cost = Price(pi, po).cost(i, o)
    assert 0 <= cost * 1_000_000 - (i * pi + o * po) < 1_000_000


@pytest.mark.parametrize("entry", ["=1/2", "x=1", "x", "x=one/2", "x=-1/2", "x=NaN/1", "x=1/1e99"])
def test_a_price_that_cannot_be_is_refused_by_its_name(entry: str) -> None:
    with pytest.raises(BadSettings, match="HUB_MODEL_PRICES"):
        Prices.read([entry])


def test_an_amount_of_money_is_kept_in_millionths() -> None:
    assert micro("12.50") == 12_500_000
    assert micro(" 0.000001 ") == 1


def test_defaults_are_read_from_the_settings() -> None:
    settings = read_settings(
        HUB_QUOTA_TENANT="tokens.month=1000000, budget.month=12.50",
        HUB_QUOTA_USER="requests.day=500,runs=0",
    )
    assert terms_of(settings).defaults == {
        "tenant": {"tokens.month": 1_000_000, "budget.month": 12_500_000},
        "user": {"requests.day": 500},
        "key": {},
    }


@pytest.mark.parametrize(
    "text", ["tokens=5", "tokens.day", "runs=many", "runs=-1", "budget.day=x", f"runs={MOST + 1}"]
)
def test_a_default_that_cannot_be_is_refused_by_its_setting(text: str) -> None:
    with pytest.raises(BadSettings, match="HUB_QUOTA_KEY"):
        terms_of(read_settings(HUB_QUOTA_KEY=text))
