"""``tests/bench/run [name …] [--json FILE] [--quick]``: measure, and print the figures."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

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
from tests.bench.soak import soak
from tests.bench.stall import stall
from tests.bench.tokens import tokens
from tests.bench.trust import trust

BENCHMARKS: Final[dict[str, Callable[..., list[Table]]]] = {
    "fanout": fanout,
    "first-token": first_token,
    "idle": idle,
    "append": append,
    "audit": audit,
    "tokens": tokens,
    "across": across,
    "stall": stall,
    "failover": failover,
    "trust": trust,
    "revocation": revocation,
    "soak": soak,
}
BY_NAME: Final = ("soak",)
"""So long that only who names them gets them."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Measures the hub beside a floor or a peer in the same run, and prints ratios. "
        "Nothing here passes or fails; tests/bench/README.md says how to read it.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"of {', '.join(BENCHMARKS)} (default: all but soak)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="short runs, rough figures")
    parser.add_argument(
        "--minutes", type=float, default=30.0, metavar="N", help="how long soak is (default: 30)"
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no {', '.join(unknown)} here; there are {', '.join(BENCHMARKS)}")
    facts = machine()
    print(heading(facts), flush=True)
    tables: list[Table] = []
    try:
        for name in chosen.names or [name for name in BENCHMARKS if name not in BY_NAME]:
            more = {"minutes": chosen.minutes} if name == "soak" else {}
            for table in BENCHMARKS[name](quick=chosen.quick, **more):
                tables.append(table)
                print(table.text(), flush=True)
    except ChildFailed as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    if chosen.json is not None:
        write_json(chosen.json, facts, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
