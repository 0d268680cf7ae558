"""The run's state table. A missing entry is the error.

``queued → running → succeeded | failed | cancelled``. A queued run can be cancelled before it
began, and a running one is begun again (``TAKEN_OVER``) when its worker was lost.
"""

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import Final


class RunStatus(StrEnum):
    QUEUED = auto()
    RUNNING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    CANCELLED = auto()

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


class RunEvent(StrEnum):
    BEGUN = auto()
    TAKEN_OVER = auto()
    FINISHED = auto()
    FAILED = auto()
    CANCELLED = auto()


TERMINAL: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})
ACTIVE: Final = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})

TRANSITIONS: Final[Mapping[tuple[RunStatus, RunEvent], RunStatus]] = {
    (RunStatus.QUEUED, RunEvent.BEGUN): RunStatus.RUNNING,
    (RunStatus.QUEUED, RunEvent.CANCELLED): RunStatus.CANCELLED,
    (RunStatus.RUNNING, RunEvent.TAKEN_OVER): RunStatus.RUNNING,
    (RunStatus.RUNNING, RunEvent.FINISHED): RunStatus.SUCCEEDED,
    (RunStatus.RUNNING, RunEvent.FAILED): RunStatus.FAILED,
    (RunStatus.RUNNING, RunEvent.CANCELLED): RunStatus.CANCELLED,
}


class IllegalRunTransition(Exception):
    """A run cannot do this in its state: an error of ours, not of a caller."""


def advance(status: str, event: RunEvent) -> RunStatus:
    """The status after ``event``. Raises IllegalRunTransition where the table has no entry."""
    try:
        return TRANSITIONS[RunStatus(status), event]
    except KeyError:
        raise IllegalRunTransition(f"a {status} run cannot be {event}") from None
