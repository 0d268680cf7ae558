"""The decisions of resuming, pure: can this position be continued, and what is this entry?

The log numbers entries 1, 2, 3 … without holes (``hub.backplane.interface``), so a subscriber's
state is one number, and each arriving entry is the next one, an old one, or shows a gap.
"""

from enum import Enum, auto

from hub.backplane.interface import LogSlice, Position
from hub.events.position import Since
from hub.faults import Fault


class Arrival(Enum):
    """What an entry is to someone who is at a position."""

    NEXT = auto()
    OLD = auto()
    GAP = auto()
    OTHER_LOG = auto()


def classify(at: Position, epoch: str, seq: int) -> Arrival:
    """What the entry ``seq`` of log ``epoch`` is to a reader who is at ``at``."""
    if epoch != at.epoch:
        return Arrival.OTHER_LOG
    if seq == at.seq + 1:
        return Arrival.NEXT
    return Arrival.OLD if seq <= at.seq else Arrival.GAP


def resume(since: Since, log: LogSlice) -> Position | None:
    """The position to continue from, or None if the log cannot continue ``since``.

    ``since`` cannot be continued when it is of another log, when entries right after it are no
    longer held, or when it lies in the future (a position nobody was ever given).
    """
    if since is None:
        return Position(log.epoch, log.last)
    if since == "start":
        # "From the start" is only true while the log still has its first entry.
        return Position(log.epoch, 0) if log.first <= 1 else None
    if since.epoch != log.epoch or since.seq > log.last or since.seq < log.first - 1:
        return None
    return since


def acknowledged(known: Position | None, at: Position, log: LogSlice) -> Position:
    """What to keep of a reader who kept ``known`` and says that it is at ``at``, in this log.

    Never back within a log. Raises Fault resume_gap for a position of another log, invalid_params
    for one in the future.
    """
    if at.epoch != log.epoch:
        raise Fault("resume_gap", "This position is not of the channel's log.")
    if at.seq > log.last:
        raise Fault("invalid_params", f"The channel's newest event is {log.last}.")
    if known is not None and known.epoch == at.epoch:
        return max(known, at)
    return at
