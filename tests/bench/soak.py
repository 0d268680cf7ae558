"""Soak: whether a hub that is used all the time grows: memory, descriptors, tasks."""

import time
from contextlib import ExitStack
from typing import Final

from tests.bench.backs import EMBEDDED, OUTGROWN, backs
from tests.bench.child import Child
from tests.bench.report import Table, say
from tests.bench.slope import slope, stretches

CLIENTS: Final = 5
TOKENS: Final = 60
RATE: Final = 30.0
LOOK_S: Final = 1.0
WARM: Final = 1 / 3
"""Of the time, at the start, which is not looked at."""
STRETCHES: Final = 40
HOUR_S: Final = 3600.0


def soak(*, quick: bool, minutes: float = 30.0) -> list[Table]:
    """Let one to five runs go on all the time; the slope of what must not grow."""
    minutes = 1.0 if quick else minutes
    table = Table(
        "soak",
        f"a hub with 1 to {CLIENTS} runs all the time for {minutes:g} minutes",
        ("", "at first", "then", "at last", "slope an hour", "from", "to", "flat", "aim"),
    )
    found = backs()
    name = OUTGROWN if OUTGROWN in found else EMBEDDED
    with ExitStack() as stack:
        environ = stack.enter_context(found[name]())
        pace = str(TOKENS), str(1000 / RATE), "50"
        model = stack.enter_context(Child("tests.bench.servers.model", *pace))
        host = f"http://127.0.0.1:{model.ready['port']}"
        settings = {
            "OLLAMA_HOST": host,
            "HUB_LOG_LEVEL": "error",
            "JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "1440",  # the clients renew nothing
            **environ,
        }
        hub = stack.enter_context(Child("tests.bench.servers.hub", environ=settings))
        soakers = stack.enter_context(Child("tests.bench.soakers"))
        tokens = [owner["token"] for owner in hub.ask("sign_in", users=CLIENTS)]
        soakers.ask("begin", port=hub.ready["port"], tokens=tokens, model=model.ready["model"])
        times, looks = _watch(hub, soakers, minutes * 60)
        counts = soakers.ask("counts")
    _add(table, times, looks)
    told = ", ".join(f"{what}: {number:,}" for what, number in sorted(counts.items()))
    table.notes = [
        f"{name}. Each of {CLIENTS} clients has answers of {TOKENS} tokens at {RATE:.0f}/s, one",
        "after the other or with pauses, loses its connection amid half of them, resumes",
        "by position, and deletes its conversation for another after a few.",
        f"{told}.",
        f"Looked at each {LOOK_S:.0f} s; the first third is left out. The slope is Theil's and",
        f"Sen's, of the medians of {STRETCHES} stretches, with its interval at 95 %. flat: zero is",
        "in it. at first, then, at last: the medians of the first stretch after that third, of the",
        "middle one by size, and of the last.",
    ]
    if name == EMBEDDED:
        table.notes.append("The logs are in the hub's memory for a day: it grows by them.")
    return [table]


def _watch(
    hub: Child, soakers: Child, seconds: float
) -> tuple[list[float], dict[str, list[float]]]:
    """Look at the hub again and again."""
    times: list[float] = []
    looks: dict[str, list[float]] = {}
    began, said = time.monotonic(), 0.0
    while (passed := time.monotonic() - began) < seconds:
        times.append(passed)
        look = {
            "private memory, MiB": hub.private() / 2**20,
            "resident memory, MiB": hub.resident() / 2**20,
            **hub.ask("census"),
        }
        for name, value in look.items():
            looks.setdefault(name, []).append(value)
        if passed - said >= 60:
            said = passed
            answers = soakers.ask("counts").get("answers", 0)
            say(f"soak: {passed / 60:.0f} of {seconds / 60:g} minutes, {answers} answers")
        time.sleep(LOOK_S)
    return times, looks


def _add(table: Table, times: list[float], looks: dict[str, list[float]]) -> None:
    warm = int(len(times) * WARM)
    for name, values in looks.items():
        at, medians = stretches(times[warm:], values[warm:], STRETCHES)
        grows = slope([one / HOUR_S for one in at], medians)
        middle = sorted(medians)[len(medians) // 2]
        flat = "yes" if grows.flat else "no"
        table.rows.append((name, medians[0], middle, medians[-1], *grows, flat, "flat"))
