"""Failover: clients lose their node, and resume on another; how long until they hear again."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final, NamedTuple

from tests.bench.ages import percentile
from tests.bench.backs import has_redis
from tests.bench.child import Child
from tests.bench.node import raise_file_limit, two_nodes
from tests.bench.report import Table, say

RATE: Final = 2.0
"""Events a second of each conversation."""
LONGEST_S: Final = 600.0
FLOOR: Final = "floor: a bare echo, killed"
COME_S: Final = 120.0
BACK_S: Final = 120.0
AFTER_S: Final = 1.0
"""How long events flow on when all are back."""
SHOWN: Final = ((0, 50), (0, 99), (1, 50), (1, 99), (2, 50), (2, 99))
"""Columns of what a client tells, and percentiles; the last is what the aim is of."""
ROUNDS: Final = 3


class Load(NamedTuple):
    """Clients, the conversations and the users that they are spread over."""

    clients: int
    conversations: int
    users: int


class Back(NamedTuple):
    """What the clients told, and seconds of CPU that the second node used to have them all back."""

    told: dict[str, Any]
    missing: int
    behind: int
    cpu_s: float
    took_s: float


def failover(*, quick: bool) -> list[Table]:
    """Measure a bare echo that is killed, a hub that is killed, and a hub that is drained."""
    raise_file_limit()
    load = Load(100, 10, 5) if quick else Load(5_000, 500, 100)
    table = Table(
        "failover",
        f"{load.clients:,} clients lose their node: s from the loss to …",
        ("", "subscribed p50", "p99", "first event p50", "p99", "first live p50", "p99",
         "lowest", "highest", "back", "gaps", "repeats", "attempts", "ms CPU each", "aim"),
    )  # fmt: skip
    if not has_redis():
        table.notes = ["There is no redis-server here: not measured."]
        return [table]
    ways: dict[str, Callable[[], Back]] = {
        FLOOR: lambda: _floor(load),
        "hub, killed": lambda: _hub(load, Child.kill),
        "hub, drained": lambda: _hub(load, Child.terminate),
    }
    rounds = 1 if quick else ROUNDS
    found: dict[str, list[Back]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            say(f"failover: {load.clients} clients, {name}, round {number + 1} of {rounds}")
            found[name].append(way())
    for name, backs in found.items():
        _add(table, name, load, backs)
    table.notes += [
        f"Medians of {rounds} rounds in turn; lowest and highest: the p99 of first live of one",
        "round; back: the fewest of a round; gaps and repeats: of all rounds together.",
        f"Each client follows one of {load.conversations} conversations, {RATE:.0f} events/s",
        "each, which the other node appends. It waits as the Python client does (full jitter),",
        "goes to the node that is left, and subscribes from its position. first live: made after",
        "the reply to that; first event: or missed before. back: heard a live event, and at the",
        "end all that was appended. gaps: positions that were left out, or resumes that were",
        "answered with a snapshot; repeats: positions that were heard twice. ms CPU each: of the",
        "node that is left, until the last was back, by client, deliveries included. floor: the",
        "same clients with two echo servers and nothing to resume: the wait, the kernel, the",
        "clients. The nodes, Redis, the database and the clients share the machine's cores. A",
        "drained node asks each to stay away for a while, which is in its times.",
    ]
    return [table]


def _floor(load: Load) -> Back:
    with ExitStack() as stack:
        first, second = (stack.enter_context(Child("tests.bench.servers.echo")) for _ in range(2))
        clients = stack.enter_context(Child("tests.bench.returners"))
        nothing = [None] * load.clients
        clients.ask("come", port=first.ready["port"], conversations=nothing, tokens=nothing)
        clients.ask("elsewhere", port=second.ready["port"])
        before, began = second.cpu(), time.monotonic()
        first.kill()
        missing = clients.ask("here", within=BACK_S, lost=True)
        used, took = second.cpu() - before, time.monotonic() - began
        return Back(clients.ask("told"), missing, 0, used, took)


def _hub(load: Load, end: Callable[[Child], None]) -> Back:
    with ExitStack() as stack:
        nodes = stack.enter_context(two_nodes())
        clients = stack.enter_context(Child("tests.bench.returners"))
        first, second = nodes.first, nodes.second
        users = first.ask("sign_in", users=load.users)
        owners = [users[number % load.users] for number in range(load.conversations)]
        found = first.ask("converse", owners=owners)
        channels = [f"conversation:{one}" for one in found]
        at = [number % load.conversations for number in range(load.clients)]
        clients.ask(
            "come",
            port=first.ready["port"],
            conversations=[found[number] for number in at],
            tokens=[owners[number]["token"] for number in at],
        )
        second.ask("begin_stream", channels=channels, rate=RATE, seconds=LONGEST_S)
        if absent := clients.ask("here", within=COME_S, lost=False):
            raise RuntimeError(f"failover: {absent} clients hear nothing before the loss")
        clients.ask("elsewhere", port=second.ready["port"])
        before, began = second.cpu(), time.monotonic()
        end(first)
        missing = clients.ask("here", within=BACK_S, lost=True)
        used, took = second.cpu() - before, time.monotonic() - began
        time.sleep(AFTER_S)
        second.ask("end_stream")
        newest = dict(zip(found, second.ask("newest", channels=channels), strict=True))
        behind = clients.ask("reached", newest=newest, within=30)
        return Back(clients.ask("told"), missing, behind, used, took)


def _add(table: Table, name: str, load: Load, backs: Sequence[Back]) -> None:
    figures = [_figures(load, back) for back in backs]
    live = [one.times[-1] for one in figures if one.times[-1] is not None]
    clients = [client for back in backs for client in back.told["clients"]]
    gaps, repeats, unrecovered, attempts = (
        sum(client[column] for client in clients) for column in (3, 4, 5, 6)
    )
    table.rows.append(
        (
            name,
            *(_median([one.times[at] for one in figures]) for at in range(len(SHOWN))),
            min(live, default=None),
            max(live, default=None),
            f"{min(one.back for one in figures):,}",
            gaps + unrecovered,
            repeats,
            attempts / len(clients),
            median(one.cpu_ms for one in figures),
            "" if name == FLOOR else "p99 <= 10 s, no gap, no repeat",
        )
    )
    for back in backs:
        closes = ", ".join(f"{code}: {count:,}" for code, count in back.told["closes"].items())
        failures = ", ".join(f"{kind}: {count:,}" for kind, count in back.told["failures"].items())
        table.notes.append(
            f"{name}: closes {closes or 'none'}; failed attempts {failures or 'none'}; "
            f"{back.cpu_s / back.took_s:.0%} of a core for {back.took_s:.1f} s; within one second "
            f"at most {back.told['lost_at_once']:,} lost their node and "
            f"{back.told['back_at_once']:,} were back."
        )


class Figures(NamedTuple):
    """Of a round: the times of ``SHOWN``, in seconds; the clients that are back; and the other
    node's CPU in ms for each.
    """

    times: list[float | None]
    back: int
    cpu_ms: float


def _figures(load: Load, back: Back) -> Figures:
    here = [client for client in back.told["clients"] if client[2] > 0]
    times = [percentile([client[column] for client in here], of) for column, of in SHOWN]
    count = load.clients - back.missing - back.behind
    return Figures(times, count, back.cpu_s / load.clients * 1000)


def _median(values: Sequence[float | None]) -> float | None:
    """Of the rounds in which there is one."""
    return median(found) if (found := [one for one in values if one is not None]) else None
