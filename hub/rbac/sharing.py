"""What may be granted on one conversation, as data: who is given what of somebody else's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

from hub.rbac.actor import Actor

Access = Literal["reader", "writer", "approver"]
ACCESSES: Final[tuple[Access, ...]] = get_args(Access)

_READER: Final = frozenset({"conversation:read", "message:read", "run:read", "channel:subscribe"})

CARRIES: Final[Mapping[Access, frozenset[str]]] = {
    "reader": _READER,
    # Whoever may send may interrupt the run that is active, whoever asked for it: so they may
    # cancel every run there.
    "writer": _READER | {"message:send", "run:cancel"},
    # No more than a reader until there are tools that ask for approval: then it will carry the
    # permission to approve the calls of the conversation's runs.
    "approver": _READER,
}
"""The permissions that each access carries to the conversation and what is in it: its messages,
runs, channel and presence. It gives none to who does not hold them: a viewer who is granted
``writer`` sends nothing.
"""

_STRONGEST_FIRST: Final[tuple[Access, ...]] = ("writer", "approver", "reader")


@dataclass(frozen=True, slots=True)
class Granted:
    """What somebody was granted on a resource, and until when (aware, UTC); None: for good."""

    access: Access
    until: datetime | None = None


def given_to(actor: Actor, granted: Mapping[str, Granted]) -> tuple[Granted, ...]:
    """What of that which was granted on a resource, by the id of the user or the group that it was
    granted to, is this actor's: the strongest first.
    """
    own = granted.get(actor.user_id)
    mine = () if own is None else (own,)
    if actor.groups and (common := granted.keys() & actor.groups):
        mine = (*mine, *(granted[group] for group in common))
        if len(mine) > 1:
            return tuple(sorted(mine, key=_order))
    return mine


def strongest(granted: Iterable[Granted]) -> Granted | None:
    """Of several on one resource the one that is shown: the strongest, of those the longest."""
    return min(granted, key=_order, default=None)


def _order(granted: Granted) -> tuple[int, bool, float]:
    until = granted.until
    return (
        _STRONGEST_FIRST.index(granted.access),
        until is not None,
        0.0 if until is None else -until.timestamp(),
    )
