"""deployment/newest-python takes the newest Python that can run the hub."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
FIXED_PLACES: Final = " /usr/local/bin /usr/bin /opt/homebrew/bin"

# A Python that says it is of another version; it runs the launcher's own check.
PRETENDER: Final = """#!/bin/sh
exec {python} -E -s -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$4"
"""

Offer = Callable[..., Path]


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    """Puts a Python of a version on the PATH, by default as pythonX.Y."""

    def put(*version: object, name: str | None = None, folder: str = "bin") -> Path:
        path = tmp_path / folder / (name or f"python{version[0]}.{version[1]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        full = (*version, 1, "final", 0) if len(version) == 2 else version
        shown = str(full).replace("'", '"')
        path.write_text(PRETENDER.format(python=sys.executable, version=shown))
        path.chmod(0o755)
        return path

    return put


def look(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the script where only what the test offers is in sight."""
    text = (ROOT / "deployment/newest-python").read_text()
    assert FIXED_PLACES in text
    script = tmp_path / "newest-python"
    script.write_text(text.replace(FIXED_PLACES, ""))
    return subprocess.run(
        ["/bin/sh", script],
        env={"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_newest_is_taken(tmp_path: Path, offer: Offer) -> None:
    offer(3, 11), offer(3, 13), offer(3, 12)
    offer(3, 11, name="python3")
    assert look(tmp_path).stdout == f"{tmp_path}/bin/python3.13\n"


def test_a_plain_python3_serves(tmp_path: Path, offer: Offer) -> None:
    offer(3, 12, name="python3")
    offer(3, 10)
    assert look(tmp_path).stdout == f"{tmp_path}/bin/python3\n"


def test_a_python_newer_than_the_pins_wheels_is_taken_last(tmp_path: Path, offer: Offer) -> None:
    offer(3, 15)
    assert look(tmp_path).stdout == f"{tmp_path}/bin/python3.15\n"
    offer(3, 11)
    assert look(tmp_path).stdout == f"{tmp_path}/bin/python3.11\n"


def test_one_that_does_not_run_is_passed_over(tmp_path: Path, offer: Offer) -> None:
    offer(3, 11)
    broken = offer(3, 13)
    broken.write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    assert look(tmp_path).stdout == f"{tmp_path}/bin/python3.11\n"


def test_a_shim_that_fails_does_not_hide_a_good_one_further_on(
    tmp_path: Path, offer: Offer
) -> None:
    offer(3, 12).write_text("#!/bin/sh\nexit 127\n")
    good = offer(3, 12, folder="more bin")
    found = look(tmp_path, PATH=f"{tmp_path}/bin:{tmp_path}/more bin")
    assert found.stdout == f"{good}\n"


def test_a_pre_release_is_passed_over(tmp_path: Path, offer: Offer) -> None:
    offer(3, 14, 0, "candidate", 1)
    offer(3, 11)
    assert look(tmp_path).stdout == f"{tmp_path}/bin/python3.11\n"


def test_one_that_pyenv_built_is_found(tmp_path: Path, offer: Offer) -> None:
    built = offer(3, 12, folder=".pyenv/versions/3.12.4/bin")
    assert look(tmp_path).stdout == f"{built}\n"


def test_an_old_one_is_refused_with_what_to_install(tmp_path: Path, offer: Offer) -> None:
    old = offer(3, 10, name="python3")
    found = look(tmp_path)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "needs Python 3.11 or newer" in found.stderr
    assert f"{old}: 3.10 is older than 3.11" in found.stderr
    assert "Install it" in found.stderr


def test_none_at_all_is_said(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.returncode == 1
    assert "needs Python 3.11 or newer, and found none." in found.stderr


def test_hub_python_decides(tmp_path: Path, offer: Offer) -> None:
    offer(3, 13)
    mine = offer(3, 11, folder="my own")
    assert look(tmp_path, HUB_PYTHON=str(mine)).stdout == f"{mine}\n"


@pytest.mark.parametrize("version", [(3, 9), (3, 10)])
def test_an_old_hub_python_is_refused_and_not_replaced(
    tmp_path: Path, offer: Offer, version: tuple[int, int]
) -> None:
    offer(3, 13)
    mine = offer(*version, folder="mine")
    found = look(tmp_path, HUB_PYTHON=str(mine))
    assert (found.returncode, found.stdout) == (1, "")
    assert "is older than 3.11" in found.stderr


def test_a_hub_python_that_is_not_there_is_said(tmp_path: Path, offer: Offer) -> None:
    offer(3, 13)
    found = look(tmp_path, HUB_PYTHON="/no/such/python")
    assert (found.returncode, found.stdout) == (1, "")
    assert "/no/such/python" in found.stderr


@pytest.mark.parametrize("command", ["deployment/run", "deployment/pin", "tests/run"])
def test_the_commands_end_when_there_is_no_python(command: str) -> None:
    done = subprocess.run(
        [ROOT / command],
        env={**os.environ, "HUB_PYTHON": "/no/such/python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/such/python" in done.stderr
