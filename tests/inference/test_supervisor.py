"""The embedded model as a child process: brought up, brought back, and never left behind."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hub.faults import Fault
from hub.inference.interface import ChatPart
from hub.inference.local.extra import packaged_model
from hub.inference.ollama import OllamaClient
from hub.inference.supervisor import LocalModel
from tests.inference.conftest import ask, collect, text, until

SCRIPTED = (sys.executable, "-m", "tests.parts.scripted")
"""Announces itself and ends with its stdin as the embedded model does."""


def child(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    model = LocalModel(command=SCRIPTED)
    yield model
    await model.close()


async def refuses(host: str, within: float = 10.0) -> bool:
    """Whether nobody listens at ``host`` any more, or soon."""
    address, port = host.removeprefix("http://").split(":")
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            socket.create_connection((address, int(port)), 1).close()
        except ConnectionRefusedError:
            return True
        await asyncio.sleep(0.05)
    return False


async def until_state(model: LocalModel, state: str, within: float = 10.0) -> None:
    await until(lambda: model.state == state, within)


async def test_it_is_ready_when_the_child_says_so_and_gone_after_close(model: LocalModel) -> None:
    model.start()
    assert model.host is None
    host = await model.ready(10)
    await until_state(model, "ready")
    assert model.host == host
    client = OllamaClient(host, first_token_s=5, next_token_s=5)
    assert text(await collect(client, ask("count", "2"))) == "1 2 "
    await client.close()
    await model.close()
    await until_state(model, "absent")
    assert await refuses(host)
    await model.close()


async def test_a_child_that_dies_is_started_again(model: LocalModel) -> None:
    model.start()
    first = await model.ready(10)
    pid = model.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until_state(model, "starting")
    assert model.host is None
    # Who asks meanwhile waits for it, and does not fail.
    again = await model.ready(10)
    assert model.pid != pid
    assert again != first or await refuses(first, 1) is False


async def test_a_child_that_does_not_start_leaves_its_last_words_as_the_reason() -> None:
    model = LocalModel(command=child("import sys; sys.exit('The model file cannot be used.')"))
    model.start()
    await until_state(model, "failed")
    assert model.reason == "The model file cannot be used."
    with pytest.raises(Fault) as failure:
        await model.ready(5)
    assert failure.value.reason == "model_unavailable"
    await model.close()


async def test_a_child_that_says_nonsense_has_failed() -> None:
    model = LocalModel(command=child("print('hello', flush=True); input()"))
    model.start()
    await until_state(model, "failed")
    await model.close()


async def test_a_program_that_is_not_there_has_failed() -> None:
    model = LocalModel(command=("/nonexistent/program",))
    model.start()
    await until_state(model, "failed")
    assert "cannot be started" in model.reason
    await model.close()


@pytest.mark.parametrize(
    "unforeseen",
    [("a program's name has no\0in it",), child("print('[' * 60_000, flush=True); input()")],
    ids=["before it is there", "while it is there"],
)
async def test_what_nobody_foresaw_is_logged_and_said_and_tried_again(
    unforeseen: tuple[str, ...],
) -> None:
    command = list(unforeseen)
    model = LocalModel(command=command)
    with capture_logs() as logged:
        model.start()
        await until_state(model, "failed")
        assert model.reason == "The embedded model failed in the hub; its log says why."
        assert (model.host, model.pid) == (None, None)
        command[:] = SCRIPTED
        await until_state(model, "ready")
    assert [line["event"] for line in logged if line.get("exc_info")] == [
        "local_model_not_supervised"
    ]
    await model.close()


async def test_waiting_for_a_child_that_loads_is_bounded() -> None:
    model = LocalModel(command=child("input()"))
    model.start()
    began = time.monotonic()
    with pytest.raises(Fault, match="not ready yet"):
        await model.ready(0.2)
    assert time.monotonic() - began < 2
    assert model.state == "starting"
    await model.close()


async def test_a_child_that_ignores_the_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.inference.supervisor.END_S", 0.3)
    stubborn = "import time; print('{\"port\": 1}', flush=True); time.sleep(600)"
    model = LocalModel(command=child(stubborn))
    model.start()
    await model.ready(10)
    pid = model.pid
    assert pid is not None
    await model.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_child_that_talks_a_lot_does_not_block() -> None:
    loud = (
        "import sys; print('{\"port\": 1}', flush=True); sys.stdout.write('x' * 500_000);"
        " sys.stderr.write('y' * 500_000); sys.stdout.flush(); sys.exit('said all')"
    )
    model = LocalModel(command=child(loud))
    model.start()
    await until(lambda: "said all" in model.reason)
    await model.close()


async def test_the_hubs_secrets_stay_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", "s" * 40)
    monkeypatch.setenv("HUB_DATABASE_URL", "postgresql://user:pw@db")
    model = LocalModel(command=child("import os, sys; sys.exit(' '.join(sorted(os.environ)))"))
    model.start()
    await until_state(model, "failed")
    assert "PATH" in model.reason
    assert "JWT" not in model.reason
    assert "HUB" not in model.reason
    await model.close()


async def test_a_model_file_that_is_not_there_is_said(extra: None, tmp_path: Path) -> None:
    model = LocalModel(gguf=tmp_path / "none.gguf")
    model.start()
    assert model.state == "absent"
    assert "HUB_LOCAL_MODEL" in model.reason
    with pytest.raises(Fault):
        await model.ready(1)


async def test_a_model_file_that_is_none_is_said(extra: None, tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("not a model")
    model = LocalModel(gguf=path)
    model.start()
    await until_state(model, "failed", 20)
    assert model.reason == "The model file cannot be used: the file is not in the GGUF format."
    await model.close()


async def test_a_model_killed_between_two_tokens_is_a_fault_and_comes_back(extra: None) -> None:
    model = LocalModel()
    model.start()
    client = OllamaClient(await model.ready(60), first_token_s=30, next_token_s=10)
    heard: list[ChatPart] = []

    async def listen() -> None:
        async for part in client.chat(ask("smollm2:135m", "Tell me a long story.")):
            heard.append(part)
            if len(heard) == 3:
                assert model.pid is not None
                os.kill(model.pid, signal.SIGKILL)

    with pytest.raises(Fault) as failure:
        await listen()
    assert failure.value.reason == "model_unavailable"
    assert len(heard) >= 3
    await client.close()
    await until_state(model, "starting")
    client = OllamaClient(await model.ready(60), first_token_s=30, next_token_s=10)
    parts = await collect(client, ask("smollm2:135m", "Hello.", num_predict=3))
    assert text(parts)
    await client.close()
    await model.close()


async def test_another_file_is_served_under_its_own_name(extra: None, tmp_path: Path) -> None:
    packaged = packaged_model()
    assert packaged is not None
    mine = tmp_path / "mine.gguf"
    mine.symlink_to(packaged)
    model = LocalModel(gguf=mine)
    model.start()
    client = OllamaClient(await model.ready(60), first_token_s=30, next_token_s=10)
    (info,) = await client.models()
    # A file that somebody chose is no stand-in for what they chose.
    assert (info.name, info.stand_in) == ("mine", False)
    await client.close()
    await model.close()


async def test_who_is_cancelled_while_it_ends_is_and_another_waits_for_the_same(
    model: LocalModel,
) -> None:
    model.start()
    host, child = await model.ready(10), model.pid
    assert child is not None
    first = asyncio.create_task(model.close())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    await model.close()
    assert await refuses(host, 0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert model.state == "absent"


PARENT = """
import asyncio, json, sys
import structlog
from hub.inference.supervisor import LocalModel

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    model = LocalModel(command=json.loads(sys.argv[1]) or None)
    model.start()
    print(await model.ready(60), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "real"])
async def test_the_child_does_not_outlive_a_parent_that_is_killed(
    real: bool, request: pytest.FixtureRequest
) -> None:
    if real:
        request.getfixturevalue("extra")
    command = json.dumps(None if real else SCRIPTED)
    parent = await asyncio.create_subprocess_exec(
        *child(PARENT), command, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        host = (await parent.stdout.readline()).decode().strip()
        assert not await refuses(host, 0.1)
    finally:
        parent.kill()
        await parent.wait()
    assert await refuses(host)
