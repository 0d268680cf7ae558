"""First token: from ``message.send`` to the first text at the client, without the model's delay."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from tests.bench.ages import percentile
from tests.bench.backs import backs
from tests.bench.child import Child
from tests.bench.report import Table, say

FIRST_MS: Final = 50.0
RATE: Final = 30.0
TOKENS: Final = 60
LONG: Final = 240
"""Tokens of a usual chat answer: as many tokens a second, a quarter of the runs begun."""
FEW: Final = 8
"""Tokens of an answer when one client asks alone: more answers in the time, the same path."""


@dataclass
class Load:
    """How many clients ask at once, how long their answers are, and for how many seconds."""

    runs: int
    tokens: int
    seconds: float

    @property
    def answer_s(self) -> float:
        return (FIRST_MS + self.tokens * 1000 / RATE) / 1000

    @property
    def content(self) -> str:
        tokens = [f" token{number}" for number in range(self.tokens)]
        script = {"tokens": tokens, "first_ms": FIRST_MS, "delay_ms": 1000 / RATE}
        return f"#script {json.dumps(script)}" if self.tokens != TOKENS else "Why is the sky blue?"


@dataclass
class Outcome:
    """Seconds of each exchange (acknowledged, first token, end), and CPU shares by process."""

    samples: list[list[float]]
    cpu: dict[str, float]
    seconds: float
    sampled: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def told(self, told: dict[str, list[Any]]) -> Self:
        """This, with what the clients tell."""
        self.samples, self.failures = told["samples"], told["failures"]
        if self.failures:
            say(f"first-token: {len(self.failures)} failed, the first with {self.failures[0]}")
        return self


def first_token(*, quick: bool) -> list[Table]:
    """Measure the embedded defaults, then PostgreSQL with Redis where they are installed."""
    loads = (
        [Load(5, FEW, 1.0)]
        if quick
        else [Load(1, FEW, 15), Load(100, LONG, 24), Load(100, TOKENS, 20)]
    )
    table = Table(
        "first-token",
        "ms from message.send to the first text at the client, less the model's 50 ms",
        ("", "runs", "tokens", "p50", "p99", "ack p50", "ack p99", "runs/s", "failed", "tokens/s",
         "ms/run", "hub", "client", "model"),
    )  # fmt: skip
    stages = Table("first-token stages", "where the hub's CPU goes under the largest load", ())
    with ExitStack() as stack:
        model = stack.enter_context(_model())
        talkers = stack.enter_context(Child("tests.bench.talkers"))
        for load in loads:
            say(f"first-token: {load.runs} at once, straight to the model, for {load.seconds} s")
            table.rows.append(_row("the model alone", load, _direct(model, talkers, load)))
    for name, environment in backs(all_of_them=not quick).items():
        for load in loads:
            say(f"first-token: {load.runs} at once, {name}, for {load.seconds} s")
            with environment() as environ:
                outcome = _through_the_hub(environ, load)
            table.rows.append(_row(name, load, outcome))
            if load is loads[-1]:
                _add_stages(stages, name, outcome)
    table.notes = [
        f"tokens are of an answer, at {RATE:.0f}/s; each client asks",
        "again 0 to 100 ms after an answer's end. runs/s and tokens/s are what was answered,",
        "failed what was answered with an error. hub, client and model are the CPU each used, of",
        "one core, and ms/run is the hub's for a run. 'the model alone' is the same clients on raw",
        "connections to the same model server: the floor that the other rows contain.",
        "Aim: p50 at most 10 ms, p99 at most 50 ms at 100 runs.",
    ]
    return [table, stages]


def _row(name: str, load: Load, outcome: Outcome) -> list[Any]:
    first = [(sample[1] * 1000 - FIRST_MS) for sample in outcome.samples]
    acknowledged = [sample[0] * 1000 for sample in outcome.samples]
    through_hub = "hub" in outcome.cpu
    rate = len(outcome.samples) / outcome.seconds
    return [
        name,
        load.runs,
        load.tokens,
        percentile(first, 50),
        percentile(first, 99),
        percentile(acknowledged, 50) if through_hub else None,
        percentile(acknowledged, 99) if through_hub else None,
        rate,
        len(outcome.failures),
        rate * load.tokens,
        outcome.cpu["hub"] / rate * 1000 if through_hub and rate else None,
        *(
            f"{outcome.cpu[part]:.0%}" if part in outcome.cpu else "-"
            for part in ("hub", "client", "model")
        ),
    ]


def _add_stages(table: Table, name: str, outcome: Outcome) -> None:
    sampled = outcome.sampled
    stages = sampled["stages"]
    if not table.columns:
        table.columns = ("", *stages)
    table.rows.append([name, *(f"{stages.get(stage, 0.0):.0%}" for stage in table.columns[1:])])
    threads = {name: s for name, s in sampled["threads_s"].items() if s > 0.01}
    shares = ", ".join(f"{name} {s / sampled['cpu_s']:.0%}" for name, s in threads.items())
    table.notes.append(f"{name}: CPU by thread: {shares}")


@contextmanager
def _model() -> Iterator[Child]:
    with Child("tests.bench.servers.model", str(TOKENS), str(1000 / RATE), str(FIRST_MS)) as model:
        yield model


def _direct(model: Child, talkers: Child, load: Load) -> Outcome:
    with _measured(client=talkers, model=model) as outcome:
        told = talkers.ask(
            "direct",
            port=model.ready["port"],
            model=model.ready["model"],
            content=load.content,
            clients=load.runs,
            seconds=load.seconds,
            stagger=load.answer_s,
        )
    return outcome.told(told)


def _through_the_hub(environ: Mapping[str, str], load: Load) -> Outcome:
    with ExitStack() as stack:
        model = stack.enter_context(_model())
        host = f"http://127.0.0.1:{model.ready['port']}"
        settings = {"OLLAMA_HOST": host, "HUB_LOG_LEVEL": "error", **environ}
        hub = stack.enter_context(Child("tests.bench.servers.hub", environ=settings))
        talkers = stack.enter_context(Child("tests.bench.talkers"))
        owners = hub.ask("sign_in", users=load.runs)
        conversations = hub.ask("converse", owners=owners, model=model.ready["model"])
        tokens = [owner["token"] for owner in owners]
        talkers.ask(
            "connect",
            port=hub.ready["port"],
            tokens=tokens,
            conversations=conversations,
            content=load.content,
        )
        talkers.ask("talk", seconds=0.5, stagger=0.5)
        with _measured(hub=hub, client=talkers, model=model) as outcome:
            told = talkers.ask("talk", seconds=load.seconds, stagger=load.answer_s)
        # Apart, so that what samples is not measured.
        talkers.tell("talk", seconds=load.seconds / 4, stagger=load.answer_s)
        outcome.sampled = hub.ask("sample", seconds=load.seconds / 4)
        talkers.answer()
        return outcome.told(told)


@contextmanager
def _measured(**children: Child) -> Iterator[Outcome]:
    """The CPU that each child uses in the block, of one core."""
    outcome = Outcome([], {}, 0.0)
    before = {name: child.cpu() for name, child in children.items()}
    began = time.monotonic()
    yield outcome
    outcome.seconds = time.monotonic() - began
    outcome.cpu = {
        name: (child.cpu() - before[name]) / outcome.seconds for name, child in children.items()
    }
