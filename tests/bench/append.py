"""Append: a node's CPU time per event that is appended to a log and heard by its subscriber."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.child import Child, process_cpu
from tests.bench.report import Table, say
from tests.parts.redis import RedisProcess

MODULE: Final = "tests.bench.appender"
WRITERS: Final = (1, 32)


def append(*, quick: bool) -> list[Table]:
    """Measure memory, and Redis beside a bare pipeline of the same script."""
    rounds, events = (3, 1_000) if quick else (7, 6_400)
    table = Table(
        "append",
        "CPU of a node per event appended and heard, µs",
        ("", "at once", "µs/event", "lowest", "highest", "x bare", "redis-server"),
    )
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder, ExitStack() as stack:
        url, redis_pid = "", None
        if shutil.which("redis-server"):
            server = RedisProcess(Path(folder) / "redis")
            stack.callback(server.stop)
            server.start()
            with server.client() as client:
                redis_pid = int(client.info("server")["process_id"])
            url = server.url
        for writers in WRITERS:
            say(f"append: {writers} at once")
            _measure(table, writers, url, redis_pid, rounds=rounds, events=events)
    table.notes = [
        f"Medians of {rounds} rounds of {events:,} events in turn. So many writers append to a",
        "channel each and wait for the answer before they append again; the process subscribes to",
        "all of them. 'x bare': the same script in pipelines of redis-py's own connections, with",
        "nothing to number, retry or time out; the median of each round's ratio. redis-server: its",
        "own CPU for an event.",
    ]
    if redis_pid is None:
        table.notes.append("There is no redis-server here: memory only.")
    return [table]


def _measure(
    table: Table, writers: int, url: str, redis_pid: int | None, *, rounds: int, events: int
) -> None:
    ways = [("memory", "hub", "")]
    if redis_pid is not None:
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
                before = process_cpu(redis_pid) if redis_pid is not None else 0.0
                costs[at].append(child.ask("write", events=events // writers))
                if ways[at][2] and redis_pid is not None:
                    redis_costs[at].append((process_cpu(redis_pid) - before) / events * 1e6)
    for (name, _, where), of, of_redis in zip(ways, costs, redis_costs, strict=True):
        ratio = median(a / b for a, b in zip(of, costs[-1], strict=True)) if where else None
        of_server = median(of_redis) if of_redis else None
        table.rows.append((name, writers, median(of), min(of), max(of), ratio, of_server))
