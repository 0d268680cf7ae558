"""Across: from a publish on one node to the delivery by another, through Redis."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median
from typing import Final, NamedTuple

from tests.bench.backs import has_redis, redis_pid
from tests.bench.child import Child, process_cpu
from tests.bench.node import subscription, two_nodes
from tests.bench.report import Table, say

RATE: Final = 30.0
WITHIN_S: Final = 30.0
AIMS: Final = {"p50": 3.0, "p99": 15.0}
"""Milliseconds over the floor, at most."""
HUB: Final = "hub, from node to node"
FLOOR: Final = "floor: PUBLISH on a raw connection"

Ages = Mapping[str, float]


class Load(NamedTuple):
    """Conversations, seconds of a round, rounds, and seconds before them that do not count."""

    conversations: int
    seconds: float
    rounds: int
    warm_s: float


def across(*, quick: bool) -> list[Table]:
    """Measure two nodes on one Redis, and a bare publish on the same Redis, in turn."""
    load = Load(20, 0.6, 1, 0.2) if quick else Load(200, 5.0, 7, 1.0)
    table = Table(
        "across",
        f"ms from publish to delivery, {load.conversations} conversations x {RATE:.0f} events/s",
        ("", "p50", "p99", "slowest", "p50 over floor", "p99 over floor", "CPU", "aim, over"),
    )
    if not has_redis():
        table.notes = ["There is no redis-server here: not measured."]
        return [table]
    with ExitStack() as stack:
        nodes = stack.enter_context(two_nodes())
        crowd = stack.enter_context(Child("tests.bench.crowd"))
        bare = [
            stack.enter_context(Child("tests.bench.pubsub", str(nodes.redis.port)))
            for _ in range(2)
        ]
        owner = nodes.first.ask("sign_in", users=1)[0]
        found = nodes.first.ask("converse", owners=[owner] * load.conversations)
        names = [f"bare:{{p0}}:entries:conversation:{one}" for one in found]
        bare[1].ask("listen", channels=names)
        _subscribe(crowd, nodes.second, owner["token"], found)
        through = _Through(nodes.first, nodes.second, crowd, found)
        below = _Below(bare[0], bare[1], names)
        redis = redis_pid(nodes.redis)
        for number in range(load.rounds + 1):
            say(f"across: round {number} of {load.rounds}" if number else "across: warming up")
            for way in (below, through):
                way.round(load if number else load._replace(seconds=load.warm_s), redis)
                if not number:
                    way.forget()
    _add(table, below, through)
    table.notes = [
        f"Medians of {load.rounds} rounds in turn, {load.seconds:g} s each. The events carry the",
        "time of the machine's monotonic clock. Hub: appended on one node, heard by a WebSocket",
        "client of another, which has a socket for each conversation. Floor: the same bytes from a",
        "process that does nothing but PUBLISH to one that does nothing but listen, through the",
        "same Redis at the same rate. 'over floor': the median of each round's difference. CPU: of",
        "one core each, of who publishes, who delivers, and Redis. The timers of the loop that",
        "publishes go by milliseconds: some events leave together, in both.",
    ]
    return [table]


def _subscribe(crowd: Child, node: Child, token: str, conversations: list[str]) -> None:
    crowd.ask(
        "connect",
        group="across",
        greetings=[],
        port=node.ready["port"],
        path="/ws",
        count=len(conversations),
        subprotocol="agenthub.v1",
        tokens=[token],
    )
    crowd.ask("wait", group="across", messages=1, within=WITHIN_S)
    crowd.ask("request", group="across", texts=[subscription(one) for one in conversations])
    crowd.ask("stamp", group="across")


class _Way:
    """Who publishes, who delivers, and what each round told."""

    def __init__(self, name: str, giving: Child, taking: Child) -> None:
        self.name = name
        self.giving = giving
        self.taking = taking
        self.ages: list[Ages] = []
        self.shares: list[list[float]] = []

    def forget(self) -> None:
        self.ages, self.shares = [], []

    def publish(self, load: Load) -> int:
        """How many events."""
        raise NotImplementedError

    def heard(self, count: int) -> Ages:
        """How old those were that were heard."""
        raise NotImplementedError

    def round(self, load: Load, redis: int) -> None:
        before, began = self._cpu(redis), time.monotonic()
        count = self.publish(load)
        took = time.monotonic() - began
        self.shares.append(
            [(now - was) / took for now, was in zip(self._cpu(redis), before, strict=True)]
        )
        ages = self.heard(count)
        if ages["count"] != count:
            raise RuntimeError(f"{self.name}: {ages['count']} of {count} events were heard")
        self.ages.append(ages)

    def _cpu(self, redis: int) -> list[float]:
        return [self.giving.cpu(), self.taking.cpu(), process_cpu(redis)]


class _Through(_Way):
    def __init__(self, first: Child, second: Child, crowd: Child, conversations: list[str]) -> None:
        super().__init__(HUB, first, second)
        self._crowd = crowd
        self._channels = [f"conversation:{one}" for one in conversations]

    def publish(self, load: Load) -> int:
        self._crowd.ask("reset", group="across")
        count: int = self.giving.ask(
            "stream", channels=self._channels, rate=RATE, seconds=load.seconds
        )
        return count

    def heard(self, count: int) -> Ages:
        self._crowd.ask("aged", group="across", count=count, within=WITHIN_S)
        ages: Ages = self._crowd.ask("ages", group="across")
        return ages


class _Below(_Way):
    def __init__(self, giving: Child, taking: Child, names: list[str]) -> None:
        super().__init__(FLOOR, giving, taking)
        self._names = names

    def publish(self, load: Load) -> int:
        count: int = self.giving.ask(
            "publish", channels=self._names, rate=RATE, seconds=load.seconds
        )
        return count

    def heard(self, count: int) -> Ages:
        ages: Ages = self.taking.ask("take", count=count)
        return ages


def _add(table: Table, below: _Way, through: _Way) -> None:
    for way in (below, through):
        over = {
            of: median(a[of] - b[of] for a, b in zip(way.ages, below.ages, strict=True))
            for of in AIMS
        }
        shares = [median(share) for share in zip(*way.shares, strict=True)]
        table.rows.append(
            (
                way.name,
                *(median(age[of] for age in way.ages) for of in ("p50", "p99", "most")),
                *(over.values() if way is through else (None, None)),
                " + ".join(f"{share:.0%}" for share in shares),
                "<= 3 and 15 ms" if way is through else "",
            )
        )
