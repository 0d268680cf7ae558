"""``deployment/run`` as a user types it, with the real hub and a model that answers at once."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from deployment.environment import RUNTIME, Environment
from deployment.progress import Progress
from tests.parts.scripted import ScriptedModel

ROOT: Final = Path(__file__).resolve().parents[2]

# Elsewhere than under tests/run the environment may have to be made first, over the network.
pytestmark = pytest.mark.skipif(
    not Environment(ROOT, Progress()).has(RUNTIME), reason="tests/run makes .venv, and runs this"
)


@pytest.fixture
def environ(scripted_model: ScriptedModel, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "JWT_"))}
    return kept | {
        "OLLAMA_HOST": f"http://127.0.0.1:{scripted_model.port}",
        "HUB_DATA_DIR": str(tmp_path / "data dir"),
        "HUB_DEFAULT_MODEL": "echo",
        "HUB_BCRYPT_COST": "4",
    }


def run(environ: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [ROOT / "deployment/run", *words],
        env=environ,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_question_is_answered_and_the_hub_is_gone(environ: dict[str, str]) -> None:
    done = run(environ, "--ask", "Say this back.")
    assert done.returncode == 0, done.stderr
    assert "Say this back." in done.stdout
    assert "[" not in done.stdout
    assert not (Path(environ["HUB_DATA_DIR"]) / "hub.json").exists()


def test_a_second_question_finds_what_the_first_made(environ: dict[str, str]) -> None:
    run(environ, "--ask", "one")
    done = run(environ, "--ask", "two")
    assert (done.returncode, done.stdout.strip()) == (0, "two"), done.stderr


def test_it_greets_and_a_question_uses_it_and_ctrl_c_ends_it(environ: dict[str, str]) -> None:
    with subprocess.Popen(
        [ROOT / "deployment/run", "--port", "0"],
        env=environ,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as hub:
        try:
            assert hub.stdout is not None
            greeting = ""
            for line in hub.stdout:
                greeting += line
                if "Password" in line:
                    break
            url = re.search(r"http://127\.0\.0\.1:\d+", greeting)
            assert url is not None, greeting
            assert "#code=" in greeting
            asked = run(environ, "--ask", "Are you there?")
            assert (asked.returncode, asked.stdout.strip()) == (0, "Are you there?"), asked.stderr
            assert f"a hub runs at {url[0]}" in asked.stderr
        finally:
            os.killpg(hub.pid, signal.SIGINT)
            assert hub.wait(30) == 0


def test_a_port_that_is_taken_is_said(environ: dict[str, str], taken: int) -> None:
    done = run(environ, "--port", str(taken))
    assert done.returncode == 1
    assert f"port {taken}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_for_a_question_too(
    environ: dict[str, str], taken: int
) -> None:
    done = run(environ, "--port", str(taken), "--ask", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {taken}" in done.stderr


def test_a_setting_that_cannot_be_is_said(environ: dict[str, str]) -> None:
    done = run(environ | {"HUB_PORT": "eighty"}, "--ask", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HUB_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_is_said(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(environ, "--ask", "x", "--data-dir", str(tmp_path / "file/data"))
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / "file/data") in done.stderr
    assert "Traceback" not in done.stderr
