"""The benchmarks run. What they measure is for eyes: nothing here judges a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.bench", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_quick_fan_out_prints_its_table_beside_the_floor_and_the_peers(tmp_path: Path) -> None:
    pytest.importorskip("socketio")
    done = _run("fanout", "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    assert " cores of " in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    [table] = figures["tables"]
    at = table["columns"].index("x floor")
    ratios = {(row[0], row[1]): row[at] for row in table["rows"]}
    for (name, _), ratio in ratios.items():
        assert name in done.stdout
        assert ratio > 0
    for subscribers in (1, 100):
        assert ratios["floor: a ready frame on raw transports", subscribers] == 1
    assert {name for name, _ in ratios} >= {
        "hub",
        "hub, 10 events in one turn, 20 conversations a socket",
        "websockets.broadcast",
        "python-socketio, a room",
    }


def test_an_unknown_benchmark_is_refused_with_the_names_of_those_there_are() -> None:
    done = _run("nothing")
    assert done.returncode == 2
    for name in ("fanout", "first-token", "idle", "append"):
        assert name in done.stderr
