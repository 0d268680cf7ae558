"""``--ask`` prints the answer alone, leaves nothing running, and says what went wrong."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from deployment import question
from deployment.failure import Failure
from deployment.progress import Progress

ROOT: Final = Path(__file__).resolve().parents[2]

ASK: Final = """
import signal, sys
from pathlib import Path
from deployment import question
from deployment.progress import Progress
from deployment.start import terminated
signal.signal(signal.SIGTERM, terminated)
question.answer(Path(sys.executable), Path(sys.argv[1]), sys.argv[2], None, Progress())
"""


class Asking:
    """Asks the stub of a hub on a data directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.said = io.StringIO()
        self._stub = folder / "stub"
        (self._stub / "hub").mkdir(parents=True)
        (self._stub / "hub/__init__.py").touch()
        main = (ROOT / "tests/deployment/stub_hub.py").read_text()
        (self._stub / "hub/__main__.py").write_text(main)

    def environ(self, *what: str) -> dict[str, str]:
        return {
            "PYTHONPATH": f"{self._stub}:{ROOT}",
            "HUB_DATA_DIR": str(self.data_dir),
            "STUB": ",".join(what),
        }

    def __call__(self, text: str) -> None:
        question.answer(Path(sys.executable), self.data_dir, text, None, Progress(self.said))

    def process(self, text: str, *what: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", ASK, self.data_dir, text],
            env={**os.environ, **self.environ(*what)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def starts(self) -> list[int]:
        """The process ids of the hubs that were started."""
        return [int(line) for line in (self.data_dir / "starts").read_text().split()]


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asking:
    made = Asking(tmp_path)
    for name, value in made.environ().items():
        monkeypatch.setenv(name, value)
    return made


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_only_the_answer_is_on_stdout(asking: Asking, capfd: pytest.CaptureFixture[str]) -> None:
    asking("--why?")
    assert capfd.readouterr().out == "admin@localhost sesame: --why?\n"


def test_a_hub_that_was_started_for_it_is_stopped(asking: Asking) -> None:
    asking("why?")
    assert [alive(pid) for pid in asking.starts] == [False]
    assert not (asking.data_dir / "hub.json").exists()


def test_a_hub_that_runs_is_used_and_left_running(asking: Asking) -> None:
    asking.data_dir.mkdir()
    hub = subprocess.Popen([sys.executable, "-P", "-m", "hub", "serve"])
    try:
        assert eventually(lambda: question.running(asking.data_dir) is not None)
        asking("why?")
        assert asking.starts == [hub.pid]
        assert hub.poll() is None
    finally:
        hub.terminate()
        hub.wait()


def test_what_a_killed_hub_left_behind_is_not_a_hub(asking: Asking) -> None:
    asking.data_dir.mkdir()
    (asking.data_dir / "hub.json").write_text('{"pid": 1, "url": "http://127.0.0.1:9"}')
    asking("why?")
    assert len(asking.starts) == 1


def test_without_the_generated_password_it_signs_in_by_a_code(
    asking: Asking, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "changed-password")
    asking("why?")
    assert capfd.readouterr().out == "code a-code: why?\n"


def test_a_hub_that_ends_while_starting_is_said_with_its_log(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "dies")
    with pytest.raises(Failure) as caught:
        asking("why?")
    assert "status 3" in str(caught.value)
    assert "a line of the log" in str(caught.value)


def test_only_this_start_s_log_is_shown(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    asking.data_dir.mkdir()
    (asking.data_dir / "hub.log").write_text("an old story\n")
    monkeypatch.setenv("STUB", "dies")
    with pytest.raises(Failure) as caught:
        asking("why?")
    assert "an old story" not in str(caught.value)


def test_a_hub_that_does_not_get_ready_is_said_and_stopped(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "unready")
    monkeypatch.setattr(question, "START_S", 2.0)
    with pytest.raises(Failure, match="the database is down"):
        asking("why?")
    assert [alive(pid) for pid in asking.starts] == [False]


def test_no_answer_is_said_with_the_log(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", "speechless")
    with pytest.raises(Failure) as caught:
        asking("why?")
    assert "no answer" in str(caught.value)
    assert "a line of the log" in str(caught.value)
    assert [alive(pid) for pid in asking.starts] == [False]


def test_a_hub_that_does_not_stop_is_killed(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "stubborn")
    monkeypatch.setattr(question, "STOP_S", 0.5)
    asking("why?")
    assert [alive(pid) for pid in asking.starts] == [False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_hub_too(asking: Asking, number: signal.Signals) -> None:
    with asking.process("why?", "waits") as process:
        assert eventually((asking.data_dir / "asked").exists)
        # As a terminal does: to the whole group.
        os.killpg(process.pid, number)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert [alive(pid) for pid in asking.starts] == [False]


def test_two_questions_at_once_share_one_hub_that_outlives_both(asking: Asking) -> None:
    with asking.process("one") as first, asking.process("two") as second:
        answers = {first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]}
    assert {first.returncode, second.returncode} == {0}
    assert answers == {"admin@localhost sesame: one\n", "admin@localhost sesame: two\n"}
    assert [alive(pid) for pid in asking.starts] == [False] * len(asking.starts)
