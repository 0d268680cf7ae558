"""Machine: the programs of the operating system that tests run on, and how to get them."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployment import packages
from deployment.progress import Progress


@dataclass(frozen=True)
class Program:
    """``names`` are looked for on the PATH, ``places`` are patterns of absolute paths."""

    what: str
    package: str
    names: tuple[str, ...]
    places: tuple[str, ...] = ()

    def is_here(self) -> bool:
        return any(map(shutil.which, self.names)) or any(
            next(Path("/").glob(place.lstrip("/")), None) for place in self.places
        )


PROGRAMS: Final = (
    Program("Redis", "redis-server", ("redis-server",)),
    Program(
        "PostgreSQL",
        "postgresql",
        ("initdb",),
        ("/usr/lib/postgresql/*/bin/initdb", "/opt/homebrew/opt/postgresql*/bin/initdb"),
    ),
    Program("Node.js", "nodejs", ("node",)),
    Program("npm", "npm", ("npm",)),
    Program(
        "Chromium",
        "chromium",
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        ("/Applications/Google Chrome.app", "/Applications/Chromium.app"),
    ),
)


def missing(programs: Iterable[Program] = PROGRAMS) -> list[Program]:
    return [program for program in programs if not program.is_here()]


def install(wanted: list[Program], progress: Progress) -> list[Program]:
    """Installs ``wanted`` where that may be done. Says and returns what is still missing."""
    obstacle = packages.install([program.package for program in wanted], progress)
    left = missing(wanted)
    if left:
        progress.say(
            f"missing: {', '.join(program.what for program in left)}"
            f" ({obstacle or 'apt-get did not bring it'}). To run their tests:\n"
            f"  {packages.command([program.package for program in left])}"
        )
    return left
