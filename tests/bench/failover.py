"""Failover: clients lose their node, and resume on another; how long until they hear again."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from tests.bench.ages import percentile
from tests.bench.backs import has_redis
from tests.bench.child import Child
from tests.bench.node import raise_file_limit, two_nodes
from tests.bench.report import Table, say

RATE: Final = 2.0
"""Events a second of each conversation."""
LONGEST_S: Final = 600.0
COME_S: Final = 120.0
BACK_S: Final = 120.0
AFTER_S: Final = 1.0
"""How long events flow on when all are back."""
SHOWN: Final = ((0, 50), (0, 99), (1, 50), (1, 99), (2, 50), (2, 99))
"""Columns of what a client tells, and percentiles."""


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
        ("", "subscribed p50", "p99", "first event p50", "p99", "first live p50", "p99", "back",
         "gaps", "repeats", "attempts", "ms CPU each", "aim"),
    )  # fmt: skip
    if not has_redis():
        table.notes = ["There is no redis-server here: not measured."]
        return [table]
    say(f"failover: {load.clients} clients of a bare echo")
    _add(table, "floor: a bare echo, killed", load, _floor(load))
    for name, end in (("hub, killed", Child.kill), ("hub, drained", Child.terminate)):
        say(f"failover: {load.clients} clients, {name}")
        _add(table, name, load, _hub(load, end))
    table.notes += [
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


def _add(table: Table, name: str, load: Load, back: Back) -> None:
    clients = back.told["clients"]
    here = [client for client in clients if client[2] > 0]
    times = [percentile([client[column] for client in here], of) for column, of in SHOWN]
    gaps, repeats, unrecovered, attempts = (
        sum(client[column] for client in clients) for column in (3, 4, 5, 6)
    )
    table.rows.append(
        (
            name,
            *times,
            f"{load.clients - back.missing - back.behind:,}",
            gaps + unrecovered,
            repeats,
            attempts / load.clients,
            back.cpu_s / load.clients * 1000,
            "" if name.startswith("floor") else "p99 <= 10 s, no gap, no repeat",
        )
    )
    closes = ", ".join(f"{code}: {count:,}" for code, count in back.told["closes"].items())
    failures = ", ".join(f"{kind}: {count:,}" for kind, count in back.told["failures"].items())
    table.notes.append(
        f"{name}: closes {closes or 'none'}; failed attempts {failures or 'none'}; "
        f"{back.cpu_s / back.took_s:.0%} of a core for {back.took_s:.1f} s."
    )
