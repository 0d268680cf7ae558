"""A token bucket, and what a node has taken from one that all nodes share. Pure."""

import math
from dataclasses import dataclass
from typing import Final

ON_TRUST: Final = 1 / 8
"""The share of a burst that a node gives out before it asks the others."""


@dataclass(frozen=True, slots=True)
class Budget:
    """``rate`` tokens a second in the long run, ``burst`` at once."""

    rate: float
    burst: float


class NodeBucket:
    """One node's view of a bucket that all nodes share. ``now`` is any clock's, in seconds.

    What the node gives out is owed to the shared bucket (``owed``) until it is taken from there. So
    long as little is owed, nobody waits for that; and a node alone never gives out more than the
    budget, whatever the others do and whether or not they can be asked.
    """

    __slots__ = ("_at", "_budget", "_taking", "_tokens", "blocked_until", "owed")

    def __init__(self, budget: Budget, now: float) -> None:
        self._budget = budget
        self._tokens = budget.burst
        self._at = now
        self._taking = 0.0  # from the shared bucket, which has not answered yet
        self.owed = 0.0
        self.blocked_until = 0.0

    def wait_ms(self, cost: float, now: float) -> int:
        """0 if so much may be given out as far as this node knows, else how long until then."""
        budget = self._budget
        self._tokens = min(budget.burst, self._tokens + (now - self._at) * budget.rate)
        self._at = now
        wait = self.blocked_until - now
        if self._tokens < min(cost, budget.burst):
            wait = max(wait, (min(cost, budget.burst) - self._tokens) / budget.rate)
        return 0 if wait <= 0 else math.ceil(wait * 1000)

    def give(self, cost: float) -> None:
        """So much is given out."""
        self._tokens -= min(cost, self._budget.burst)
        self.owed += cost

    @property
    def must_ask(self) -> bool:
        """Whether more is owed than is given out on trust."""
        return self.owed + self._taking > self._budget.burst * ON_TRUST

    def settle(self) -> float:
        """All that is owed, which the caller takes from the shared bucket now."""
        owed, self.owed = self.owed, 0.0
        self._taking += owed
        return owed

    def settled(self, owed: float) -> None:
        """So much is taken from the shared bucket, or cannot be asked for."""
        self._taking -= owed

    def refused(self, owed: float, wait_ms: int, now: float) -> None:
        """It could not be taken from the shared bucket, which has so much in so long."""
        self._taking -= owed
        self.owed += owed
        self.blocked_until = now + wait_ms / 1000

    @property
    def idle(self) -> bool:
        """Whether nothing is owed: it can be forgotten."""
        return not self.owed
