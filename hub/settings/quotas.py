"""Settings of quotas: what whoever has none of their own may have, and what it costs."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

Entries = Annotated[tuple[str, ...], NoDecode]
"""A list of ``name=value`` that the environment writes as ``a=1,b=2``."""

_QUOTAS = (
    "`requests.day`, `requests.month` (messages that are accepted), `runs` (that wait or run at "
    "once), `tokens.day`, `tokens.month`, `budget.day`, `budget.month` (in the currency, `12.50`)"
)


class QuotaSettings(BaseSettings):
    """Quotas, prices and the currency."""

    quota_tenant: Entries = Field(
        (),
        alias="HUB_QUOTA_TENANT",
        description="Quotas of each tenant, `name=limit,…`, where none is set for it: "
        f"{_QUOTAS}. Owners may set less, and the operator anything. 0: no limit.",
    )
    quota_user: Entries = Field(
        (),
        alias="HUB_QUOTA_USER",
        description="Quotas of each user in a tenant, where none is set for them, written as "
        "HUB_QUOTA_TENANT is. 0: no limit.",
    )
    quota_key: Entries = Field(
        (),
        alias="HUB_QUOTA_KEY",
        description="Quotas of each API key, where none is set for it, written as "
        "HUB_QUOTA_TENANT is. 0: no limit.",
    )
    quota_answer_tokens: int = Field(
        1024,
        ge=1,
        alias="HUB_QUOTA_ANSWER_TOKENS",
        description="Tokens that are reserved for an answer, of a quota of tokens or a budget, "
        "until it is known how many it took.",
    )
    model_prices: Entries = Field(
        (),
        alias="HUB_MODEL_PRICES",
        description="What a million tokens of prompt and of answer cost, by model: "
        "`gpt-oss:120b=0.60/2.40,*=0/0`; `*` is any other model. Default: nothing costs anything.",
    )
    currency: str = Field(
        "USD",
        pattern=r"^[A-Z]{3}$",
        alias="HUB_CURRENCY",
        description="The currency of prices and budgets (ISO 4217).",
    )

    @field_validator("quota_tenant", "quota_user", "quota_key", "model_prices", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
