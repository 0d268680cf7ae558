"""Settings of who may come in, and how."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings


class IdentitySettings(BaseSettings):
    """Registration, passwords and tokens."""

    registration: Literal["open", "invite", "off"] | None = Field(
        None,
        alias="HUB_REGISTRATION",
        description="Who may register. Default: `open` on a loopback address, else `invite`.",
    )
    jwt_secret: SecretStr | None = Field(
        None,
        alias="JWT_SECRET_KEY",
        description="Secret that signs access tokens, at least 32 bytes. Default: the hub makes a "
        "key; `hub keys` lists and rotates those.",
    )
    jwt_private_key_file: Path | None = Field(
        None,
        alias="JWT_PRIVATE_KEY_FILE",
        description="PEM file (PKCS 8, no password) of the private key that signs access tokens: "
        "Ed25519, or RSA of at least 2048 bits. Set `JWT_ALGORITHM` to what it is for.",
    )
    jwt_keys_dir: Path | None = Field(
        None,
        alias="JWT_KEYS_DIR",
        description="Directory of the keys of access tokens, one file each, "
        "`NAME.ALGORITHM.key`. A name that begins with an instant (`20261126T020547Z`) signs from "
        "then on, any other verifies alone. Default: `keys` in the data directory.",
    )
    jwt_algorithm: Literal["HS256", "HS384", "HS512", "EdDSA", "RS256"] = Field(
        "HS256",
        alias="JWT_ALGORITHM",
        description="Algorithm of the access tokens. With `EdDSA` and `RS256` others can verify "
        "them by the public keys at `/.well-known/jwks.json`.",
    )
    access_token_minutes: int = Field(
        30,
        ge=1,
        le=1440,
        alias="JWT_ACCESS_TOKEN_EXPIRE_MINUTES",
        description="Life of an access token, in minutes.",
    )
    refresh_token_days: int = Field(
        7,
        ge=1,
        le=365,
        alias="JWT_REFRESH_TOKEN_EXPIRE_DAYS",
        description="Life of a refresh token, in days.",
    )
    session_max_days: int = Field(
        0,
        ge=0,
        le=3650,
        alias="HUB_SESSION_MAX_DAYS",
        description="Days after which a login session is over, however often it was refreshed: "
        "whoever it is of signs in again. 0: none, as long as it is refreshed in time, since bots "
        "hold sessions for weeks. API keys have ends of their own.",
    )
    bcrypt_cost: int = Field(
        12,
        ge=4,
        le=16,
        alias="HUB_BCRYPT_COST",
        description="Cost of password hashes (2^n); in `production` 10 at least.",
    )

    @field_validator("jwt_secret", mode="after")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < 32:
            raise ValueError(
                "shorter than 32 bytes; make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe(48))'`"
            )
        return value
