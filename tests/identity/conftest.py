"""Accounts on a real database, with cheap hashes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.passwords import Passwords
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.keyring import KeyRing
from hub.identity.tokens.signing import SigningKey, load
from hub.settings import Settings, read_settings
from hub.storage.database import Database
from tests.identity.houses import House

KEY = b"0Zb5kqXwT9vRr3mYJx7LhNn2PpQf8DsG"


def key_of(secret: bytes = KEY, algorithm: str = "HS256") -> SigningKey:
    """A shared secret, as the settings would give it."""
    return load("a test", secret.decode(), algorithm)


def ring_of(key: SigningKey) -> KeyRing:
    """A ring of this key alone."""
    return KeyRing(key.algorithm, fixed=key)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(
        HUB_DATA_DIR=str(tmp_path / "data"), HUB_REGISTRATION="open", HUB_BCRYPT_COST=4
    )


@pytest.fixture
def passwords(settings: Settings) -> Iterator[Passwords]:
    passwords = Passwords(settings.bcrypt_cost)
    yield passwords
    passwords.close()


@pytest.fixture
def tokens(settings: Settings) -> Tokens:
    return Tokens(ring_of(key_of()), settings.access_token_minutes)


@pytest.fixture
def accounts(
    database: Database, passwords: Passwords, tokens: Tokens, settings: Settings
) -> Accounts:
    return Accounts(database, passwords, tokens, settings)


@pytest.fixture
async def house(database: Database) -> House:
    """A tenant with nobody in it."""
    return await House(database).build()


@pytest.fixture
async def neighbour(database: Database) -> House:
    """Another one."""
    return await House(database).build()
