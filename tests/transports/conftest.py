"""One hub for the tests of a module that do not change it, and somebody who is signed in there.

Every hub of these tests leaves nothing behind, and no traceback in the log.
"""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from tests.parts.hub import ServedHub, ServeHub, Server, serving
from tests.parts.scripted import ScriptedModel
from tests.parts.standing import accounted, tracebacks

ORIGIN = "https://chat.example"
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> AsyncIterator[ServedHub]:
    """A hub for all tests of a module."""
    folder = tmp_path_factory.mktemp("hub")
    hub = serving(folder / ".hub", OLLAMA_HOST=scripted_model.host, HUB_ALLOWED_ORIGINS=ORIGIN)
    async with accounted(hub) as served:
        yield served


@pytest.fixture
def serve_hub(serve_hub: ServeHub) -> ServeHub:
    """Serve hubs that leave nothing behind."""

    def serve(*by: Server, **more: Any) -> Any:
        return accounted(serve_hub(*by, **more))

    return serve


@pytest.fixture(scope="module", autouse=True)
def tracebacks_of_module() -> Iterator[list[str]]:
    """What is logged with a traceback while a module's tests and hubs last, which is nothing."""
    with tracebacks() as seen:
        yield seen
    assert not seen, seen


@pytest.fixture
def failing(tracebacks_of_module: list[str]) -> Iterator[list[str]]:
    """For a test that makes the hub fail as nobody foresaw: the tracebacks that it logs."""
    before = len(tracebacks_of_module)
    yield tracebacks_of_module
    assert len(tracebacks_of_module) > before
    del tracebacks_of_module[before:]


@pytest_asyncio.fixture(loop_scope="module")
async def session(hub: ServedHub) -> dict[str, Any]:
    """The login session of somebody new."""
    return await hub.sign_up(f"someone-{next(_NUMBERS)}@hub.example")


@pytest.fixture
def token(session: dict[str, Any]) -> str:
    """The access token of somebody new."""
    return str(session["access_token"])
