"""What one node was told of a model server, and what that spares the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.backplane.choice import open_backplane
from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane
from hub.ids import new_id
from hub.inference.catalogue import Catalogue
from hub.inference.interface import ModelInfo
from hub.inference.shared_catalogue import SharedCatalogue, name_of, place
from hub.telemetry.lookups import Lookups
from tests.backplane.sinks import eventually
from tests.inference.conftest import until
from tests.inference.test_catalogue import running, say, settings
from tests.parts.redis import RedisProcess
from tests.parts.scripted import ScriptedModel, scripted_server

WITHIN_S: Final = 1.0


class Node(NamedTuple):
    """A node's catalogue, its backplane, and what it counts."""

    catalogue: Catalogue
    backplane: Backplane
    lookups: Lookups

    async def names(self) -> set[str]:
        return {info.name for info in await self.catalogue.models()}


@asynccontextmanager
async def node(redis: RedisProcess, host: str) -> AsyncIterator[Node]:
    backplane, lookups = open_backplane(redis.url, new_id("n")), Lookups()
    await backplane.start()
    try:
        async with running(Catalogue(settings(host), backplane, lookups=lookups)) as catalogue:
            yield Node(catalogue, backplane, lookups)
    finally:
        await backplane.close()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is remembered grows old while a test runs."""
    _remembered_for(monkeypatch, 600.0, 1_200.0)


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node remembers is old at once, so that it looks for more each time."""
    _remembered_for(monkeypatch, 0.0, 1e-6)


def _remembered_for(monkeypatch: pytest.MonkeyPatch, kept_s: float, fresh_s: float) -> None:
    monkeypatch.setattr("hub.inference.shared_catalogue.KEPT_S", kept_s)
    monkeypatch.setattr("hub.inference.catalogue.KEPT_S", kept_s)
    monkeypatch.setattr("hub.inference.catalogue.FRESH_S", fresh_s)


@pytest.mark.usefixtures("kept")
async def test_what_one_node_was_told_the_others_know_without_asking(
    redis_server: RedisProcess,
) -> None:
    with scripted_server() as model:
        async with node(redis_server, model.host) as one:
            told = await one.catalogue.models()
            asked, shown = model.listed, model.shown
            async with node(redis_server, model.host) as two:
                assert await two.catalogue.models() == told
                assert await say(two.catalogue, "count", "3") == "1 2 3 "
                # That it is there at all, each node asks at its start.
                assert (model.listed, model.shown) == (asked + 1, shown)
                # It had asked for it at its start, as this test has.
                await until(lambda: two.lookups.hits == 2)
                assert two.lookups.misses == 0
            assert one.lookups.misses == 1
        # A prompt is not cut at a length that nobody asked for.
        context = next(info.context_length for info in told if info.name == "count")
        assert (await model.asked("3")).options["num_ctx"] == context


def _comes(model: ScriptedModel) -> None:
    model.models["newer"] = model.models["echo"]


def _goes(model: ScriptedModel) -> None:
    del model.models["slow"]


def _is_another(model: ScriptedModel) -> None:
    model.pulled += 1


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("change", [_comes, _goes, _is_another])
async def test_a_change_that_one_node_finds_is_known_to_the_others_within_a_second(
    redis_server: RedisProcess, change: Callable[[ScriptedModel], None]
) -> None:
    with scripted_server() as model:
        async with node(redis_server, model.host) as one, node(redis_server, model.host) as two:
            before = await one.catalogue.models()
            assert await two.catalogue.models() == before
            change(model)
            assert await two.catalogue.models() == before
            asked = model.listed
            found = await one.catalogue.models(0.0)
            assert found != before

            async def told() -> bool:
                return await two.catalogue.models() == found

            async with asyncio.timeout(WITHIN_S):
                await eventually(told)
            assert model.listed == asked + 1, "it was told, and did not ask"


@pytest.mark.usefixtures("kept")
async def test_nodes_that_ask_different_servers_know_nothing_of_each_others(
    redis_server: RedisProcess,
) -> None:
    with scripted_server() as model, scripted_server() as other:
        other.models = {"alone": other.models["echo"]}
        async with node(redis_server, model.host) as one, node(redis_server, other.host) as two:
            assert "echo" in await one.names()
            assert await two.names() == {"alone"}
            asked, heard = model.listed, asyncio.Event()
            await one.backplane.listen("models", lambda message: heard.set())
            _is_another(other)
            await two.catalogue.models(0.0)
            async with asyncio.timeout(WITHIN_S):
                await heard.wait()
            assert "echo" in await one.names()
            assert model.listed == asked


