"""What a hub does with its memory before it serves."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.cli.serving import HubServer, serve
from hub.settings import read_settings
from tests.parts.redis import free_port


@pytest.fixture
def thawed() -> Iterator[None]:
    """The garbage collector as it is without a hub."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_the_start_up_made_is_left_out_of_collections_when_serving_begins(
    tmp_path: Path, thawed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked: list[tuple[int, int]] = []

    async def look(*_: object, **__: object) -> None:
        tracked.append((gc.get_freeze_count(), len(gc.get_objects())))

    monkeypatch.setattr(HubServer, "serve", look)
    settings = read_settings(
        HUB_DATA_DIR=tmp_path / ".hub",
        HUB_PORT=free_port(),
        HUB_BCRYPT_COST="4",
        OLLAMA_HOST=f"http://127.0.0.1:{free_port()}",
        HUB_LOCAL_MODEL="/nowhere/a-model.gguf",
    )
    assert gc.get_freeze_count() == 0
    assert serve(settings, worker=True, greet=False) == 0
    ((frozen, left),) = tracked
    assert frozen > 10 * left
