"""Stall: what readers that stop reading cost their neighbour, and the node's memory."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from tests.bench.child import Child
from tests.bench.node import quiet_hub, subscription
from tests.bench.report import Table, say

RATE: Final = 200.0
SIZE: Final = 4_096
"""Bytes of text in an event: what the kernel holds for a connection must fill up first."""
WITHIN_S: Final = 30.0
LOOK_S: Final = 0.1


FILL_EVENTS: Final = 3_000
"""More than the log of a conversation holds of such events: its memory is the same from then on."""
FILL_RATE: Final = 1_000.0


class Load(NamedTuple):
    """Seconds of events in a round, rounds, readers beside the healthy one, how many seconds more
    those that stall are waited for, and how many events the log is filled with before.
    """

    seconds: float
    rounds: int
    beside: tuple[int, ...]
    patience: float
    fill: int


FULL: Final = Load(12.0, 9, (1, 20), 60.0, FILL_EVENTS)


@dataclass
class Beside:
    """So many readers beside the healthy one, which read or do not; what each round told."""

    readers: int
    stalled: bool
    ages: list[Mapping[str, float]] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)
    """Seconds to the end of the last of them, from when the events began."""
    closes: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        if not self.readers:
            return "alone"
        return f"beside {self.readers} that {'stall' if self.stalled else 'read'}"


def stall(*, quick: bool) -> list[Table]:
    """Measure a healthy reader alone, beside others that read, and beside such as do not."""
    load = Load(0.8, 1, (2,), 0.2, 100) if quick else FULL
    ways = [Beside(0, stalled=False)]
    ways += [Beside(count, stalled=stalled) for count in load.beside for stalled in (False, True)]
    with ExitStack() as stack:
        scene = _Scene(stack, load.fill)
        for number in range(load.rounds):
            say(f"stall: round {number + 1} of {load.rounds}")
            for way in ways:
                scene.round(way, load)
    return _tables(ways, load)


class _Scene:
    """A hub with one conversation, and two processes of clients: of the healthy, of the others."""

    def __init__(self, stack: ExitStack, fill: int) -> None:
        self._hub = stack.enter_context(quiet_hub())
        self._crowd = stack.enter_context(Child("tests.bench.crowd"))
        self._others = stack.enter_context(Child("tests.bench.crowd"))
        self._owner = self._hub.ask("sign_in", users=1)[0]
        [self._conversation] = self._hub.ask("converse", owners=[self._owner])
        self._channels = [f"conversation:{self._conversation}"]
        paced = {"rate": FILL_RATE, "seconds": fill / FILL_RATE, "size": SIZE}
        self._hub.ask("stream", channels=self._channels, **paced)

    def round(self, way: Beside, load: Load) -> None:
        self._subscribe(self._crowd, 1)
        self._subscribe(self._others, way.readers)
        self._crowd.ask("stamp", group="readers")
        if way.stalled:
            self._others.ask("stall", group="readers")
        way.before.append(self._hub.memory())
        paced = {"rate": RATE, "seconds": load.seconds, "size": SIZE}
        self._hub.ask("begin_stream", channels=self._channels, **paced)
        way.peak.append(self._watch(way, load))
        count = self._hub.ask("end_stream")
        self._crowd.ask("aged", group="readers", count=count, within=WITHIN_S)
        ages = self._crowd.ask("ages", group="readers")
        if ages["count"] != count:
            raise RuntimeError(f"{way.name}: the healthy reader heard {ages['count']} of {count}")
        way.ages.append(ages)
        way.after.append(self._hub.memory())
        way.closes = self._hub.ask("figures")["closes"]
        for child in (self._crowd, self._others):
            child.ask("close", group="readers")
        while self._open():
            time.sleep(LOOK_S)

    def _watch(self, way: Beside, load: Load) -> int:
        """Look on while events flow, and until those that stall are gone; the most memory."""
        began, peak, gone = time.monotonic(), 0, not way.stalled
        longest = load.seconds + load.patience
        while (passed := time.monotonic() - began) < (load.seconds if gone else longest):
            peak = max(peak, self._hub.memory())
            if self._open() == 1 and not gone:  # asked in all rounds alike
                gone = True
                way.gone.append(passed)
            time.sleep(LOOK_S)
        return peak

    def _open(self) -> int:
        return int(self._hub.ask("figures")["connections"])

    def _subscribe(self, crowd: Child, count: int) -> None:
        crowd.ask(
            "connect",
            group="readers",
            greetings=[subscription(self._conversation)],
            port=self._hub.ready["port"],
            path="/ws",
            count=count,
            subprotocol="agenthub.v1",
            tokens=[self._owner["token"]],
        )
        if count:
            crowd.ask("wait", group="readers", messages=2, within=WITHIN_S)


def _tables(ways: list[Beside], load: Load) -> list[Table]:
    table = Table(
        "stall",
        "a healthy reader's ms from append to delivery, and the readers beside it",
        ("", "p50", "p99", "slowest", "p99 x alone", "p99 x reading", "aim"),
    )
    memory = Table(
        "stall memory",
        "MiB of the hub (PSS) with these readers",
        ("", "before", "at the peak", "at the end", "gone after, s"),
    )
    alone, reading = ways[0], ways[0]
    for way in ways:
        if not way.stalled:
            reading = way
        table.rows.append(
            (
                way.name,
                *(median(age[of] for age in way.ages) for of in ("p50", "p99", "most")),
                _ratio(way, alone),
                _ratio(way, reading) if way.stalled else None,
                "< 1.2 x reading" if way.stalled else "",
            )
        )
        sizes = (median(sizes) / 2**20 for sizes in (way.before, way.peak, way.after))
        gone = (median(way.gone) if way.gone else "never") if way.stalled else None
        memory.rows.append((way.name, *sizes, gone))
    table.notes = [
        f"Medians of {load.rounds} rounds in turn; ratios are medians of each round's ratio. One",
        f"conversation, {RATE:.0f} events/s of {SIZE:,} bytes for {load.seconds:g} s, all",
        "of them heard by the healthy reader. 'x reading': beside as many that do read, and cost",
        "their share of the fan-out. Those that stall take nothing from the kernel from before the",
        "first event on.",
    ]
    closes = ", ".join(f"{code}: {number:.0f}" for code, number in ways[-1].closes.items())
    memory.notes = [
        "at the end: all events out, and the hub without the stalled connections; gone after: from",
        f"the first event on, 'never': not within {load.seconds + load.patience:g} s. The log of",
        f"the conversation was full before. Closes by the hub in all, by code: {closes or 'none'}.",
    ]
    return [table, memory]


def _ratio(way: Beside, of: Beside) -> float:
    return median(a["p99"] / b["p99"] for a, b in zip(way.ages, of.ages, strict=True))
