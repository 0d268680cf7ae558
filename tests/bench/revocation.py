"""Revocation: what is taken away on one node ends a stream on another; how long that takes."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from hub.identity.access.authority import RECHECK_S
from tests.bench.ages import percentile
from tests.bench.backs import has_redis
from tests.bench.child import Child
from tests.bench.node import Nodes, two_nodes
from tests.bench.report import Table, say
from tests.bench.servers.furnishing import KINDS

RATE: Final = 10.0
"""Tokens a second of each answer."""
TOKENS: Final = 2_000
"""Of an answer: more than are ever heard."""
BATCH: Final = 25
"""Answers that stream at once while they are taken away one by one."""
FLOWS_S: Final = 30.0
WITHIN_S: Final = 10.0
AWAY_WITHIN_S: Final = 20.0
BAR: Final = 40
COLUMNS: Final = (
    "", "trials", "p50", "p95", "p99", "most", "answer p50", "p95", "p99", "most", "not ended",
    "aim",
)  # fmt: skip


AT_ONCE_S: Final = 1.0
"""Over so long the trials begin that begin at the pause itself."""
AT_PAUSE, KNOWN = "begun at the pause", "begun once both knew"


@dataclass(frozen=True)
class Load:
    """Trials of all kinds together. With Redis paused: how often, the trials of each pause, and
    seconds over which they begin where both nodes know of it. Each second one begins at the pause.
    """

    trials: int
    pauses: int
    each: int
    over_s: float


FULL: Final = Load(200, 7, 29, RECHECK_S)
QUICK: Final = Load(6, 2, 3, 1.0)


class Shown(NamedTuple):
    """How times in seconds are shown: ``scale`` times as large, in a ``unit``. ``edges``, in
    seconds, are where the bars of a histogram begin; the last one ends the last bar.
    """

    scale: float
    unit: str
    aim: str
    edges: Sequence[float]


_BEYOND: Final = 1e9
HERE: Final = Shown(
    1e3,
    "ms",
    "most <= 1 s",
    (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, _BEYOND),
)
AWAY: Final = Shown(
    1, "s", f"most <= {RECHECK_S:g} s", (*(half / 2 for half in range(13)), _BEYOND)
)


class Trial(NamedTuple):
    """Seconds from the request to the end, and from its answer to the end; None if it did not."""

    kind: str
    asked_s: float | None
    answered_s: float | None
    reason: str | None
    when: str = ""


def revocation(*, quick: bool) -> list[Table]:
    """Take things away one by one with Redis there, then side by side with Redis paused."""
    load = QUICK if quick else FULL
    lost_of = load.pauses * load.each
    here = Table("revocation", f"{load.trials} trials: ms to the end on another node", COLUMNS)
    away = Table(
        "revocation, Redis paused", f"{lost_of} trials: s to the end on another node", COLUMNS
    )
    if not has_redis():
        here.notes = ["There is no redis-server here: not measured."]
        return [here]
    # Who answers on the second node is not who streams: runs are driven where they are followed.
    with (
        two_nodes(works_too=False, HUB_RUN_CONCURRENCY="64") as nodes,
        Child("tests.bench.followers") as followers,
    ):
        operator = nodes.first.ask("sign_in", users=1)[0]["token"]
        dice = random.Random(7)
        trials: list[Trial] = []
        for at in range(0, load.trials, BATCH):
            say(f"revocation: trials {at} to {min(at + BATCH, load.trials)} of {load.trials}")
            kinds = _kinds(at, min(at + BATCH, load.trials), dice)
            with _following(nodes, followers, kinds, operator):
                found = followers.ask("in_turn", port=nodes.second.ready["port"], within=WITHIN_S)
                trials += [Trial(*each) for each in found]
        lost: list[Trial] = []
        for pause in range(load.pauses):
            at = pause * load.each
            say(f"revocation: trials {at} to {at + load.each} of {lost_of} with Redis paused")
            kinds = _kinds(at, at + load.each, dice)
            with _following(nodes, followers, kinds, operator):
                over_s = AT_ONCE_S if pause % 2 else load.over_s
                lost += _with_redis_paused(nodes, followers, over_s, at_once=bool(pause % 2))
    _fill(here, trials, HERE)
    _fill(away, lost, AWAY)
    here.notes += [
        "A member follows an answer on one node, and an operation on the other takes away what",
        f"lets them; in turn, beside up to {BATCH - 1} other answers of {RATE:g} tokens/s.",
        "The end is subscription.ended, session.revoked or the close, whichever comes first.",
        "Counted from the request, so that all of the operation is in it, and from its answer:",
        "0 if the end came before that. The nodes, Redis, the database and the client share the",
        "machine's cores.",
    ]
    away.notes += [
        f"Redis is stopped (SIGSTOP) {load.pauses} times, each time until {load.each} have ended",
        "that run side by side. The answers stream from the log of the node that gives them. The",
        "same operations do it: they commit, cannot tell the other node, and answer when that is",
        "certain. The commit is between request and answer; who is answered 503 asks again. At",
        f"each second pause they begin at once, spread evenly over {AT_ONCE_S:g} s, before a node",
        f"has noticed; else once both say that they are not ready, over {load.over_s:g} s.",
    ]
    return [here, away]


def _kinds(first: int, end: int, dice: random.Random) -> list[str]:
    kinds = [KINDS[number % len(KINDS)] for number in range(first, end)]
    dice.shuffle(kinds)
    return kinds


@contextmanager
def _following(nodes: Nodes, followers: Child, kinds: list[str], operator: str) -> Iterator[None]:
    """A follower for each of the kinds, who hears an answer on the first node."""
    port = nodes.first.ready["port"]
    script = {"tokens": [f" token{n}" for n in range(TOKENS)], "delay_ms": 1000 / RATE}
    cases = nodes.first.ask("furnish", kinds=kinds, operator=operator, model="bench")
    followers.ask("follow", port=port, cases=cases, content=f"#script {json.dumps(script)}")
    followers.ask("flowing", within=FLOWS_S)
    yield
    followers.ask("leave", port=port)


def _with_redis_paused(
    nodes: Nodes, followers: Child, over_s: float, *, at_once: bool
) -> list[Trial]:
    ports = [node.ready["port"] for node in (nodes.first, nodes.second)]
    nodes.redis.pause()
    try:
        if not at_once:
            for port in ports:
                followers.ask("ready", port=port, ready=False, within=FLOWS_S)
            followers.ask("flowing", within=FLOWS_S)
        found = followers.ask("at_once", port=ports[1], over=over_s, within=AWAY_WITHIN_S)
    finally:
        nodes.redis.resume()
    for port in ports:
        followers.ask("ready", port=port, ready=True, within=FLOWS_S)
    when = AT_PAUSE if at_once else KNOWN
    return [Trial(*each)._replace(when=when) for each in found]


def _fill(table: Table, trials: list[Trial], shown: Shown) -> None:
    scale = shown.scale
    begun = sorted({trial.when for trial in trials} - {""})
    for kind in (*KINDS, *begun, "all"):
        of = [trial for trial in trials if kind in (trial.kind, trial.when, "all")]
        asked = [trial.asked_s * scale for trial in of if trial.asked_s is not None]
        answered = [trial.answered_s * scale for trial in of if trial.answered_s is not None]
        row: list[Any] = [kind, len(of)]
        for times in (asked, answered):
            row += [percentile(times, share) for share in (50, 95, 99)]
            row.append(max(times, default=None))
        table.rows.append([*row, len(of) - len(asked), shown.aim if kind == "all" else ""])
    times = [trial.asked_s for trial in trials if trial.asked_s is not None]
    table.notes += [*histogram(times, shown), ""]
    reasons = Counter(str(trial.reason) for trial in trials)
    said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    table.notes.append(f"Ended with: {said}.")


def histogram(seconds: Sequence[float], shown: Shown) -> list[str]:
    """A line for each stretch from one edge to the next, from the first to the last that has any.

    An edge belongs to the stretch that begins there.
    """
    edges = shown.edges
    counts = [sum(low <= one < high for one in seconds) for low, high in pairwise(edges)]
    taken = [at for at, count in enumerate(counts) if count]
    if not taken:
        return []
    lines = []
    for at in range(taken[0], taken[-1] + 1):
        name = f"from {edges[at] * shown.scale:g} {shown.unit}"
        bar = "#" * -(-counts[at] * BAR // max(counts))
        lines.append(f"{name:>12}  {counts[at]:4}  {bar}".rstrip())
    return lines
