"""tests/run fails when one of its steps does, and names it."""

import io
import sys
from pathlib import Path

import pytest

from deployment.environment import Environment
from deployment.progress import Progress
from tests import machine
from tests.suite import Steps, main


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    """Steps that run in this Python."""
    progress = Progress(io.StringIO())
    environment = Environment(tmp_path, progress)
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    environment.python.chmod(0o755)
    return Steps(environment, progress)


def test_a_step_that_fails_is_named(steps: Steps, capfd: pytest.CaptureFixture[str]) -> None:
    steps.run("good", ("json.tool", "--help"))
    steps.run("bad", ("json.tool", "--no-such-option"))
    capfd.readouterr()
    assert steps.failed == ["bad"]
    assert "FAILED: bad" in steps.summary()


def test_steps_that_pass_are_said_to(steps: Steps, capfd: pytest.CaptureFixture[str]) -> None:
    steps.run("good", ("json.tool", "--help"))
    capfd.readouterr()
    assert steps.failed == []
    assert "everything passed" in steps.summary()


def test_check_takes_no_arguments_for_pytest(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--check", "-k", "x"])
    assert caught.value.code == 2
    capfd.readouterr()


def test_a_program_is_found_on_the_path_or_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "15").mkdir()
    (tmp_path / "15/initdb").touch()
    assert machine.Program("sh", "x", ("sh",)).is_here()
    assert machine.Program("x", "x", ("no-such-program",), (f"{tmp_path}/*/initdb",)).is_here()


def test_a_program_that_is_nowhere_is_missing() -> None:
    nowhere = machine.Program("x", "x", ("no-such-program",), ("/no/such/*/place",))
    assert machine.missing([nowhere]) == [nowhere]
