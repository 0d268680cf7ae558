"""Processes that are ended with their test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.processes import WorkerProcess
from tests.parts.scripted import ScriptedModel

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(tmp_path: Path, scripted_model: ScriptedModel) -> Iterator[StartWorker]:
    """``start_worker(**settings by environment name)``, on the data directory of ``serve_hub``."""
    started: list[WorkerProcess] = []

    def start(**environment: str) -> WorkerProcess:
        settings = {
            "HUB_DATA_DIR": str(tmp_path / ".hub"),
            "OLLAMA_HOST": scripted_model.host,
            **environment,
        }
        started.append(WorkerProcess(tmp_path / f"worker-{len(started)}.log", settings))
        return started[-1]

    yield start
    for worker in started:
        worker.end()
