"""Tokens: the hub's CPU time per token, from the model's stream to the log, at 100 runs at once.

Looked at while all runs stream: none begins and none ends in the window, so that what a run costs
by itself is not spread over its tokens. The tokens are counted where they are written.
"""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from tests.bench.backs import backs
from tests.bench.child import Child
from tests.bench.node import subscription
from tests.bench.report import Table, say
from tests.bench.servers.sampler import STAGES

FIRST_MS: Final = 50.0
BEGIN_S: Final = 30.0
"""How long the runs may take to begin, all together."""
SETTLE_S: Final = 0.5
ENDING_S: Final = 1.0
"""How long the hub is given, after the model's last word, to end the runs."""

NAMES: Final = (*(name for name, _ in STAGES), "loop")


@dataclass(frozen=True)
class Load:
    """So many answers of so many tokens at once, ``rate`` a second of each; ``window`` seconds of
    them are looked at.
    """

    runs: int
    tokens: int
    rate: float
    window: float
    rounds: int


@dataclass
class Cost:
    """µs of CPU per token: in the window, and of whole answers; and the window's facts."""

    streaming: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    ended: int = 0
    """Answers that had ended before their window had."""
    sampled: dict[str, Any] = field(default_factory=dict)


def tokens(*, quick: bool) -> list[Table]:
    """Measure the embedded defaults, then PostgreSQL with Redis where they are installed."""
    load = Load(5, 90, 60.0, 0.5, 1) if quick else Load(100, 240, 30.0, 4.0, 5)
    table = Table(
        "tokens",
        f"CPU of the hub per token, {load.runs} runs at once at {load.rate:.0f} tokens/s, µs",
        ("", "µs/token", "lowest", "highest", "x floor", "whole answers", "tokens/s", "hub"),
    )
    stages = Table("tokens stages", "the same, by stage, µs per token", ("", *NAMES))
    for name, back in backs(all_of_them=not quick).items():
        with ExitStack() as stack:
            environ = stack.enter_context(back())
            costs = _measure(stack, environ, load, name)
        _add(table, stages, name, costs)
    table.notes = [
        f"Medians of {load.rounds} rounds in turn. µs/token: CPU of the hub's process in",
        f"{load.window:g} s in which all {load.runs} runs stream, by the tokens that the model",
        "wrote in them. whole answers: the same from the first message.send to the last run's end,",
        f"answers of {load.tokens} tokens. floor: raw connections to the same model; a line is",
        "parsed with orjson, made an event, and appended by the same backplane. x floor: the",
        "median of each round's ratio. hub: of one core.",
    ]
    if ended := sum(cost.ended for cost in costs.values()):
        table.notes.append(f"{ended} answers ended within their window: the machine was too slow.")
    stages.notes = [
        "Shares from looking at the hub's stack each millisecond of its CPU time, in a round of",
        "its own; by the µs above. fan-out and socket come after the log. loop: the event loop",
        "itself, and what it calls in C.",
    ]
    return [table, stages]


def _measure(
    stack: ExitStack, environ: Mapping[str, str], load: Load, name: str
) -> dict[str, Cost]:
    start = stack.enter_context
    pace = str(load.tokens), str(1000 / load.rate), str(FIRST_MS)
    model = start(Child("tests.bench.servers.model", *pace))
    host = f"http://127.0.0.1:{model.ready['port']}"
    settings = {"OLLAMA_HOST": host, "HUB_LOG_LEVEL": "error", **environ}
    hub = start(Child("tests.bench.servers.hub", environ=settings))
    reader = start(Child("tests.bench.servers.reader", environ=environ))
    crowd = start(Child("tests.bench.crowd"))
    owners = hub.ask("sign_in", users=load.runs)
    ways = [
        _Through(hub, model, crowd, owners, subscribed=False),
        _Through(hub, model, crowd, owners, subscribed=True),
        _Floor(reader, model),
    ]
    for number in range(load.rounds):
        say(f"tokens: {name}, round {number + 1} of {load.rounds}")
        for way in ways:
            _round(way, model, load)
    for way in ways[:2]:
        say(f"tokens: {name}, {way.name}, by stage")
        _round(way, model, load, sampling=True)
    return {way.name: way.cost for way in ways}


