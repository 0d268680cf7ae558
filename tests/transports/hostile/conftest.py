"""A hub process that is attacked, and looked at before and after."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.interaction.drivers import open_socket
from tests.parts.hub import HubProcess, sign_up
from tests.parts.ports import free_port
from tests.parts.scripted import ScriptedModel
from tests.transports.hostile.baseline import Watched
from tests.transports.hostile.neighbour import neighbour, somebody


@pytest.fixture(scope="package")
def watched(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> Iterator[Watched]:
    """A hub process for all tests here, warmed up: pools are full and caches have their content."""
    metrics_port = free_port()
    environment = {"OLLAMA_HOST": scripted_model.host, "HUB_METRICS_PORT": str(metrics_port)}
    process = HubProcess(tmp_path_factory.mktemp("hostile") / ".hub", free_port(), environment)
    process.start()
    try:
        watched = Watched(process, metrics_port)
        asyncio.run(_warm_up(watched))
        yield watched
    finally:
        process.kill()


async def _warm_up(watched: Watched) -> None:
    token = (await sign_up(watched.url, somebody()))["access_token"]
    async with neighbour(watched.url), open_socket(watched.ws_url, token) as socket:
        for _ in range(5):
            asked = [await socket.begin("conversation.list") for _ in range(60)]
            for one in asked:
                await socket.result(one)


@pytest.fixture
async def hub(watched: Watched) -> AsyncIterator[Watched]:
    """The hub process, which has to be at its baseline again when the test is over."""
    async with watched.unchanged():
        yield watched


@pytest.fixture
async def token(hub: Watched) -> str:
    """The access token of somebody new."""
    return str((await sign_up(hub.url, somebody()))["access_token"])
