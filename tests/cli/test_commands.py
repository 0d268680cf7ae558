"""The ``hub`` command: what it does, what it says when it cannot, and never a traceback."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from hub.cli import main
from hub.operations.table import OPERATIONS
from hub.transports.asyncapi import asyncapi
from hub.transports.openapi import openapi
from tests.parts.hub import ROOT, HubProcess, ServedHub
from tests.parts.ports import free_port

WITHIN_S: Final = 40.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str


Hub = Callable[..., Coroutine[Any, Any, Ended]]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """``await hub("init", HUB_PORT="1")``: run a command with its own data directory."""

    async def run(*words: str, stdin: str = "", **environment: str) -> Ended:
        clean: Mapping[str, str] = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HUB_", "JWT_", "OLLAMA_"))
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hub",
            *words,
            cwd=tmp_path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **clean,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "clients/python"))),
                "HUB_DATA_DIR": str(tmp_path / ".hub"),
                "HUB_BCRYPT_COST": "4",
                "OLLAMA_HOST": "http://127.0.0.1:9",
                **environment,
            },
        )
        try:
            async with asyncio.timeout(WITHIN_S):
                out, err = await process.communicate(stdin.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        ended = Ended(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in ended.err + ended.out, ended.err
        return ended

    return run


async def test_init_makes_everything_once_and_says_the_password_once(
    hub: Hub, tmp_path: Path
) -> None:
    first = await hub("init")
    assert first.status == 0
    kept = tmp_path / ".hub/administrator.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    (key,) = (tmp_path / ".hub/keys").glob("*.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    account = json.loads(kept.read_text())
    assert account["email"] in first.out
    assert account["password"] in first.out
    again = await hub("init")
    assert again.status == 0
    assert "Password" not in again.out
    assert json.loads(kept.read_text()) == account


@pytest.mark.parametrize("name", ["openapi", "asyncapi", "reference"])
def test_a_document_is_the_one_that_the_hub_serves(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    if name == "reference":
        assert printed.out == (ROOT / "hub/REFERENCE.md").read_text("utf-8")
    else:
        document = openapi(OPERATIONS) if name == "openapi" else asyncapi(OPERATIONS)
        assert json.loads(printed.out) == json.loads(json.dumps(document))


async def test_doctor_tells_each_part_and_what_to_do(hub: Hub, tmp_path: Path) -> None:
    ended = await hub("doctor", HUB_LOCAL_MODEL="/nowhere/a-model.gguf")
    lines = {line[9:].partition(":")[0]: line for line in ended.out.splitlines()}
    assert ended.status == 1, "there is no model"
    for part in ("data directory", "signing key", "database", "backplane", "hub"):
        assert lines[part].startswith("ok "), ended.out
    assert lines["model"].startswith("PROBLEM ")
    assert "not running" in lines["hub"]


async def test_doctor_of_a_hub_that_was_killed_says_so(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / ".hub").mkdir()
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / ".hub/hub.json").write_text(json.dumps({"pid": 1, "url": url}))
    ended = await hub("doctor")
    (line,) = [line for line in ended.out.splitlines() if " hub: " in line]
    assert line.startswith("PROBLEM")
    assert url in line
    assert "hub serve" in line


async def test_a_fresh_data_directory_is_made_whatever_is_kept_elsewhere(
    hub: Hub, hub_process: HubProcess, tmp_path: Path
) -> None:
    """As on a second node: the key and the database, with its users, are there already."""
    elsewhere = {
        "HUB_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/elsewhere/hub.db",
        "JWT_SECRET_KEY": "kDmW3Zq8vN5tYb2RfLx7HcJ4sGpA9eUi6oTnVyXwQrE1",
    }
    assert (await hub("init", **elsewhere)).status == 0
    hub_process.environment |= {**elsewhere, "HUB_DATA_DIR": str(tmp_path / "fresh/.hub")}
    await asyncio.to_thread(hub_process.start)
    assert (tmp_path / "fresh/.hub/hub.json").exists()
    assert await asyncio.to_thread(hub_process.stop) == 0
    assert not (tmp_path / "fresh/.hub/hub.json").exists()


async def test_what_the_operators_commands_give_opens_the_running_hub(
    hub: Hub, hub_process: HubProcess
) -> None:
    await asyncio.to_thread(hub_process.start, "--greet")
    assert "Sign in once" in hub_process.log
    account = json.loads((hub_process.data_dir / "administrator.json").read_text())
    assert account["password"] in hub_process.log
    token, link, doctor = await asyncio.gather(
        hub("token", "--email", account["email"]),
        hub("link"),
        hub("doctor", OLLAMA_HOST=hub_process.environment["OLLAMA_HOST"]),
    )
    assert doctor.status == 0, doctor.out
    assert hub_process.url in doctor.out
    async with httpx.AsyncClient(base_url=hub_process.url, trust_env=False) as client:
        bearer = {"Authorization": f"Bearer {token.out.strip()}"}
        told = (await client.get("/v1/sessions/current", headers=bearer)).json()
        assert told["roles"] == ["owner"]
        code = {"code": link.out.strip()}
        assert (await client.post("/v1/auth/link", json=code)).status_code == 200
        assert (await client.post("/v1/auth/link", json=code)).status_code == 401
    assert await asyncio.to_thread(hub_process.stop) == 0
    assert "Traceback" not in hub_process.log


async def test_chat_prints_one_answer_and_nothing_else(hub: Hub, served_hub: ServedHub) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    asked = ("chat", "--url", served_hub.url, "--token", token, "--model", "echo")
    answered, refused, away = await asyncio.gather(
        hub(*asked, "Why is the sky blue?"),
        hub("chat", "--url", served_hub.url, "--token", "nonsense", "Hello?"),
        hub("chat", "--url", f"http://127.0.0.1:{free_port()}", "--token", token, "Hello?"),
    )
    assert (answered.status, answered.out) == (0, "Why is the sky blue?\n")
    for failed in (refused, away):
        assert (failed.status, failed.out) == (1, "")
        assert failed.err
        assert token not in failed.err
