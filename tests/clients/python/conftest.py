"""Fixtures of the SDK's tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
from hub_client import Hub, connect
from hub_client.retry import Backoff

from tests.clients.python.scripted_hub import Conversations


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HUB_URL", "HUB_TOKEN", "HUB_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture
async def server() -> AsyncIterator[Conversations]:
    hub = Conversations()
    async with hub.running():
        yield hub


@pytest.fixture
async def client(server: Conversations) -> AsyncIterator[Hub]:
    async with connect(server.url, token="t", timeout=5, backoff=Backoff(lambda: 0.01)) as hub:
        yield hub
