"""Soak: whether a hub that is used all the time grows: memory, descriptors, tasks.

``soak`` uses it as people do; ``haste`` has it do in minutes what that is in hours. What grows with
the work grows by as much for a thousand answers in both, what grows with time by as much an hour.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from tests.bench.backs import EMBEDDED, OUTGROWN, backs
from tests.bench.child import Child
from tests.bench.report import Table, say
from tests.bench.slope import slope, stretches

CLIENTS: Final = 5
TOKENS: Final = 60
RATE: Final = 30.0
FIRST_MS: Final = 50.0
LOOK_S: Final = 1.0
WARM: Final = 1 / 3
"""Of the time, at the start, which is not looked at."""
STRETCHES: Final = 40
HOUR_S: Final = 3600.0
QUICK_S: Final = 3.0
COLUMNS: Final = (
    "", "at first", "then", "at last", "an hour", "from", "to", "flat", "1,000 answers", "from",
    "to", "flat", "aim",
)  # fmt: skip


class Looks(NamedTuple):
    """What there was at which second of the time, after how many answers."""

    times: list[float]
    answers: list[int]
    found: dict[str, list[float]]


def soak(*, quick: bool, minutes: float = 30.0) -> list[Table]:
    """Let one to five runs go on all the time; the slope of what must not grow."""
    how = [
        f"Each of {CLIENTS} clients has answers of {TOKENS} tokens at {RATE:.0f}/s, one",
        "after the other or with pauses, loses its connection amid half of them, resumes",
        "by position, and deletes its conversation for another after a few.",
    ]
    title = f"a hub with 1 to {CLIENTS} runs all the time"
    return [_soaked("soak", title, how, minutes, quick=quick, haste=False)]


def haste(*, quick: bool, minutes: float = 10.0) -> list[Table]:
    """The same clients with a model that does not let them wait, and no pauses."""
    how = [
        f"As in soak, but each of {CLIENTS} clients asks again at once, and the {TOKENS} tokens of",
        "an answer come as fast as they go. What grows with the work grows by as much for 1,000",
        "answers as in soak, and what grows with time by as much an hour.",
    ]
    title = f"a hub with {CLIENTS} runs, each as soon as the last one is over"
    return [_soaked("haste", title, how, minutes, quick=quick, haste=True)]


def _soaked(
    name: str, title: str, how: Sequence[str], minutes: float, *, quick: bool, haste: bool
) -> Table:
    seconds = QUICK_S if quick else minutes * 60
    table = Table(name, f"{title}, for {_told(seconds)}", COLUMNS)
    found = backs(all_of_them=not quick)
    back = OUTGROWN if OUTGROWN in found else EMBEDDED
    pace = ("0", "0") if haste else (str(1000 / RATE), str(FIRST_MS))
    with ExitStack() as stack:
        environ = stack.enter_context(found[back]())
        model = stack.enter_context(Child("tests.bench.servers.model", str(TOKENS), *pace))
        settings = {
            "OLLAMA_HOST": f"http://127.0.0.1:{model.ready['port']}",
            "HUB_LOG_LEVEL": "error",
            "JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "1440",  # the clients renew nothing
            **environ,
        }
        hub = stack.enter_context(Child("tests.bench.servers.hub", environ=settings))
        soakers = stack.enter_context(Child("tests.bench.soakers"))
        tokens = [owner["token"] for owner in hub.ask("sign_in", users=CLIENTS)]
        where = {"port": hub.ready["port"], "model": model.ready["model"]}
        soakers.ask("begin", tokens=tokens, haste=haste, **where)
        looks = _watch(name, hub, soakers, seconds)
        counts = soakers.ask("counts")
    _add(table, looks)
    told = ", ".join(f"{what}: {number:,}" for what, number in sorted(counts.items()))
    table.notes = [
        f"{back}. {how[0]}",
        *how[1:],
        f"{told}.",
        f"Looked at each {LOOK_S:.0f} s; the first third is left out. The slopes, an hour and for",
        f"1,000 answers, are Theil's and Sen's, of the medians of {STRETCHES} stretches, with the",
        "interval at 95 %. flat: zero is in it. at first, then, at last: the medians of the first",
        "stretch after that third, of the middle one by size, and of the last.",
    ]
    if back == EMBEDDED:
        table.notes.append("The logs are in the hub's memory for a day: it grows by them.")
    return table


def _told(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"


def _watch(name: str, hub: Child, soakers: Child, seconds: float) -> Looks:
    """Look at the hub again and again."""
    looks = Looks([], [], {})
    look_s = min(LOOK_S, seconds / STRETCHES)
    began, said = time.monotonic(), 0.0
    while (passed := time.monotonic() - began) < seconds:
        answers = soakers.ask("counts").get("answers", 0)
        look = {
            "private memory, MiB": hub.private() / 2**20,
            "resident memory, MiB": hub.resident() / 2**20,
            **hub.ask("census"),
        }
        looks.times.append(passed)
        looks.answers.append(answers)
        for what, value in look.items():
            looks.found.setdefault(what, []).append(value)
        if passed - said >= 60:
            said = passed
            say(f"{name}: {passed / 60:.0f} of {seconds / 60:g} minutes, {answers:,} answers")
        time.sleep(look_s)
    return looks


def _add(table: Table, looks: Looks) -> None:
    warm = int(len(looks.times) * WARM)
    for name, values in looks.found.items():
        at, medians = stretches(looks.times[warm:], values[warm:], STRETCHES)
        done, _ = stretches(looks.answers[warm:], values[warm:], STRETCHES)
        hours, thousands = ([one / HOUR_S for one in at], [one / 1000 for one in done])
        middle = sorted(medians)[len(medians) // 2]
        slopes = (*_slope(hours, medians), *_slope(thousands, medians))
        table.rows.append((name, medians[0], middle, medians[-1], *slopes, "flat"))


def _slope(over: Sequence[float], medians: Sequence[float]) -> tuple[float | str | None, ...]:
    """The slope, its interval, and whether it is flat; None of them if it cannot be known."""
    # Stretches in which nothing was answered tell nothing of what answers cost.
    points = dict(zip(over, medians, strict=True))
    if len(points) < 3:
        return None, None, None, None
    found = slope(list(points), list(points.values()))
    return *found, "yes" if found.flat else "no"
