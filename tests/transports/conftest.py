"""One hub for the tests of a module that do not change it, and somebody who is signed in there."""

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from tests.parts.hub import ServedHub, serving
from tests.parts.scripted import ScriptedModel

ORIGIN = "https://chat.example"
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> AsyncIterator[ServedHub]:
    """A hub for all tests of a module."""
    folder = tmp_path_factory.mktemp("hub")
    async with serving(
        folder / ".hub", OLLAMA_HOST=scripted_model.host, HUB_ALLOWED_ORIGINS=ORIGIN
    ) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def session(hub: ServedHub) -> dict[str, Any]:
    """The login session of somebody new."""
    return await hub.sign_up(f"someone-{next(_NUMBERS)}@hub.example")


@pytest.fixture
def token(session: dict[str, Any]) -> str:
    """The access token of somebody new."""
    return str(session["access_token"])
