"""Question: one question to a hub that runs, or to one that is started for it and then stopped.

The answer alone goes to stdout. Several questions at once share the hub of a data directory: they
hold a shared lock on it while they ask, and an exclusive one to start and to stop it.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib import request
from urllib.error import HTTPError

from deployment import child
from deployment.failure import Failure
from deployment.lock import Lock, lock_on
from deployment.progress import Progress

START_S: Final = 180.0
"""How long a hub may take until it can answer: a first start makes its database and loads a model
from a cold disk."""

CANCEL_S: Final = 5.0
"""How long the chat may take to cancel its run."""

STOP_S: Final = 30.0
"""The hub gives its clients 20 s."""

POLL_S: Final = 0.1
LOG_LINES: Final = 15
LOG_BYTES: Final = 1_000_000
OK: Final = 200


def answer(python: Path, data_dir: Path, text: str, port: int | None, progress: Progress) -> None:
    """Prints one answer to ``text``. ``python`` is the environment's. Raises Failure."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_on(data_dir) as lock, _hub(python, data_dir, port, lock, progress) as url:
        progress.say("asking")
        began = progress.elapsed
        status = _ask(python, data_dir, url, text)
        if status:
            raise Failure(f"no answer: `hub chat` ended with status {status}.")
        progress.say(f"answered in {progress.elapsed - began:.1f} s")


def running(data_dir: Path) -> str | None:
    """The address of the hub that runs on ``data_dir``; None when none answers there."""
    try:
        url = str(json.loads((data_dir / "hub.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if _get(f"{url}/health/live")[0] == OK else None


class Log:
    """What a hub writes from now on, at the end of ``hub.log`` in its data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.path: Final = data_dir / "hub.log"
        if self._size() > LOG_BYTES:
            self.path.unlink()
        self._began = self._size()

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def tail(self) -> str:
        """Its last lines, with a headline."""
        with self.path.open("rb") as file:
            file.seek(self._began)
            lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"The end of {self.path}:", *(f"  {line}" for line in lines)])


@contextmanager
def _hub(
    python: Path, data_dir: Path, port: int | None, lock: Lock, progress: Progress
) -> Iterator[str]:
    def starting() -> None:
        progress.say("another start is under way on this data directory; waiting for it")

    def leaving() -> None:
        progress.say("another question is using this hub; waiting for it")

    while True:
        lock.share(starting)
        url = running(data_dir)
        if url is not None:
            progress.say(f"a hub runs at {url}")
            yield url
            return
        lock.exclude(starting)
        if running(data_dir) is None:
            break
    log = Log(data_dir)
    progress.say(f"starting a hub for this question (log: {log.path})")
    hub = _start(python, data_dir, port, log)
    try:
        url = _ready(hub, data_dir, log, progress)
        lock.share(starting)
        try:
            yield url
        except Failure as failure:
            raise Failure(f"{failure}\n{log.tail()}") from failure
    finally:
        try:
            lock.exclude(leaving)
        finally:
            _stop(hub, progress)


def _start(python: Path, data_dir: Path, port: int | None, log: Log) -> subprocess.Popen[bytes]:
    # Any free port serves a hub that nobody else needs to find.
    words = [str(python), "-P", "-m", "hub", "serve", "--host", "127.0.0.1"]
    words += ["--port", str(port or 0)]
    with log.path.open("ab") as file:
        # A session of its own: the terminal's ctrl-C is for the question, which then stops it.
        return subprocess.Popen(
            words,
            env={**os.environ, "HUB_DATA_DIR": str(data_dir)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _ready(hub: subprocess.Popen[bytes], data_dir: Path, log: Log, progress: Progress) -> str:
    """Waits until the hub can serve and its model is loaded, or cannot be. Returns its address."""
    deadline = time.monotonic() + START_S
    reason = "it does not listen"
    with progress.during("waiting until it is ready"):
        while time.monotonic() < deadline:
            if hub.poll() is not None:
                why = f"the hub ended with status {hub.returncode} while starting."
                raise Failure(f"{why}\n{log.tail()}")
            url = running(data_dir)
            if url is not None:
                status, reason = _get(f"{url}/health/ready")
                model = _model(reason)
                if status == OK and model.get("state") != "starting":
                    if model.get("state") != "ready":
                        progress.say(f"no model yet: {model.get('detail', reason)}")
                    return url
            time.sleep(POLL_S)
    raise Failure(f"the hub was not ready in {START_S:.0f} s: {reason}\n{log.tail()}")


def _model(readiness: str) -> dict[str, str]:
    try:
        return dict(json.loads(readiness)["model"])
    except (ValueError, KeyError, TypeError):
        return {}


def _ask(python: Path, data_dir: Path, url: str, text: str) -> int:
    hub = [str(python), "-P", "-m", "hub"]
    environ = {**os.environ, "HUB_DATA_DIR": str(data_dir)}
    account = _account(data_dir)
    if account is None:
        link = subprocess.run(
            [*hub, "link"], env=environ, stdout=subprocess.PIPE, text=True, check=False
        )
        if link.returncode:
            raise Failure("could not sign in as the administrator: `hub link` failed.")
        words = [*hub, "chat", "--url", url, "--code", link.stdout.strip(), "--", text]
        return child.run(words, environ=environ, stdin=subprocess.DEVNULL, grace_s=CANCEL_S)
    # The password goes through a pipe: never into a file or a list of processes.
    reading, writing = os.pipe()
    try:
        os.write(writing, account["password"].encode())
        os.close(writing)
        words = [*hub, "chat", "--url", url, "--email", account["email"]]
        words += ["--password-file", f"/dev/fd/{reading}", "--", text]
        return child.run(
            words,
            environ=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=[reading],
            grace_s=CANCEL_S,
        )
    finally:
        os.close(reading)


def _account(data_dir: Path) -> dict[str, str] | None:
    """The generated administrator, while the generated password is still the valid one."""
    try:
        account: Any = json.loads((data_dir / "administrator.json").read_text(encoding="utf-8"))
        return {"email": account["email"], "password": account["password"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stop(hub: subprocess.Popen[bytes], progress: Progress) -> None:
    if hub.poll() is not None:
        return
    progress.say("stopping the hub")
    hub.terminate()
    try:
        hub.wait(STOP_S)
    except subprocess.TimeoutExpired:
        progress.say(f"it did not stop in {STOP_S:.0f} s; killing it")
        os.killpg(hub.pid, signal.SIGKILL)
        hub.wait()


def _get(url: str) -> tuple[int, str]:
    """The status and body of an answer; status 0 when there is none."""
    opener = request.build_opener(request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as reply:
            return reply.status, reply.read(LOG_BYTES).decode(errors="replace")
    except HTTPError as error:
        return error.code, error.read(LOG_BYTES).decode(errors="replace")
    except (OSError, ValueError) as error:
        return 0, str(error)
