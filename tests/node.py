"""Node: the identity provider that the tests sign in through, a package of npm's."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from deployment.failure import Failure
from deployment.progress import Progress

SOURCE: Final = Path(__file__).resolve().parent / "parts" / "identity_provider"
FILES: Final = ("package.json", "package-lock.json", "provider.mjs")
NPM: Final = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")


def place(root: Path) -> Path:
    """Where it is installed."""
    return root / ".venv" / "identity-provider"


def is_here(root: Path) -> bool:
    """Whether it is installed as its files say now."""
    stamp = place(root) / "installed"
    return stamp.is_file() and stamp.read_text() == _digest()


def prepare(root: Path, progress: Progress) -> None:
    """Installs it. Raises Failure."""
    if is_here(root):
        return
    target = place(root)
    npm = shutil.which("npm")
    if npm is None:
        raise Failure("The tests of identity providers need npm, which is not here.")
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(SOURCE / name, target / name)
    with progress.during("npm ci (an identity provider for the tests)"):
        done = subprocess.run(
            [npm, *NPM[1:]],
            cwd=target,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-5:])
        raise Failure(f"npm could not install the identity provider for the tests:\n{last}")
    (target / "installed").write_text(_digest())


def _digest() -> str:
    whole = hashlib.sha256()
    for name in FILES:
        whole.update((SOURCE / name).read_bytes())
    return whole.hexdigest()
