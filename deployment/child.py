"""Child: a program that runs in front, and is given time to end what it began."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress


def run(
    words: Sequence[str],
    *,
    environ: Mapping[str, str],
    grace_s: float,
    stdin: int | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Runs ``words`` to its end. Returns its exit status.

    When this process is interrupted or told to end, the child has ``grace_s`` seconds to end by
    itself, and is killed after that.
    """
    child = subprocess.Popen(words, env=environ, stdin=stdin, pass_fds=pass_fds)
    try:
        return child.wait()
    except KeyboardInterrupt:
        # The terminal told the child too.
        _outlast(child, grace_s)
        raise
    except SystemExit:
        child.send_signal(signal.SIGINT)
        _outlast(child, grace_s)
        raise


def _outlast(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    finally:
        # Also when a second ctrl-C asks for haste.
        if child.poll() is None:
            child.kill()
            child.wait()
