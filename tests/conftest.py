"""The real parts that tests run on; each module starts and ends its own servers."""

import gc
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

pytest_plugins = [
    "tests.parts.figures",
    "tests.parts.redis",
    "tests.parts.postgres",
    "tests.parts.scripted",
    "tests.parts.hub",
    "tests.parts.namespace",
    "tests.parts.mail",
    "tests.parts.provider",
]

FIRST: Final = ("faults/", "transports/hostile/", "deployment/", "cli/", "test_bench")
"""What waits for other processes most of the time: it begins first, beside what does not wait, and
in a process that is still small. Begun last it would go on alone.
"""

_HERE: Final = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of ``FIRST`` come first, in that order."""
    items.sort(key=lambda item: _place(item.path.relative_to(_HERE).as_posix()))


def _place(path: str) -> int:
    for place, beginning in enumerate(FIRST):
        if path.startswith(beginning):
            return place
    return len(FIRST)


def pytest_collection_finish() -> None:
    _settle()


@pytest.hookimpl(trylast=True)  # what the module's fixtures held is gone
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _settle()


def _settle() -> None:
    """A hub in this process is to pause no longer than in one of its own: a full collection of all
    that was imported, or that modules have left behind, stops it for half a second to a second on
    a loaded machine.
    """
    gc.collect()
    gc.freeze()
