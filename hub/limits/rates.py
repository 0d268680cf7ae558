"""Rates: how many requests a user, a tenant and an address may make, on all nodes together.

The buckets are on the backplane; a node gives out a little of each on trust and settles it within
a tenth of a second, so that a request waits for no other machine unless somebody is close to a
limit. With the backplane away each node holds to the whole budget by itself.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from hub.audit.origin import place_of
from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.limits.bucket import Budget, NodeBucket
from hub.rbac.actor import Actor
from hub.rounds import Rounds
from hub.settings import LOOPBACK, Settings
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

SETTLE_S: Final = 0.1
"""How long what was given out is owed at most, while the backplane answers."""
REMEMBERED: Final = 50_000
"""Buckets that a node keeps; those that were used longest ago are forgotten first."""


class Rates:
    """The budgets of one hub. ``start``, then ``close``."""

    def __init__(self, backplane: Backplane, settings: Settings, metrics: Metrics) -> None:
        self._backplane = backplane
        self._refusals = metrics.rate_refusals
        self._budgets = {
            scope: Budget(rate, max(burst, 1.0))
            for scope, rate, burst in (
                ("user", settings.user_rate, settings.user_burst),
                ("tenant", settings.tenant_rate, settings.tenant_burst),
                ("address", settings.address_rate, settings.address_burst),
            )
            if rate
        }
        self._buckets: OrderedDict[str, NodeBucket] = OrderedDict()
        self._owing: dict[str, NodeBucket] = {}
        self._settling = Rounds("settle the rates", self._settle, every_s=SETTLE_S)
        self._away = False

    async def start(self) -> None:
        """Begin to settle what is owed."""
        self._settling.start()

    async def close(self) -> None:
        """Settle no more."""
        await self._settling.close()

    async def spend_address(self, cost: float, address: str | None) -> None:
        """Of the budget of an address (of IPv6: of its network); a loopback address has none.
        Raises Fault rate_limited.
        """
        if address is not None and address not in LOOPBACK:
            await self._spend(cost, (("address", place_of(address)),))

    async def spend(self, cost: float, actor: Actor) -> None:
        """Of the budgets of a user and of a tenant. Raises Fault rate_limited."""
        await self._spend(cost, (("user", actor.user_id), ("tenant", actor.tenant_id)))

    async def _spend(self, cost: float, of: Iterable[tuple[str, str]]) -> None:
        if cost <= 0:
            return
        now = time.monotonic()
        for scope, id in of:
            budget = self._budgets.get(scope)
            if budget is None:
                continue
            name = f"rate:{scope}:{id}"
            bucket = self._bucket(name, budget, now)
            wait_ms = bucket.wait_ms(cost, now)
            if not wait_ms:
                bucket.give(cost)
                if bucket.must_ask:
                    wait_ms = await self._ask(name, bucket, budget)
                else:
                    self._owing[name] = bucket
            if wait_ms:
                self._refusals.labels(scope).inc()
                raise Fault(
                    "rate_limited",
                    f"Too many requests of this {scope}.",
                    details={"retry_after_ms": wait_ms, "scope": scope},
                )

    def _bucket(self, name: str, budget: Budget, now: float) -> NodeBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = NodeBucket(budget, now)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)  # what it owes is settled all the same
        else:
            self._buckets.move_to_end(name)
        return bucket

    async def _ask(self, name: str, bucket: NodeBucket, budget: Budget) -> int:
        """Take what is owed from the shared bucket; 0, or the milliseconds until it has that."""
        owed = bucket.settle()
        try:
            wait_ms = await self._backplane.take(name, owed, rate=budget.rate, burst=budget.burst)
        except Fault as fault:
            bucket.settled(owed)
            if not self._away:
                self._away = True
                log.warning("rates are each node's own for now", why=fault.reason)
            return 0
        except BaseException:
            bucket.settled(owed)  # who asked has gone; it is a little too generous
            raise
        self._away = False
        if wait_ms:
            bucket.refused(owed, wait_ms, time.monotonic())
            self._owing[name] = bucket
        else:
            bucket.settled(owed)
        return wait_ms

    async def _settle(self) -> None:
        now = time.monotonic()
        due = [
            (name, bucket) for name, bucket in self._owing.items() if bucket.blocked_until <= now
        ]
        for name, _ in due:
            del self._owing[name]
        await asyncio.gather(
            *(
                self._ask(name, bucket, self._budgets[name.split(":", 2)[1]])
                for name, bucket in due
                if not bucket.idle
            )
        )
