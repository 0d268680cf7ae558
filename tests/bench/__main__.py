"""``tests/bench/run [name …] [--without NAME …] [--json FILE] [--quick]``: measure, and print the
figures.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.across import across
from tests.bench.append import append
from tests.bench.audit import audit
from tests.bench.child import ChildFailed
from tests.bench.failover import failover
from tests.bench.fanout import fanout
from tests.bench.first_token import first_token
from tests.bench.idle import idle
from tests.bench.report import Table, heading, machine, say, write_json
from tests.bench.revocation import revocation
from tests.bench.soak import haste, soak
from tests.bench.stall import stall
from tests.bench.tokens import tokens
from tests.bench.trust import trust


class Benchmark(NamedTuple):
    """How it is measured, and how long that takes: minutes, and seconds if it is to be quick."""

    measure: Callable[..., list[Table]]
    minutes: float
    quick_s: float = 5.0


BENCHMARKS: Final[dict[str, Benchmark]] = {
    "fanout": Benchmark(fanout, 8, 25),
    "first-token": Benchmark(first_token, 5),
    "idle": Benchmark(idle, 9),
    "append": Benchmark(append, 1),
    "audit": Benchmark(audit, 3),
    "tokens": Benchmark(tokens, 6),
    "across": Benchmark(across, 2),
    "stall": Benchmark(stall, 9),
    "failover": Benchmark(failover, 7, 20),
    "trust": Benchmark(trust, 3, 15),
    "revocation": Benchmark(revocation, 2, 15),
    "soak": Benchmark(soak, 30),
    "haste": Benchmark(haste, 10),
}
"""In the order in which they are measured; the longest come last."""

SOAKS: Final = ("soak", "haste")
"""These take as long as they are told to: ``--minutes``, and the second of them a third of that."""


def main(arguments: list[str]) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = [name for name in (*given.names, *given.without) if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no {', '.join(unknown)} here; there are {', '.join(BENCHMARKS)}")
    if given.minutes <= 0:
        parser.error("--minutes: more than 0")
    names = chosen(given.names, given.without)
    if not names:
        parser.error("nothing is left to measure")
    facts = machine()
    print(heading(facts), flush=True)
    say(announced(names, given.minutes, quick=given.quick))
    tables: list[Table] = []
    try:
        for name in names:
            more = {"minutes": _minutes(name, given.minutes)} if name in SOAKS else {}
            for table in BENCHMARKS[name].measure(quick=given.quick, **more):
                tables.append(table)
                print(table.text(), flush=True)
    except ChildFailed as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    if given.json is not None:
        write_json(given.json, facts, tables)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Measures the hub beside a floor or a peer in the same run, and prints ratios. "
        "Nothing here passes or fails; tests/bench/README.md says how to read it.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument(
        "--without", nargs="+", action="extend", default=[], metavar="NAME", help="all but these"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="short runs, rough figures")
    parser.add_argument(
        "--minutes",
        type=float,
        default=30.0,
        metavar="N",
        help="how long soak is; haste is a third of it (default: 30)",
    )
    return parser


def chosen(names: Sequence[str], without: Sequence[str]) -> list[str]:
    """What is to be measured, in which order: these or else all of them, but for some."""
    return [name for name in names or BENCHMARKS if name not in without]


def _minutes(name: str, soak_minutes: float) -> float:
    """How long a benchmark takes, roughly."""
    benchmark = BENCHMARKS[name]
    if name not in SOAKS:
        return benchmark.minutes
    return soak_minutes * benchmark.minutes / BENCHMARKS["soak"].minutes


def announced(names: Sequence[str], soak_minutes: float, *, quick: bool) -> str:
    """How long it will take, and how it would take less."""
    if quick:
        return f"about {sum(BENCHMARKS[name].quick_s for name in names):.0f} s"
    text = f"about {sum(_minutes(name, soak_minutes) for name in names):.0f} minutes"
    soaks = [name for name in SOAKS if name in names]
    if len(names) == len(soaks):
        return text
    theirs = sum(_minutes(name, soak_minutes) for name in soaks)
    less = f", {theirs:.0f} of them for --without {' '.join(soaks)}" if soaks else ""
    quick_s = sum(BENCHMARKS[name].quick_s for name in names)
    return f"{text}{less}; about {quick_s:.0f} s with --quick, for rough figures"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
