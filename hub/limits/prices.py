"""Prices of models, and what tokens cost. Pure but for reading the setting.

Money is in whole millionths of the hub's one currency.
"""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple, Self

from hub.settings import BadSettings

MILLION: Final = 1_000_000
ANY_OTHER: Final = "*"
"""The name under which the price of all models stands that have none of their own."""


class Price(NamedTuple):
    """Millionths of the currency for a million tokens."""

    input: int = 0
    output: int = 0

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """What so many tokens cost, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // MILLION)


FREE: Final = Price()


def micro(text: str) -> int:
    """An amount of money, ``12.50``, in millionths. Raises ValueError."""
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is no amount such as 12.50") from None
    if not amount.is_finite() or amount < 0 or amount > 10**9:
        raise ValueError(f"{text!r} is no amount between 0 and 1000000000")
    return int(amount * MILLION)


class Prices:
    """The price of each model by its name; one that has no price costs nothing."""

    def __init__(self, prices: dict[str, Price]) -> None:
        self._prices = prices

    @classmethod
    def read(cls, entries: Iterable[str]) -> Self:
        """Of entries like ``llama3.2:70b=0.50/1.20``. Raises BadSettings."""
        prices: dict[str, Price] = {}
        for entry in entries:
            name, _, pair = entry.rpartition("=")
            given, slash, said = pair.partition("/")
            try:
                if not name.strip() or not slash:
                    raise ValueError("write model=input/output")
                prices[name.strip().removesuffix(":latest")] = Price(micro(given), micro(said))
            except ValueError as error:
                raise BadSettings(f"HUB_MODEL_PRICES: {entry!r}: {error}") from None
        return cls(prices)

    def of(self, model: str | None) -> Price:
        """The price of a model; the dearest, to be on the safe side, if it is not known which."""
        if not self._prices:
            return FREE
        if model is None:
            return Price(
                max(price.input for price in self._prices.values()),
                max(price.output for price in self._prices.values()),
            )
        # Ollama lists `x` as `x:latest`, and knows it by both.
        known = self._prices.get(model.removesuffix(":latest"))
        return known or self._prices.get(ANY_OTHER, FREE)
