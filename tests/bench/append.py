"""Append: a node's CPU time per event that is appended to a log and heard by its subscriber."""

from contextlib import ExitStack
from statistics import median
from typing import Final

from tests.bench.backs import has_redis, redis_pid, redis_server
from tests.bench.child import Child, process_cpu
from tests.bench.report import Table, say

MODULE: Final = "tests.bench.appender"
WRITERS: Final = (1, 32, 100)


def append(*, quick: bool) -> list[Table]:
    """Measure memory, and Redis beside a bare pipeline of the same script."""
    rounds, events = (2, 400) if quick else (7, 6_400)
    table = Table(
        "append",
        "CPU of a node per event appended and heard, µs",
        ("", "at once", "µs/event", "lowest", "highest", "x bare", "redis-server"),
    )
    with ExitStack() as stack:
        url, pid = "", None
        if has_redis():
            server = stack.enter_context(redis_server())
            url, pid = server.url, redis_pid(server)
        for writers in WRITERS[::2] if quick else WRITERS:
            say(f"append: {writers} at once")
            _measure(table, writers, url, pid, rounds=rounds, events=events)
    table.notes = [
        f"Medians of {rounds} rounds of {events:,} events in turn. So many writers append to a",
        "channel each and wait for the answer before they append again; the process subscribes to",
        "all of them. 'x bare': the same script in pipelines of redis-py's own connections, with",
        "nothing to number, retry or time out; the median of each round's ratio. redis-server: its",
        "own CPU for an event. Aim: at 100 writers at most 80 µs, and at most 1.3 x bare.",
    ]
    if pid is None:
        table.notes.append("There is no redis-server here: memory only.")
    return [table]


def _measure(
    table: Table, writers: int, url: str, pid: int | None, *, rounds: int, events: int
) -> None:
    ways = [("memory", "hub", "")]
    if pid is not None:
        ways += [("Redis", "hub", url), ("a bare pipeline", "bare", url)]
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(MODULE, kind, where, str(writers))) for _, kind, where in ways
        ]
        costs: list[list[float]] = [[] for _ in ways]
        redis_costs: list[list[float]] = [[] for _ in ways]
        for child in children:
            child.ask("write", events=max(1, events // writers // 10))
        for _ in range(rounds):
            for at, child in enumerate(children):
                before = process_cpu(pid) if pid is not None else 0.0
                costs[at].append(child.ask("write", events=events // writers))
                if ways[at][2] and pid is not None:
                    redis_costs[at].append((process_cpu(pid) - before) / events * 1e6)
    for (name, _, where), of, of_redis in zip(ways, costs, redis_costs, strict=True):
        ratio = median(a / b for a, b in zip(of, costs[-1], strict=True)) if where else None
        of_server = median(of_redis) if of_redis else None
        table.rows.append((name, writers, median(of), min(of), max(of), ratio, of_server))
