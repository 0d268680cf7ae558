"""Suite: what ``tests/run`` does once it has a Python: install, check, test, sum up."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deployment import child, model
from deployment.environment import RUNTIME, TESTS, Environment
from deployment.failure import Failure
from deployment.progress import Progress
from deployment.start import terminated
from tests import machine, node

ROOT: Final = Path(__file__).resolve().parent.parent
GRACE_S: Final = 60.0
"""How long an interrupted step may take to end the servers it started."""

MOST_PROCESSES: Final = 4
"""Each starts servers of its own: more would want the memory of a large machine."""

NOT_OURS: Final = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"})
"""What of the environment no step gets. Some hundreds of hubs are started: without bytecode each
would compile the hub anew, which is a fifth of its start.
"""

CHECKS: Final = (
    ("ruff check", ("ruff", "check", "--quiet", ".")),
    ("ruff format", ("ruff", "format", "--check", "--quiet", ".")),
    ("mypy", ("mypy",)),
)


class Steps:
    """What was done, how long each step took, and which failed."""

    def __init__(self, environment: Environment, progress: Progress) -> None:
        self._environment = environment
        self._progress = progress
        self._done: list[tuple[str, float, bool]] = []

    def run(self, name: str, words: Sequence[str]) -> None:
        """Runs a program of the environment, by module name and arguments."""
        self._progress.say(name)
        began = self._progress.elapsed
        status = child.run(
            [str(self._environment.python), "-P", "-m", *words],
            environ=self._variables(),
            grace_s=GRACE_S,
        )
        self.note(name, self._progress.elapsed - began, passed=status == 0)

    def note(self, name: str, seconds: float, *, passed: bool) -> None:
        self._done.append((name, seconds, passed))

    def summary(self) -> str:
        rows = [
            f"  {name:<24}{seconds:8.1f} s   {'ok' if passed else 'FAILED'}"
            for name, seconds, passed in self._done
        ]
        verdict = ", ".join(self.failed)
        end = f"FAILED: {verdict}" if verdict else "everything passed"
        return "\n".join(["", *rows, f"tests/run: {end} in {self._progress.elapsed:.0f} s"])

    @property
    def failed(self) -> list[str]:
        return [name for name, _, passed in self._done if not passed]

    def _variables(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in NOT_OURS}
        scripts = str(self._environment.python.parent)
        return kept | {"PATH": f"{scripts}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def prepare(environment: Environment, progress: Progress, steps: Steps, *, check: bool) -> None:
    """Installs what is missing. What cannot be is said; with CI=true that is a failed step."""
    environment.prepare(RUNTIME, TESTS)
    if check:
        return
    absent: list[str] = []
    try:
        model.prepare(environment, progress)
    except Failure as failure:
        progress.say(f"{failure}\nThe tests of the stand-in model are skipped.")
        absent.append("the stand-in model")
    wanted = machine.missing()
    if wanted:
        absent += [program.what for program in machine.install(wanted, progress)]
    try:
        node.prepare(ROOT, progress)
    except Failure as failure:
        progress.say(f"{failure}\nThe tests of identity providers are skipped.")
        absent.append("the identity provider")
    if absent and os.environ.get("CI") == "true":
        steps.note(f"install {', '.join(absent)}", progress.elapsed, passed=False)


def side_by_side() -> tuple[str, ...]:
    """How all tests are run: some files at a time, each with parts of its own; one more than there
    are cores, since many wait. In the order of ``tests/conftest.py``.
    """
    processes = min((os.cpu_count() or 1) + 1, MOST_PROCESSES)
    return ("-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder")


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns 0 only when every step passed."""
    signal.signal(signal.SIGTERM, terminated)
    parser = argparse.ArgumentParser(
        prog="tests/run",
        usage="tests/run [--check] [pytest arguments]",
        description="Installs what the tests need (Python packages into .venv; Redis, PostgreSQL, "
        "Node.js and Chromium by apt-get where it may; an identity provider by npm), then runs "
        "ruff, mypy and pytest. Other arguments go to pytest, which then runs one test after the "
        "other; without any, some files at a time. With CI=true nothing that is missing "
        "is forgiven.",
        allow_abbrev=False,
    )
    parser.add_argument("--check", action="store_true", help="ruff and mypy only")
    chosen, for_pytest = parser.parse_known_args(arguments)
    if chosen.check and for_pytest:
        parser.error("--check runs no tests, and takes no arguments for them")
    progress = Progress(sys.stdout)
    try:
        os.chdir(ROOT)
        environment = Environment(ROOT, progress)
        steps = Steps(environment, progress)
        prepare(environment, progress, steps, check=chosen.check)
        steps.note("install", progress.elapsed, passed=True)
        for name, words in CHECKS:
            steps.run(name, words)
        if not chosen.check:
            steps.run("pytest", ("pytest", *(for_pytest or side_by_side())))
    except (Failure, OSError) as failure:
        sys.stderr.write(f"\ntests/run: {failure}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ntests/run: stopped\n")
        return 130
    sys.stdout.write(steps.summary() + "\n")
    return 1 if steps.failed else 0
