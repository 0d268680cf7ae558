"""Which model server is used, and what is said when there is none."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.inference.catalogue import Catalogue
from hub.inference.interface import ChatMessage, ChatRequest
from hub.inference.supervisor import LocalModel
from hub.settings import Settings, read_settings
from tests.backplane.sinks import eventually
from tests.inference.conftest import ask, text, until
from tests.parts.scripted import ScriptedModel, scripted_server

SCRIPTED = (sys.executable, "-m", "tests.parts.scripted")
SLOW = (sys.executable, "-c", "input()")


class NoLocalModel(LocalModel):
    """As it is where the extra is not installed."""

    def start(self) -> None:
        self.reason = "The extra local-model is not installed."


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def settings(host: str, **more: str) -> Settings:
    return read_settings(OLLAMA_HOST=host, **more)


@asynccontextmanager
async def closing(catalogue: Catalogue) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await catalogue.close()


@asynccontextmanager
async def running(catalogue: Catalogue) -> AsyncIterator[Catalogue]:
    await catalogue.start()
    async with closing(catalogue):
        yield catalogue


async def say(catalogue: Catalogue, model: str, prompt: str) -> str:
    return text([part async for part in catalogue.client().chat(ask(model, prompt))])


async def test_an_ollama_that_answers_is_used(scripted_model: ScriptedModel) -> None:
    local = LocalModel(command=SCRIPTED)
    async with running(Catalogue(settings(scripted_model.host), local=local)) as catalogue:
        assert await say(catalogue, "count", "3") == "1 2 3 "
        status = await catalogue.check()
        assert (status["state"], status["provider"]) == ("ready", "ollama")
        assert status["host"] == scripted_model.host
        assert status["stand_in"] is False
        assert local.pid is None


async def test_without_ollama_the_embedded_model_is_used(nobody: str) -> None:
    local = LocalModel(command=SCRIPTED)
    async with running(Catalogue(settings(nobody), local=local)) as catalogue:
        assert catalogue.status()["state"] == "starting"
        # To ask which models there are waits for it.
        info = await catalogue.resolve("count")
        assert info.provider == "local"
        assert await say(catalogue, "count", "3") == "1 2 3 "
        status = catalogue.status()
        assert (status["state"], status["provider"]) == ("ready", "local")
        assert status["stand_in"] is True
        assert "stand-in" in status["detail"]
        assert "Ollama" in status["detail"]


async def test_a_node_that_drives_no_runs_offers_what_those_have_that_do(nobody: str) -> None:
    backplane, local = MemoryBackplane(), LocalModel(command=SCRIPTED)
    idle = Catalogue(settings(nobody), backplane, local=local, reprobe_s=0.05, drives=False)
    async with running(idle):
        with pytest.raises(Fault, match="no model to ask"):
            await idle.models()
        assert "drives no runs" in idle.status()["detail"]
        driving = Catalogue(settings(nobody), backplane, local=LocalModel(command=SCRIPTED))
        async with running(driving):
            found = await driving.models()

            async def told() -> bool:
                return bool(idle.status()["state"] == "ready")

            await eventually(told)
            assert await idle.models() == found
            with pytest.raises(Fault, match="no model to ask"):
                idle.client()  # it is its node's alone
        assert local.pid is None


async def test_starting_does_not_wait_for_a_model_that_loads(nobody: str) -> None:
    catalogue = Catalogue(settings(nobody), local=LocalModel(command=SLOW), loading_s=0.2)
    began = time.monotonic()
    async with running(catalogue):
        assert time.monotonic() - began < 2
        with pytest.raises(Fault, match="not ready yet") as failure:
            await catalogue.resolve(None)
        assert failure.value.reason == "model_unavailable"
        with pytest.raises(Fault, match="not ready yet"):
            catalogue.client()
    assert time.monotonic() - began < 6


async def test_without_any_model_the_fault_says_how_to_get_one(nobody: str) -> None:
    async with running(Catalogue(settings(nobody), local=NoLocalModel())) as catalogue:

        async def client() -> None:
            catalogue.client()

        attempts: list[Awaitable[object]] = [client(), catalogue.models(), catalogue.resolve("x")]
        for attempt in attempts:
            with pytest.raises(Fault) as failure:
                await attempt
            assert failure.value.reason == "model_unavailable"
            for way in ("ollama pull", "OLLAMA_HOST", "pip install"):
                assert way in failure.value.message
        status = await catalogue.check()
        assert (status["state"], status["provider"], status["host"]) == ("absent", None, None)
        assert "not installed" in status["detail"]
        assert "ollama pull" in status["detail"]


async def test_the_default_model_is_the_set_one_else_the_first(
    scripted_model: ScriptedModel,
) -> None:
    async with running(Catalogue(settings(scripted_model.host))) as catalogue:
        assert (await catalogue.resolve(None)).name == "echo"
        assert (await catalogue.resolve("count")).name == "count"
    chosen = settings(scripted_model.host, HUB_DEFAULT_MODEL="count")
    async with running(Catalogue(chosen)) as catalogue:
        assert (await catalogue.resolve(None)).name == "count"
        assert (await catalogue.models())[0].name == "count"
        assert (await catalogue.resolve("echo")).name == "echo"
    wrong = settings(scripted_model.host, HUB_DEFAULT_MODEL="nonesuch")
    async with running(Catalogue(wrong)) as catalogue:
        with pytest.raises(Fault, match="nonesuch"):
            await catalogue.resolve(None)


async def test_an_unknown_model_comes_with_those_that_there_are(
    scripted_model: ScriptedModel,
) -> None:
    async with running(Catalogue(settings(scripted_model.host))) as catalogue:
        with pytest.raises(Fault, match="ollama pull nonesuch") as failure:
            await catalogue.resolve("nonesuch")
    assert failure.value.reason == "model_unavailable"
    assert "echo" in failure.value.message
    assert "echo" in failure.value.details["models"]


async def test_a_name_is_known_without_its_latest_tag() -> None:
    with scripted_server() as model:
        model.models = {"llama3.2:latest": model.models["echo"]}
        async with running(Catalogue(settings(model.host))) as catalogue:
            assert (await catalogue.resolve("llama3.2")).name == "llama3.2:latest"


async def test_an_ollama_without_models_says_which_command_gets_one() -> None:
    with scripted_server() as model:
        model.models = {}
        async with running(Catalogue(settings(model.host))) as catalogue:
            with pytest.raises(Fault, match=r"ollama pull llama3\.2"):
                await catalogue.resolve(None)
            status = await catalogue.check()
            assert status["state"] == "failed"
            assert "ollama pull" in status["detail"]


async def test_the_models_are_asked_for_once_in_a_while() -> None:
    with scripted_server() as model:
        async with running(Catalogue(settings(model.host))) as catalogue:
            first = await catalogue.models()
            listed = model.listed
            await asyncio.gather(*(catalogue.models() for _ in range(20)))
            assert model.listed == listed
            assert await catalogue.models() == first


async def test_a_model_that_came_is_found_at_once_and_one_that_went_is_missed_soon_on_every_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub.inference.catalogue.MISSED_S", 0.0)
    with scripted_server() as model:
        one, two = (Catalogue(settings(model.host)) for _ in range(2))
        async with running(one), running(two):
            nodes = (one, two)
            for node in nodes:
                await node.resolve("echo")
                with pytest.raises(Fault, match="no model"):
                    await node.resolve("newer")
            model.models["newer"] = model.models["echo"]
            for node in nodes:
                assert (await node.resolve("newer")).name == "newer"
            del model.models["newer"]
            monkeypatch.setattr("hub.inference.catalogue.FRESH_S", 0.0)  # as if it had passed
            for node in nodes:
                with pytest.raises(Fault, match="no model"):
                    await node.resolve("newer")


async def test_models_that_are_not_there_are_not_asked_for_each_time() -> None:
    with scripted_server() as model:
        async with running(Catalogue(settings(model.host))) as catalogue:
            await catalogue.models()
            listed = model.listed
            for number in range(20):
                with pytest.raises(Fault, match="no model"):
                    await catalogue.resolve(f"nowhere-{number}")
            assert model.listed <= listed + 1


async def test_a_server_that_went_away_is_told_and_replaced() -> None:
    local = LocalModel(command=SCRIPTED)
    with scripted_server() as model:
        catalogue = Catalogue(settings(model.host), local=local, reprobe_s=0.1)
        await catalogue.start()
    async with closing(catalogue):
        with pytest.raises(Fault, match="not available"):
            await say(catalogue, "count", "1")
        await until(lambda: catalogue.status()["provider"] == "local")
        await catalogue.resolve("count")
        assert await say(catalogue, "count", "2") == "1 2 "


async def test_an_ollama_that_appears_is_used_and_answers_that_stream_go_on() -> None:
    local = LocalModel(command=SCRIPTED)
    with scripted_server() as model:
        model.refusing = True
        catalogue = Catalogue(settings(model.host), local=local, reprobe_s=0.1)
        async with running(catalogue):
            await catalogue.resolve("slow")
            request = ChatRequest("slow", (ChatMessage("user", "go on"),))
            streaming = catalogue.client().chat(request)
            assert await anext(streaming)
            model.refusing = False
            await until(lambda: catalogue.status()["provider"] == "ollama")
            for _ in range(5):
                assert await anext(streaming)
            assert local.state == "ready"
            await streaming.aclose()
            await until(lambda: local.state == "absent")
            assert await say(catalogue, "count", "2") == "1 2 "


async def test_a_failure_that_nobody_foresaw_does_not_end_the_watch_for_an_ollama() -> None:
    class Unforeseen(LocalModel):
        failed = 0

        def start(self) -> None:
            if self._task is not None and self.failed < 2:  # not the first time: as it is watched
                self.failed += 1
                raise RuntimeError("nobody foresaw this")
            super().start()

    local = Unforeseen(command=SCRIPTED)
    with scripted_server() as model:
        model.refusing = True
        catalogue = Catalogue(settings(model.host), local=local, reprobe_s=0.01)
        async with running(catalogue):
            await until(lambda: local.failed == 2)
            model.refusing = False
            await until(lambda: catalogue.status()["provider"] == "ollama")


async def test_an_embedded_model_that_died_is_asked_again_at_its_new_address(nobody: str) -> None:
    local = LocalModel(command=SCRIPTED)
    async with running(Catalogue(settings(nobody), local=local)) as catalogue:
        await catalogue.resolve("count")
        assert local.pid is not None
        os.kill(local.pid, signal.SIGKILL)
        await until(lambda: local.state != "ready")
        await catalogue.resolve("count")
        assert await say(catalogue, "count", "2") == "1 2 "


async def test_after_the_end_nothing_is_asked(nobody: str) -> None:
    catalogue = Catalogue(settings(nobody), local=LocalModel(command=SCRIPTED))
    await catalogue.start()
    await catalogue.resolve("count")
    client = catalogue.client()
    await catalogue.close()
    await catalogue.close()
    with pytest.raises(Fault):
        await anext(client.chat(ask("count", "2")))
    with pytest.raises(Fault):
        await catalogue.models()
