"""Packages of the operating system: installed by apt-get where that may be done without asking."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from deployment.progress import Progress

QUIETLY: Final = ("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
OPTIONS: Final = ("--yes", "--quiet", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")


def as_root() -> tuple[str, ...] | None:
    """The words before a command that needs root: none as root, sudo if it asks for no password.

    None when neither is so.
    """
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and _succeeds(["sudo", "-n", "true"]):
        return ("sudo", "-n")
    return None


def command(packages: Sequence[str]) -> str:
    """What a person types to install ``packages``."""
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {' '.join(packages)}"


def install(packages: Sequence[str], progress: Progress) -> str | None:
    """Installs ``packages``. None, or why it could not be done, in a sentence's end."""
    if not shutil.which("apt-get"):
        return "this system has no apt-get"
    prefix = as_root()
    if prefix is None:
        return "that needs root, and sudo would ask for a password"
    apt = [*prefix, *QUIETLY, "apt-get"]
    with progress.during(f"{command(packages)}"):
        # A fresh container has no package lists, and old lists name files that are gone; but a
        # list that serves is not fetched again.
        for refresh in (False, True):
            if refresh:
                _run([*apt, "update", "--quiet"])
            done = _run([*apt, "install", *OPTIONS, *packages])
            if done.returncode == 0:
                return None
    errors = [line for line in done.stdout.splitlines() if line.startswith("E:")]
    return "apt-get said: " + " ".join(errors or done.stdout.splitlines()[-1:] or ["nothing"])


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _succeeds(words: Sequence[str]) -> bool:
    try:
        return _run(words).returncode == 0
    except OSError:
        return False