class _Way:
    """A server that reads the model's streams, and how it is told to."""

    def __init__(self, name: str, server: Child, model: Child) -> None:
        self.name = name
        self.server = server
        self.cost = Cost()
        self._model = model

    def begin(self, runs: int) -> None:
        """Let so many answers begin."""
        raise NotImplementedError

    def end(self) -> None:
        """All of them have ended."""


class _Through(_Way):
    """The hub, without or with a reader of each conversation."""

    def __init__(
        self,
        hub: Child,
        model: Child,
        crowd: Child,
        owners: list[dict[str, str]],
        *,
        subscribed: bool,
    ) -> None:
        super().__init__("hub, a reader each" if subscribed else "hub, nobody reads", hub, model)
        self._crowd = crowd
        self._owners = owners
        self._subscribed = subscribed

    def begin(self, runs: int) -> None:
        # Fresh ones: nothing of the last round is in their history.
        found = self.server.ask("converse", owners=self._owners, model=self._model.ready["model"])
        self._crowd.ask(
            "connect",
            group=self.name,
            greetings=[],
            port=self.server.ready["port"],
            path="/ws",
            count=runs,
            subprotocol="agenthub.v1",
            tokens=[owner["token"] for owner in self._owners],
        )
        self._crowd.ask("wait", group=self.name, messages=1, within=BEGIN_S)
        if self._subscribed:
            self._crowd.ask("request", group=self.name, texts=[subscription(one) for one in found])
        self._crowd.ask("request", group=self.name, texts=[_sending(one) for one in found])

    def end(self) -> None:
        time.sleep(ENDING_S)
        self._crowd.ask("close", group=self.name)


class _Floor(_Way):
    """Raw connections, and the backplane."""

    def __init__(self, reader: Child, model: Child) -> None:
        super().__init__("floor: a line parsed and appended", reader, model)

    def begin(self, runs: int) -> None:
        self.server.tell("read", **self._model.ready, content="Why is the sky blue?", streams=runs)

    def end(self) -> None:
        self.server.answer()


def _sending(conversation: str) -> str:
    content = "Why is the sky blue?"
    params = {"conversation_id": conversation, "client_message_id": "1", "content": content}
    return json.dumps({"jsonrpc": "2.0", "id": 2, "method": "message.send", "params": params})


def _round(way: _Way, model: Child, load: Load, *, sampling: bool = False) -> None:
    cost, began = way.cost, way.server.cpu()
    [written, _] = model.ask("written")
    way.begin(load.runs)
    _until_writing(model, load.runs)
    time.sleep(SETTLE_S)
    if sampling:
        cost.sampled = way.server.ask("sample", seconds=load.window)
    else:
        _window(way, model, load)
    _until_writing(model, 0)
    way.end()
    if not sampling:
        total = model.ask("written")[0] - written
        cost.whole.append((way.server.cpu() - began) / total * 1e6)


def _window(way: _Way, model: Child, load: Load) -> None:
    [before, _], cpu, began = model.ask("written"), way.server.cpu(), time.monotonic()
    time.sleep(load.window)
    [after, writing], used = model.ask("written"), way.server.cpu() - cpu
    took = time.monotonic() - began
    way.cost.streaming.append(used / (after - before) * 1e6)
    way.cost.rate.append((after - before) / took)
    way.cost.share.append(used / took)
    way.cost.ended += load.runs - writing


def _until_writing(model: Child, answers: int) -> None:
    deadline = time.monotonic() + BEGIN_S
    while (writing := model.ask("written")[1]) != answers:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{writing} answers are being written, not {answers}")
        time.sleep(0.02)


def _add(table: Table, stages: Table, back: str, costs: Mapping[str, Cost]) -> None:
    floor = next(cost for name, cost in costs.items() if name.startswith("floor"))
    for name, cost in costs.items():
        row = f"{back}: {name}"
        ratios = [a / b for a, b in zip(cost.streaming, floor.streaming, strict=True)]
        table.rows.append(
            (
                row,
                median(cost.streaming),
                min(cost.streaming),
                max(cost.streaming),
                median(ratios),
                median(cost.whole),
                median(cost.rate),
                f"{median(cost.share):.0%}",
            )
        )
        if cost.sampled:
            shares = cost.sampled["stages"]
            of = [shares.get(stage, 0.0) * median(cost.streaming) for stage in NAMES]
            stages.rows.append((row, *of))