@pytest.mark.usefixtures("kept")
async def test_what_was_asked_before_a_change_was_told_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backplane = MemoryBackplane()
    with scripted_server() as model:
        one, two = (Catalogue(settings(model.host), backplane) for _ in range(2))
        async with running(one), running(two):
            await one.models()
            await two.models()
            ask, answered, go_on = two._ollama.models, asyncio.Event(), asyncio.Event()

            async def slowly() -> tuple[ModelInfo, ...]:
                found = await ask()
                answered.set()
                await go_on.wait()
                return found

            monkeypatch.setattr(two._ollama, "models", slowly)
            asking = asyncio.create_task(two.models(0.0))
            await answered.wait()
            _comes(model)
            await one.models(0.0)
            go_on.set()
            assert "newer" not in {info.name for info in await asking}
            assert "newer" in {info.name for info in await two.models()}


async def test_what_has_not_changed_takes_the_place_of_nothing_newer() -> None:
    shared = SharedCatalogue(MemoryBackplane())
    old, new = (ModelInfo("echo", "ollama", 2048, digest=digest) for digest in ("1", "2"))
    await shared.put("models:x", (old,), changed=False)
    await shared.put("models:x", (new,), changed=True)
    await shared.put("models:x", (old,), changed=False)
    assert await shared.find("models:x") == (new,)


@pytest.mark.usefixtures("stale")
@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_with_redis_away_each_node_asks_for_itself_without_waiting_long(
    own_redis: RedisProcess, how: str
) -> None:
    with scripted_server() as model:
        async with node(own_redis, model.host) as one:
            before = await one.catalogue.models()
            getattr(own_redis, how)()
            _comes(model)
            began = time.monotonic()
            assert await one.catalogue.models() != before
            assert "newer" in await one.names()
            assert time.monotonic() - began < 3.0
            if how == "pause":
                own_redis.resume()


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    "bytes_of_somebody",
    [
        b"",
        b"\xff\x00",
        b"no catalogue",
        b'{"name":"forged"}',
        b'["forged"]',
        b'[{"name":"forged","provider":"ollama"}]',
        b'[{"name":"forged","provider":"ollama","context_length":"8"}]',
        b'[{"name":"forged","provider":"ollama","context_length":8',
    ],
)
async def test_what_is_no_catalogue_is_not_believed(bytes_of_somebody: bytes) -> None:
    backplane = MemoryBackplane()
    with scripted_server() as model:
        await backplane.cache_set(name_of(model.host, place()), bytes_of_somebody, 600)
        async with running(Catalogue(settings(model.host), backplane)) as catalogue:
            assert {info.name for info in await catalogue.models()} == set(model.models)


async def test_what_is_shown_to_who_has_credentials_is_not_shared(
    scripted_model: ScriptedModel,
) -> None:
    backplane = MemoryBackplane()
    host = scripted_model.host.replace("//", "//ada:secret@")
    async with running(Catalogue(settings(host), backplane)) as catalogue:
        assert await catalogue.models()
        assert not len(backplane._shared.cache)


_TEXT = st.text(max_size=20)


@given(
    st.lists(
        st.builds(
            ModelInfo,
            name=_TEXT,
            provider=_TEXT,
            context_length=st.integers(1, 2**31),
            size_bytes=st.none() | st.integers(0, 2**48),
            stand_in=st.booleans(),
            digest=_TEXT,
        ),
        max_size=5,
    )
)
async def test_a_catalogue_is_found_as_it_was_put(models: list[ModelInfo]) -> None:
    shared = SharedCatalogue(MemoryBackplane())
    await shared.put("models:x", models, changed=False)
    assert await shared.find("models:x") == tuple(models)


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:11434",
        "http://127.9.9.9:11434",
        "http://[::1]:11434",
        "http://localhost:11434",
        "http://host.docker.internal:11434",
        "http://169.254.1.1:11434",
    ],
)
def test_a_loopback_address_is_another_server_at_each_place(host: str) -> None:
    assert name_of(host, "here") != name_of(host, "there")
    assert name_of(host, "here") == name_of(host, "here")
    assert place() == place()


@pytest.mark.parametrize("host", ["http://models.example:11434", "https://10.1.2.3:443"])
def test_any_other_address_is_the_same_server_from_everywhere(host: str) -> None:
    assert name_of(host, "here") == name_of(host, "there")
    assert name_of(host, "here") != name_of(f"{host}/path", "here")
