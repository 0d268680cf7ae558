"""A checkout of its own for each test, with wheels of its own: pip runs for real, offline."""

import base64
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployment.environment import RUNTIME, Environment
from deployment.progress import Progress


def wheel(folder: Path, version: str, content: str = "") -> str:
    """Writes the wheel of a distribution ``tiny``; its SHA-256."""
    name = f"tiny-{version}"
    files = {
        "tiny.py": f'VERSION = "{version}"\n{content}',
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={_urlsafe(text.encode())},{len(text)}" for path, text in files.items()
    ]
    record.append(f"{name}.dist-info/RECORD,,")
    files[f"{name}.dist-info/RECORD"] = "\n".join(record) + "\n"
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _urlsafe(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@dataclass
class Checkout:
    """``root`` has pins and a ``hub`` package; ``said`` is what the environment reported."""

    root: Path
    wheels: Path
    said: io.StringIO = field(default_factory=io.StringIO)

    def pin(self, version: str, digest: str, file: str = "requirements.txt") -> None:
        (self.root / "deployment" / file).write_text(f"tiny=={version} --hash=sha256:{digest}\n")

    def publish(self, version: str, content: str = "") -> str:
        return wheel(self.wheels, version, content)

    def environment(self, **environ: str) -> Environment:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "HUB_"))}
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        return Environment(self.root, Progress(self.said), {**kept, **offline, **environ})


def new_checkout(folder: Path) -> Checkout:
    """A checkout whose path has a space, with ``tiny`` 1.0 pinned and published."""
    made = Checkout(folder / "my checkout", folder / "wheels")
    (made.root / "deployment").mkdir(parents=True)
    (made.root / "hub").mkdir()
    (made.root / "hub/__init__.py").touch()
    (made.root / "hub/__main__.py").write_text("import sys, tiny\nprint(tiny.VERSION, sys.argv)\n")
    made.wheels.mkdir()
    made.pin("1.0", made.publish("1.0"))
    return made


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout without an environment."""
    return new_checkout(tmp_path)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose environment was prepared."""
    made = new_checkout(tmp_path_factory.mktemp("first"))
    made.environment().prepare(RUNTIME)
    return made


@pytest.fixture
def prepared(first_start: Checkout) -> Checkout:
    """A checkout whose environment was prepared, with nothing said yet; shared by the tests of a
    module, which leave it working and with ``tiny`` of any version.
    """
    first_start.said = io.StringIO()
    return first_start
