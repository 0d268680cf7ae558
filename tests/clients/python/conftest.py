"""Fixtures of the SDK's tests."""

from collections.abc import AsyncIterator

import pytest
from hub_client import Hub, connect
from hub_client.retry import Backoff

from tests.clients.python.scripted_hub import Conversations


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HUB_URL", "HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server() -> AsyncIterator[Conversations]:
    hub = Conversations()
    async with hub.running():
        yield hub


@pytest.fixture
async def client(server: Conversations) -> AsyncIterator[Hub]:
    async with connect(server.url, token="t", timeout=5, backoff=Backoff(lambda: 0.01)) as hub:
        yield hub
