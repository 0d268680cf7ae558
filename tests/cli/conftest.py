"""The ``hub`` command, run in this process: what it does not catch is raised here."""

import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from hub.cli import main


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


Hub = Callable[..., Ended]


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Hub]:
    """``hub("init", HUB_PORT="1")``: run a command with a data directory of the test."""
    mask = os.umask(0o022)
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB_DATA_DIR", str(tmp_path / ".hub"))
    monkeypatch.setenv("HUB_BCRYPT_COST", "4")
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")

    def run(*words: str, stdin: str = "", **environment: str) -> Ended:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with monkeypatch.context() as changed:
            for name, value in environment.items():
                changed.setenv(name, value)
            try:
                status = main(words)
            except SystemExit as wrong_usage:
                status = int(str(wrong_usage.code))
        return Ended(status, *capsys.readouterr())

    yield run
    os.umask(mask)
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(level)
