"""Settings of second factors, and of signing in through identity providers (OpenID Connect)."""

import json
import re
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_RULE: Final = re.compile(r"([^=]+)=(.+):([^:@]+)(?:@(.+))?")


def _url(value: str) -> str:
    parts = urlsplit(value)
    secure = parts.scheme == "https" or (
        parts.scheme == "http" and (parts.hostname or "") in _LOOPBACK
    )
    if not secure or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("an https:// address (http:// on loopback), without query or password")
    return value


WebAddress = Annotated[str, AfterValidator(_url)]


class Rule(NamedTuple):
    """Who has ``value`` in the claim gets the role; ``tenant`` None: in the provider's tenant."""

    claim: str
    value: str
    role: str
    tenant: str | None


class ProviderSettings(BaseModel):
    """One identity provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    label: str | None = Field(None, min_length=1, max_length=60)
    issuer: WebAddress
    client_id: str = Field(min_length=1, max_length=255)
    client_secret: SecretStr | None = None
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    tenant: str = "default"
    role: str | None = None
    roles: tuple[Rule, ...] = ()
    ceiling: str = "admin"
    domains: tuple[str, ...] = ()
    create: bool = True
    link: bool = False
    trust_email: bool = False
    second_factor: Literal["hub", "provider"] = "hub"

    @field_validator("roles", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        """Each is written as ``claim=value:role`` or ``claim=value:role@tenant``."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(_rule(one) if isinstance(one, str) else one for one in value)

    @field_validator("scopes", mode="after")
    @classmethod
    def _openid(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return value if "openid" in value else ("openid", *value)

    @field_validator("domains", mode="after")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(domain.lower().removeprefix("@") for domain in value)

    @property
    def shown(self) -> str:
        """What a button says."""
        return self.label or self.name


def _rule(written: str) -> Rule:
    match = _RULE.fullmatch(written)
    if match is None:
        raise ValueError(f"{written!r} is not of the form claim=value:role or …:role@tenant")
    return Rule(*match.groups())


class FactorSettings(BaseSettings):
    """The encryption key, and the identity providers."""

    encryption_key: SecretStr | None = Field(
        None,
        alias="HUB_ENCRYPTION_KEY",
        description="Key that encrypts the secrets of second factors, and the roles that nodes "
        "share, at least 32 bytes; the same on all nodes. Several, comma-separated: the first "
        "encrypts, all decrypt; put a new one in front, and take the old one away when everybody "
        "with a second factor has signed in once more. Whose secret cannot be decrypted must have "
        "it reset. Default: one generated into the data directory.",
    )
    providers: Annotated[tuple[ProviderSettings, ...], NoDecode] = Field(
        (),
        alias="HUB_OIDC_PROVIDERS",
        description="Identity providers (OpenID Connect) to sign in through: a JSON list of "
        "objects with `name`, `issuer`, `client_id`, and optionally `client_secret`, `label`, "
        "`scopes`, `tenant`, `role`, `roles`, `ceiling`, `domains`, `create`, `link`, "
        "`trust_email`, `second_factor`; see hub/identity/README.md.",
    )

    @field_validator("encryption_key", mode="after")
    @classmethod
    def _long_enough_each(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(
            len(part.strip().encode()) < 32 for part in value.get_secret_value().split(",")
        ):
            raise ValueError(
                "shorter than 32 bytes; make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe(48))'`"
            )
        return value

    @field_validator("providers", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:  # whose message would show a part of it
            raise ValueError("not JSON; it is a list of objects") from None

    @field_validator("providers", mode="after")
    @classmethod
    def _one_of_each(cls, value: tuple[ProviderSettings, ...]) -> tuple[ProviderSettings, ...]:
        names = [provider.name for provider in value]
        if len(set(names)) < len(names):
            raise ValueError("two providers have the same name")
        return value
