"""The operator's terms: the quotas of whoever has none of their own, and what is to be reserved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from hub.limits.ledger import NAMES, QuotaName, thing_of
from hub.limits.prices import Prices, micro
from hub.settings import BadSettings, Settings

MOST: Final = 2**53 - 1
"""The largest limit: what JSON readers that know doubles alone still read exactly."""

Defaults = Mapping[str, Mapping[str, int]]
"""For each kind of subject, the limit of each quota that has one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of quotas. ``answer_tokens``: what is reserved for an answer."""

    defaults: Defaults
    prices: Prices
    answer_tokens: int
    default_model: str | None

    def estimate(self, asked: int = 0, model: str | None = None) -> dict[str, int]:
        """What a run may take of a message of so many tokens: of each thing that is counted."""
        price = self.prices.of(model or self.default_model)
        return {
            "requests": 1,
            "runs": 1,
            "tokens": asked + self.answer_tokens,
            "budget": price.cost(asked, self.answer_tokens),
        }

    def default(self, kind: str, name: str) -> int:
        """The limit of who has no quota of their own; 0 if there is none."""
        return self.defaults.get(kind, {}).get(name, 0)


def terms_of(settings: Settings) -> Terms:
    """What the settings say. Raises BadSettings."""
    defaults = {
        "tenant": _read("HUB_QUOTA_TENANT", settings.quota_tenant),
        "user": _read("HUB_QUOTA_USER", settings.quota_user),
        "key": _read("HUB_QUOTA_KEY", settings.quota_key),
    }
    prices = Prices.read(settings.model_prices)
    return Terms(defaults, prices, settings.quota_answer_tokens, settings.default_model)


def _read(setting: str, entries: Iterable[str]) -> Mapping[str, int]:
    limits: dict[str, int] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            limit = limit_of(name.strip(), text)
        except ValueError as error:
            raise BadSettings(f"{setting}: {entry!r}: {error}") from None
        if limit:
            limits[name.strip()] = limit
    return limits


def quota_named(text: str) -> QuotaName:
    """The quota of this name. Raises ValueError."""
    for name in NAMES:
        if name == text:
            return name
    raise ValueError(f"there is no quota {text!r}; there are {', '.join(NAMES)}")


def limit_of(name: str, text: str) -> int:
    """A limit as an operator writes it, in what is counted. Raises ValueError."""
    if thing_of(quota_named(name)) == "budget":
        return micro(text)
    if not text.strip().isdecimal() or int(text) > MOST:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)
