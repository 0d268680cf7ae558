"""Procfile is what honcho reads, and its commands are ones that the hub has."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from honcho.environ import parse_procfile

ROOT: Final = Path(__file__).resolve().parents[2]
PROCESSES: Final = dict(parse_procfile((ROOT / "Procfile").read_text()).processes)


def test_it_has_a_web_process_and_a_worker_and_nothing_else() -> None:
    assert list(PROCESSES) == ["web", "worker"]


def test_the_web_process_listens_where_the_platform_says() -> None:
    assert "--port $PORT" in PROCESSES["web"]


@pytest.mark.parametrize("name", PROCESSES)
def test_its_command_is_understood_by_the_hub(name: str) -> None:
    program, *words = shlex.split(PROCESSES[name].replace("$PORT", "0"))
    assert program == "hub"
    done = subprocess.run(
        [sys.executable, "-m", "hub", *words],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Two processes without Redis is what it refuses, once it has understood its options.
    assert done.returncode == 1
    assert "HUB_REDIS_URL" in done.stderr
