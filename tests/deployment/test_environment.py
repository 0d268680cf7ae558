"""The environment is made once, mended when it must be, and says why when it cannot be."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from deployment.environment import RUNTIME, TESTS, Environment, Part
from deployment.failure import Failure
from deployment.progress import Progress
from tests.deployment.conftest import Checkout

ROOT: Final = Path(__file__).resolve().parents[2]

PREPARE: Final = """
import os, sys
from pathlib import Path
from deployment.environment import RUNTIME, Environment
from deployment.failure import Failure
from deployment.progress import Progress
try:
    Environment(Path(sys.argv[1]), Progress(), os.environ).prepare(RUNTIME)
except Failure as failure:
    sys.exit(str(failure))
"""


def tiny(checkout: Checkout) -> str:
    """What the environment's ``hub`` command prints from the directory ``/``."""
    words = [str(checkout.root / ".venv/bin/hub"), "a b"]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=True)
    return str(done.stdout)


def mark(checkout: Checkout) -> Path:
    return checkout.root / ".venv/prepared.json"


def test_it_has_the_pinned_packages_and_the_hub(first_start: Checkout) -> None:
    assert tiny(first_start).startswith("1.0 ")
    assert "'a b'" in tiny(first_start)
    assert "making .venv with Python" in first_start.said.getvalue()


def test_a_second_start_does_nothing_and_says_nothing(prepared: Checkout) -> None:
    before = mark(prepared).stat().st_mtime_ns
    # pip would fail: it has no way to packages.
    prepared.environment(PIP_FIND_LINKS="").prepare(RUNTIME)
    assert prepared.said.getvalue() == ""
    assert mark(prepared).stat().st_mtime_ns == before


def test_a_changed_pin_is_installed_into_what_is_there(prepared: Checkout) -> None:
    prepared.pin("2.0", prepared.publish("2.0"))
    prepared.environment().prepare(RUNTIME)
    assert tiny(prepared).startswith("2.0 ")
    assert "making .venv" not in prepared.said.getvalue()


def test_another_part_is_added_to_what_is_there(prepared: Checkout) -> None:
    environment = prepared.environment()
    prepared.pin("3.0", prepared.publish("3.0"), TESTS.file)
    assert not environment.has(TESTS)
    environment.prepare(RUNTIME, TESTS)
    assert environment.has(TESTS)
    assert "installing the hub's dependencies" not in prepared.said.getvalue()


def test_other_flags_make_another_part(prepared: Checkout) -> None:
    environment = prepared.environment()
    assert environment.has(RUNTIME)
    assert not environment.has(Part(RUNTIME.file, RUNTIME.what, ("--no-deps",)))


def test_a_file_with_another_hash_is_refused_and_what_was_there_still_works(
    prepared: Checkout,
) -> None:
    before = tiny(prepared)
    prepared.publish("4.0", "print('not what was pinned')")
    prepared.pin("4.0", "0" * 64)
    with pytest.raises(Failure) as caught:
        prepared.environment().prepare(RUNTIME)
    assert "could not install" in str(caught.value)
    assert "not the one that was pinned" in str(caught.value)
    assert tiny(prepared) == before
    prepared.pin("4.0", prepared.publish("4.0"))
    prepared.environment().prepare(RUNTIME)
    assert tiny(prepared).startswith("4.0 ")
    assert "making .venv" not in prepared.said.getvalue()


def test_an_index_that_is_away_is_said(prepared: Checkout) -> None:
    prepared.pin("5.0", "0" * 64, TESTS.file)
    nowhere = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    environment = prepared.environment(**nowhere, PIP_FIND_LINKS="", PIP_RETRIES="1")
    with pytest.raises(Failure, match="index could not be reached"):
        environment.prepare(TESTS)


def test_pips_settings_that_would_install_elsewhere_do_not_count(prepared: Checkout) -> None:
    target = prepared.root / "elsewhere"
    prepared.pin("6.0", prepared.publish("6.0"))
    prepared.environment(PIP_USER="1", PIP_TARGET=str(target)).prepare(RUNTIME)
    assert tiny(prepared).startswith("6.0 ")
    assert not target.exists()


@pytest.mark.parametrize(
    "fault",
    [{"changing": True}, {"python": "3.9.1"}, {"root": "/elsewhere"}, {"unknown": 1}],
    ids=["cut off", "of another version", "of another place", "of another make"],
)
def test_one_that_is_not_whole_does_not_count(prepared: Checkout, fault: dict[str, Any]) -> None:
    environment = prepared.environment()
    whole = mark(prepared).read_text()
    assert environment.has(RUNTIME)
    mark(prepared).write_text(json.dumps(json.loads(whole) | fault))
    assert not environment.has(RUNTIME)
    mark(prepared).write_text(whole)


def test_one_whose_python_is_gone_is_made_anew(prepared: Checkout) -> None:
    for link in (prepared.root / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/no/such/python")
    assert not prepared.environment().has(RUNTIME)
    prepared.environment().prepare(RUNTIME)
    assert "making .venv anew" in prepared.said.getvalue()
    assert tiny(prepared)


def test_two_starts_at_once_make_it_once(checkout: Checkout) -> None:
    environ = dict(checkout.environment()._environ)
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, checkout.root],
            cwd=ROOT,
            env=environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [start.communicate(timeout=120)[1] for start in starts]
    assert [start.returncode for start in starts] == [0, 0], said
    assert "".join(said).count("installing the hub's dependencies") == 1
    assert tiny(checkout).startswith("1.0 ")


def test_a_checkout_that_may_not_be_written_is_said() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "deployment").mkdir()
        (folder / "deployment/requirements.txt").touch()
        folder.chmod(0o555)
        said = as_ordinary_user(lambda: Environment(folder, Progress(io.StringIO())))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert f"{folder} may not be written by this user" in said


def as_ordinary_user(make: Callable[[], Environment]) -> str:
    """The Failure of ``prepare`` in a process whose user is not root, for whom all is writable."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "no failure"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            make().prepare(RUNTIME)
        except BaseException as error:
            said = str(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()
