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

from deployment.failure import Failure
from deployment.lock import Lock, lock_on
from deployment.progress import Progress

START_S: Final = 180.0
"""How long a hub may take until it can answer: a first start makes its database and loads a model
from a cold disk."""

STOP_S: Final = 20.0
POLL_S: Final = 0.1
LOG_LINES: Final = 15


def answer(python: Path, data_dir: Path, text: str, port: int | None, progress: Progress) -> None:
    """Prints one answer to ``text``. ``python`` is the environment's. Raises Failure."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_on(data_dir) as lock, _hub(python, data_dir, port, lock, progress) as url:
        progress.say("asking")
        status = _ask(python, data_dir, url, text)
        if status:
            raise Failure(f"no answer (hub chat ended with {status}).\n{log_tail(data_dir)}")
        progress.say("answered")


def running(data_dir: Path) -> str | None:
    """The address of the hub that runs on ``data_dir``; None when none answers there."""
    try:
        url = str(json.loads((data_dir / "hub.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if _get(f"{url}/health/live") is not None else None


def log_tail(data_dir: Path) -> str:
    """The last lines of the hub's log, with a headline; empty when there is no log."""
    log = data_dir / "hub.log"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return ""
    return f"The end of {log}:\n" + "\n".join(f"  {line}" for line in lines)


@contextmanager
def _hub(
    python: Path, data_dir: Path, port: int | None, lock: Lock, progress: Progress
) -> Iterator[str]:
    def starting() -> None:
        progress.say("another start is under way on this data directory; waiting for it")

    def leaving() -> None:
        progress.say("another question is using this hub; waiting for it")

    lock.share(starting)
    url = running(data_dir)
    if url is None:
        lock.exclude(starting)
        url = running(data_dir)
    if url is not None:
        lock.share(starting)
        progress.say(f"a hub runs at {url}")
        yield url
        return
    hub = _start(python, data_dir, port, progress)
    try:
        url = _ready(hub, data_dir, progress)
        lock.share(starting)
        yield url
    finally:
        try:
            lock.exclude(leaving)
        finally:
            _stop(hub, progress)


def _start(
    python: Path, data_dir: Path, port: int | None, progress: Progress
) -> subprocess.Popen[bytes]:
    progress.say(f"starting a hub for this question (log: {data_dir / 'hub.log'})")
    # Any free port serves a hub that nobody else needs to find.
    words = [str(python), "-P", "-m", "hub", "serve", "--host", "127.0.0.1"]
    words += ["--port", str(port or 0)]
    with (data_dir / "hub.log").open("ab") as log:
        # A session of its own: the terminal's ctrl-C is for the question, which then stops it.
        return subprocess.Popen(
            words,
            env={**os.environ, "HUB_DATA_DIR": str(data_dir)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _ready(hub: subprocess.Popen[bytes], data_dir: Path, progress: Progress) -> str:
    """Waits until the hub can answer. Returns its address."""
    deadline = time.monotonic() + START_S
    reason = "it does not listen yet"
    with progress.during("waiting until it is ready"):
        while time.monotonic() < deadline:
            if hub.poll() is not None:
                raise Failure(
                    f"the hub ended with status {hub.returncode} while starting.\n"
                    f"{log_tail(data_dir)}"
                )
            url = running(data_dir)
            if url is not None:
                reason = _get(f"{url}/health/ready") or ""
                if not reason:
                    return url
            time.sleep(POLL_S)
    raise Failure(f"the hub was not ready in {START_S:.0f} s: {reason}\n{log_tail(data_dir)}")


def _ask(python: Path, data_dir: Path, url: str, text: str) -> int:
    hub = [str(python), "-P", "-m", "hub"]
    environ = {**os.environ, "HUB_DATA_DIR": str(data_dir)}
    account = _account(data_dir)
    if account is None:
        link = subprocess.run(
            [*hub, "link"], env=environ, stdout=subprocess.PIPE, text=True, check=False
        )
        if link.returncode:
            raise Failure(f"could not sign in as the administrator.\n{log_tail(data_dir)}")
        words = [*hub, "chat", "--url", url, "--code", link.stdout.strip(), "--", text]
        return subprocess.run(words, env=environ, stdin=subprocess.DEVNULL, check=False).returncode
    # The password goes through a pipe: never into a file or a list of processes.
    reading, writing = os.pipe()
    try:
        os.write(writing, account["password"].encode())
        os.close(writing)
        words = [*hub, "chat", "--url", url, "--email", account["email"]]
        words += ["--password-file", f"/dev/fd/{reading}", "--", text]
        return subprocess.run(
            words, env=environ, stdin=subprocess.DEVNULL, pass_fds=[reading], check=False
        ).returncode
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


def _get(url: str) -> str | None:
    """None when nothing answers; "" for a 200; else the answer in one line."""
    opener = request.build_opener(request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as reply:
            return "" if reply.status == 200 else f"status {reply.status}"
    except HTTPError as error:
        return f"status {error.code}: {error.read(2000).decode(errors='replace').strip()}"
    except (OSError, ValueError):
        return None
