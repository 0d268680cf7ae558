"""Settings: read once from the environment and ``.env``, then passed in. The one reader of both.

Each setting has its description here; the reference page of the settings is made from it.
"""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from hub.settings.audit import AuditSettings
from hub.settings.identity import IdentitySettings
from hub.settings.limits import LimitSettings
from hub.settings.mail import MailSettings
from hub.settings.providers import FactorSettings
from hub.settings.quotas import QuotaSettings
from hub.settings.tenancy import TenancySettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")

CommaList = Annotated[tuple[str, ...], NoDecode]
"""A list that the environment writes as ``a,b,c``."""


class Settings(
    IdentitySettings,
    FactorSettings,
    MailSettings,
    LimitSettings,
    QuotaSettings,
    AuditSettings,
    TenancySettings,
):
    """What an operator can set. Raises pydantic's ValidationError for a value that cannot be."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field("127.0.0.1", alias="HUB_HOST", description="Address to listen on.")
    port: int = Field(
        8000, ge=0, le=65535, alias="HUB_PORT", description="Port to listen on; 0 picks a free one."
    )
    data_dir: Path = Field(
        Path(".hub"),
        alias="HUB_DATA_DIR",
        description="Directory of the embedded database, the generated secrets and the logs.",
    )
    database_url: str | None = Field(
        None,
        alias="HUB_DATABASE_URL",
        description="SQLAlchemy URL with an async driver (`postgresql+asyncpg://…`, "
        "`sqlite+aiosqlite:///…`). Default: SQLite in the data directory.",
    )
    redis_url: str | None = Field(
        None,
        alias="HUB_REDIS_URL",
        description="`redis://`, `rediss://` or `redis+cluster://`. Default: in memory, which "
        "serves one process only.",
    )
    allowed_origins: CommaList = Field(
        (),
        alias="HUB_ALLOWED_ORIGINS",
        description="Origins of browsers that may connect, comma-separated, exact match. The "
        "hub's own address is always allowed.",
    )
    allowed_hosts: CommaList = Field(
        (),
        alias="HUB_ALLOWED_HOSTS",
        description="Names by which the hub may be reached: values of the Host header "
        "(`hub.example`, `hub.example:8443`), comma-separated, exact match; others are answered "
        "421, but for `/health/`. The hub's own address and the loopback names are always allowed. "
        "Default: no others on a loopback address, else any.",
    )
    trusted_proxies: CommaList = Field(
        (),
        alias="HUB_TRUSTED_PROXIES",
        description="Addresses and networks (`10.0.0.7,10.1.0.0/16`) of proxies whose "
        "X-Forwarded-For says whose connection it is, for limits and logs. Default: none.",
    )
    default_model: str | None = Field(
        None,
        alias="HUB_DEFAULT_MODEL",
        description="Model of a run that names none. Default: the first of the catalogue.",
    )
    local_model: Path | None = Field(
        None,
        alias="HUB_LOCAL_MODEL",
        description="A GGUF file for the embedded model server. Default: the packaged stand-in.",
    )
    ollama_host: str = Field(
        "http://127.0.0.1:11434",
        alias="OLLAMA_HOST",
        description="The Ollama server. When it does not answer, a process that drives runs starts "
        "the embedded model.",
    )
    log_format: Literal["console", "json"] = Field(
        "console", alias="HUB_LOG_FORMAT", description="How log lines are written."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="HUB_LOG_LEVEL", description="The least severe log line that is written."
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        alias="HUB_METRICS_PORT",
        description="Serve `/metrics` on this port of the same address without credentials. "
        "Default: on the main port, for who holds `metrics:read` in the hub's oldest tenant. Each "
        "of several processes has its own, this one and those that follow, the door the last: its "
        "sign-ins are counted there alone, also where it is the door of a single process.",
    )
    model_first_token_s: float = Field(
        120.0,
        gt=0,
        alias="HUB_MODEL_FIRST_TOKEN_TIMEOUT",
        description="Seconds a model may take to its first token.",
    )
    model_next_token_s: float = Field(
        30.0,
        gt=0,
        alias="HUB_MODEL_NEXT_TOKEN_TIMEOUT",
        description="Seconds a model may take between two tokens.",
    )
    run_concurrency: int = Field(
        128, ge=1, alias="HUB_RUN_CONCURRENCY", description="Runs a worker drives at once."
    )
    drain_s: float = Field(
        7.0,
        ge=0,
        le=3600,
        alias="HUB_DRAIN_SECONDS",
        description="Seconds that a node takes at most from SIGTERM to its end: clients are told, "
        "and leave spread over this time (few in less); runs under way may end, and are handed "
        "over after it. 0: at once. Give whoever stops the process 3 s more before it kills.",
    )

    presence_ttl_s: float = Field(
        40.0,
        ge=1,
        le=45,
        alias="HUB_PRESENCE_TTL",
        description="Seconds for which who is present is kept without being renewed, which is done "
        "three times in it: the users of a node that died are gone after this and a third of it.",
    )

    @field_validator("allowed_origins", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                raise ValueError(
                    f"{one!r} is no address and no network such as 10.0.0.0/8"
                ) from None
        return value

    @field_validator(
        "data_dir",
        "local_model",
        "jwt_private_key_file",
        "jwt_keys_dir",
        "audit_key_file",
        mode="after",
    )
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        # No shell has read .env, nor what a service manager passes on.
        try:
            return value.expanduser() if value is not None else None
        except RuntimeError:
            raise ValueError("there is no home directory of this user") from None

    @field_validator("ollama_host", mode="after")
    @classmethod
    def _with_scheme(cls, value: str) -> str:
        # Ollama's own tools accept a bare host and port, and 0.0.0.0 as "this machine".
        url = value if "://" in value else f"http://{value}"
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        if ":" not in host.rpartition("]")[2]:
            host += ":11434" if scheme == "http" else ":443"
        return f"{scheme}://{_reachable(host)}{slash}{path}".rstrip("/")

    @model_validator(mode="after")
    def _defaults(self) -> Self:
        if self.database_url is None:
            path = (self.data_dir / "hub.db").absolute()
            object.__setattr__(self, "database_url", f"sqlite+aiosqlite:///{path}")
        if self.registration is None:
            policy = "open" if self.host in LOOPBACK else "invite"
            object.__setattr__(self, "registration", policy)
        if self.environment is None:
            known = "development" if self.host in LOOPBACK else "production"
            object.__setattr__(self, "environment", known)
        if self.require_verified is None:
            object.__setattr__(self, "require_verified", self.environment == "production")
        return self

    @model_validator(mode="after")
    def _where_providers_send_back(self) -> Self:
        if self.providers and self.public_url is None and self.host not in LOOPBACK:
            raise ValueError("HUB_OIDC_PROVIDERS needs HUB_PUBLIC_URL beyond loopback")
        return self

    @property
    def local_url(self) -> str:
        """Where the hub is reached from its own machine."""
        # Who listens everywhere is reached at loopback from here.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """Where people reach the hub, as far as it knows."""
        return self.public_url or self.local_url

    @property
    def any_name(self) -> bool:
        """Whether the hub answers to whatever name it is reached by: beyond loopback, unless it was
        told its names.
        """
        return not self.allowed_hosts and not is_here(self.host)

    @property
    def database(self) -> str:
        """The database's URL, given or embedded."""
        assert self.database_url is not None
        return self.database_url


class BadSettings(Exception):
    """A setting has a value that cannot be; the message names it and says what to do."""


def is_here(host: str) -> bool:
    """Whether this name or address is of the machine itself: what goes there crosses no network."""
    if host in LOOPBACK:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _reachable(host: str) -> str:
    # 0.0.0.0 is where a server listens; a client reaches it at loopback.
    return host.replace("0.0.0.0", "127.0.0.1")  # noqa: S104


def read_settings(**overrides: Any) -> Settings:
    """The settings of the environment, with ``overrides`` by their environment names.

    Raises BadSettings, whose message is fit for an operator's eyes and holds no secret value.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc'])}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise BadSettings("; ".join(lines)) from None
