"""Settings of how letters reach people: verification of addresses, and recovery of passwords."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings


class MailSettings(BaseSettings):
    """Mail, and whether this hub is for real."""

    environment: Literal["development", "production"] | None = Field(
        None,
        alias="HUB_ENVIRONMENT",
        description="Whether this hub is for real. In `production` it does not start without "
        "HUB_SMTP_URL, since letters with single-use links would be written to the log instead, "
        "and who signs in must have a verified address. Default: `development` on a loopback "
        "address, else `production`.",
    )
    smtp_url: SecretStr | None = Field(
        None,
        alias="HUB_SMTP_URL",
        description="The mail server that takes letters: `smtp://user:password@host:587` (with "
        "STARTTLS where the server offers it; credentials go over TLS or to loopback alone) or "
        "`smtps://user:password@host:465`. Default: letters are written to the log, which is for "
        "development.",
    )
    mail_from: str = Field(
        "hub@localhost", alias="HUB_MAIL_FROM", description="The address that letters are from."
    )
    public_url: str | None = Field(
        None,
        alias="HUB_PUBLIC_URL",
        description="Where people reach the hub (`https://hub.example`), for the links in letters, "
        "and for the way back from identity providers. Default: the address it listens on.",
    )
    require_verified: bool | None = Field(
        None,
        alias="HUB_REQUIRE_VERIFIED",
        description="Whether only who has a verified address may sign in. Then registering tells "
        "nobody whether an address has an account; else `conflict` does, since nobody need read a "
        "letter. Default: in `production` alone.",
    )

    @field_validator("smtp_url", mode="after")
    @classmethod
    def _a_mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                url = urlsplit(value.get_secret_value())
                well = url.scheme in ("smtp", "smtps") and bool(url.hostname) and url.port != 0
            except ValueError:
                well = False
            if not well:
                raise ValueError("not of a mail server; use smtp://host:587 or smtps://host:465")
        return value

    @field_validator("mail_from", mode="after")
    @classmethod
    def _an_address(cls, value: str) -> str:
        name, at, domain = value.partition("@")
        if not name or not at or not domain or any(c.isspace() or c in "<>" for c in value):
            raise ValueError("not an address such as hub@hub.example")
        return value

    @field_validator("public_url", mode="after")
    @classmethod
    def _a_place(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("not a URL such as https://hub.example")
        return None if value is None else value.rstrip("/")
