"""Hubs with the scripted model: on SQLite and memory, and on PostgreSQL and Redis, in turn."""

from collections.abc import AsyncIterator
from itertools import count

import pytest

from tests.agents.client import Client, opened
from tests.parts.hub import ServedHub, ServeHub

_NUMBERS = count(1)


@pytest.fixture
async def hub(serve_hub: ServeHub, sqlite_url: str) -> AsyncIterator[ServedHub]:
    """A hub with the embedded parts."""
    async with serve_hub(HUB_DATABASE_URL=sqlite_url) as hub:
        yield hub


@pytest.fixture(params=["embedded", "shared"])
def parts(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of the embedded parts, and of those that nodes share, in turn."""
    if request.param == "embedded":
        return {"HUB_DATABASE_URL": request.getfixturevalue("sqlite_url")}
    return {
        "HUB_DATABASE_URL": request.getfixturevalue("postgres_url"),
        "HUB_REDIS_URL": request.getfixturevalue("redis_server").url,
    }


@pytest.fixture
async def any_hub(parts: dict[str, str], serve_hub: ServeHub) -> AsyncIterator[ServedHub]:
    """A hub with the embedded parts, and one with those that nodes share, in turn."""
    async with serve_hub(**parts) as hub:
        yield hub


async def someone(hub: ServedHub) -> str:
    """A new user's access token."""
    session = await hub.sign_up(f"user-{next(_NUMBERS)}@hub.example")
    return str(session["access_token"])


@pytest.fixture
async def client(hub: ServedHub) -> AsyncIterator[Client]:
    async with opened(hub.url, await someone(hub)) as client:
        yield client


@pytest.fixture
async def any_client(any_hub: ServedHub) -> AsyncIterator[Client]:
    async with opened(any_hub.url, await someone(any_hub)) as client:
        yield client
