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
        "HUB_SMTP_URL, since letters with single-use links would be written to the log instead; "
        "without an `https://` HUB_PUBLIC_URL, which those links lead to; with an HUB_BCRYPT_COST "
        "under 10; and with a database role that passes PostgreSQL's walls between tenants. Who "
        "signs in must have a verified address. Default: `development` on a loopback address, else "
        "`production`.",
    )
    smtp_url: SecretStr | None = Field(
        None,
        alias="HUB_SMTP_URL",
        description="The mail server that takes letters: `smtp://user:password@host:587` (with "
        "STARTTLS: see HUB_SMTP_TLS; credentials go over TLS or to loopback alone) or "
        "`smtps://user:password@host:465`. Default: letters are written to the log, which is for "
        "development.",
    )
    smtp_tls: Literal["required", "offered"] | None = Field(
        None,
        alias="HUB_SMTP_TLS",
        description="Whether letters go to an `smtp://` server over TLS alone (`required`), or in "
        "the clear too, where it offers no STARTTLS, or somebody in between has it seem so "
        "(`offered`): letters hold links that open accounts. Default: `required` in `production`, "
        "unless the server is on a loopback address; else `offered`.",
    )
    mail_from: str = Field(
        "hub@localhost", alias="HUB_MAIL_FROM", description="The address that letters are from."
    )
    public_url: str | None = Field(
        None,
        alias="HUB_PUBLIC_URL",
        description="Where people reach the hub (`https://hub.example`), for the links in letters, "
        "and for the way back from identity providers; to be given in `production`, and there with "
        "`https`, but for a loopback address. Default: the address it listens on.",
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
