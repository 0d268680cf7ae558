"""Fan-out: a server's CPU time per delivered event, to 1, 100 and 1,000 subscribers."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, NamedTuple

from tests.bench.backs import has_redis, redis_server
from tests.bench.child import Child
from tests.bench.node import quiet_hub, raise_file_limit, subscription
from tests.bench.report import Table, say
from tests.bench.servers.sampler import Stages

SOCKET_IO: Final = "/socket.io/?EIO=4&transport=websocket"
MANY: Final = 20
"""Conversations on each socket of the hub, in the rows of events that wait together."""
BURST: Final = 10

CONNECT_S: Final = 60.0

FLOOR: Final = "floor: a ready frame on raw transports"
HUB: Final = "hub"
TOGETHER: Final = f"hub, {BURST} events in one turn, {MANY} conversations a socket"
BROADCAST: Final = "websockets.broadcast"
SOCKETIO: Final = "python-socketio, a room"
HUB_REDIS: Final = "hub, on Redis"
SOCKETIO_REDIS: Final = "python-socketio, its Redis manager"

AIMS: Final = {
    TOGETHER: "<= 0.25 x floor",
    BROADCAST: ">= 1.5 x the hub",
    SOCKETIO_REDIS: ">= 8 x the hub",
}
"""With more than one subscriber; the hub's own differs with their number."""

SPLIT_AT: Final = 100
"""Subscribers at which it is looked where the time goes: where the aim is missed by most."""
STAGES: Final[Stages] = (
    ("writes", ("hub/events/live.py:deliver", "servers/raw.py:main.<locals>.emit")),
    ("frame", ("hub/events/delivery.py",)),
    ("fan-out", ("hub/events/",)),
    ("log", ("hub/backplane/", "redis/")),
    ("metrics", ("prometheus_client/", "hub/telemetry/")),
    ("pacing", ("servers/pace.py", "servers/appending.py")),
    ("the rest", ("hub/", "uvicorn/", "websockets/", "starlette/", "sqlalchemy/")),
)
NAMES: Final = (*(name for name, _ in STAGES), "loop")


class Load(NamedTuple):
    """Subscribers of the one conversation, events of a round, and events a second."""

    subscribers: int
    events: int
    rate: float


FULL: Final = (Load(1, 1_000, 1_000), Load(100, 300, 200), Load(1_000, 40, 20))
QUICK: Final = (Load(1, 100, 500), Load(100, 40, 200))


@dataclass
class Contestant:
    """A server, its subscribers' group, how it is told to publish, and what it has cost: µs per
    delivered event. ``beside`` is the row of the hub that a peer is compared with.
    """

    name: str
    server: Child
    connecting: dict[str, Any]
    ready: int
    """Messages that a fresh connection gets before it asks anything."""
    arguments: dict[str, Any] = field(default_factory=dict)
    beside: str | None = None
    requests: list[str] = field(default_factory=list)
    """What each connection asks before the first event."""
    costs: list[float] = field(default_factory=list)
    idle: float = 0.0
    """The share of a core that it uses while nothing is published."""
    connected: int = 0


def fanout(*, quick: bool) -> list[Table]:
    """Measure the hub, the floor and the peers in turn, several rounds of each load."""
    raise_file_limit()
    rounds, look_s, split_s = (2, 0.5, 0.5) if quick else (7, 6.0, 30.0)
    table = Table(
        "fanout",
        "server CPU per delivered event, subscribers of one conversation, µs",
        ("", "to", "µs/event", "lowest", "highest", "x floor", "x the hub", "idle too", "aim"),
    )
    split = Table(
        "fanout stages",
        f"the same to {SPLIT_AT}, by stage, µs per event to all of them",
        ("", "µs/event", *NAMES, "looks"),
    )
    with ExitStack() as stack:
        crowd = stack.enter_context(Child("tests.bench.crowd"))
        contestants = _contestants(stack)
        for load in QUICK if quick else FULL:
            say(f"fanout: {load.subscribers} subscribers")
            for contestant in contestants:
                contestant.costs = []
                _connect(contestant, crowd, load.subscribers)
            _look_idle(contestants, look_s)
            for number in range(rounds):
                say(f"fanout: round {number + 1} of {rounds}")
                for contestant in contestants:
                    contestant.costs.append(_cost(contestant, crowd, load))
            _add(table, contestants, load)
            if load.subscribers == SPLIT_AT:
                for contestant in contestants:
                    if contestant.name in (FLOOR, HUB, TOGETHER, HUB_REDIS):
                        say(f"fanout: {contestant.name}, by stage")
                        _split(split, contestant, crowd, load, split_s)
    table.notes = [
        f"Medians of {rounds} rounds in turn; ratios are medians of each round's ratio. One event",
        "at a time: 1,000/s to one subscriber, 200/s to 100, 20/s to 1,000 (--quick: 500 and 200);",
        "all of them arrived. CPU of the server's process alone, less what it uses while nothing",
        "is published, which was looked at before; 'idle too' has that in it. x the hub: how many",
        "times the hub's cost, of the hub on Redis for python-socketio with its Redis manager. The",
        "pacing is the same in all, and at one subscriber it is much of each figure.",
    ]
    if not has_redis():
        table.notes.append("There is no redis-server here: its rows are left out.")
    split.notes = [
        f"Shares of so many looks at the stack, by CPU time, in {split_s:g} s after the rounds; by",
        "the µs above. writes: the loop over the subscribers with the transports' own writes,",
        "which are in C and count for it; so do the floor's. frame: the event as text and as a",
        "frame; fan-out: who reads it, the turn in which it is delivered; log: the append, and",
        "what is heard of it. pacing: the publisher, as in every row. loop: the event loop itself,",
        "and what it calls in C.",
    ]
    return [table, split]


def _contestants(stack: ExitStack) -> list[Contestant]:
    """The servers; those that are compared in one round follow each other."""
    start = stack.enter_context
    raw, room, broadcast = (
        start(Child(f"tests.bench.servers.{name}"))
        for name in ("raw", "socketio_room", "broadcast")
    )
    plain = {"path": "/"}
    socket_io = {"path": SOCKET_IO, "greetings": ["40"]}
    hub = start(quiet_hub())
    found = [
        Contestant(FLOOR, raw, plain, 0),
        _hub(HUB, hub),
        _hub(TOGETHER, hub, conversations=MANY),
        Contestant(BROADCAST, broadcast, plain, 0, beside=HUB),
        # Socket.IO's first messages are 0 and 40.
        Contestant(SOCKETIO, room, socket_io, 2, beside=HUB),
    ]
    if has_redis():
        for_hub, for_room = start(redis_server()), start(redis_server())
        outgrown = start(quiet_hub(HUB_REDIS_URL=for_hub.url))
        managed = start(Child("tests.bench.servers.socketio_room", for_room.url))
        found += [
            _hub(HUB_REDIS, outgrown),
            Contestant(SOCKETIO_REDIS, managed, socket_io, 2, beside=HUB_REDIS),
        ]
    return found


def _hub(name: str, hub: Child, conversations: int = 1) -> Contestant:
    owner = hub.ask("sign_in", users=1)[0]
    found = hub.ask("converse", owners=[owner] * conversations)
    connecting = {
        "path": "/ws",
        "subprotocol": "agenthub.v1",
        "tokens": [owner["token"]],
    }
    arguments = {
        "channels": [f"conversation:{one}" for one in found],
        "burst": 1 if conversations == 1 else BURST,
    }
    requests = [subscription(one, number) for number, one in enumerate(found)]
    # Its first message is session.ready.
    return Contestant(name, hub, connecting, 1, arguments, requests=requests)


def _connect(contestant: Contestant, crowd: Child, subscribers: int) -> None:
    """So many in all."""
    group = {"greetings": [], **contestant.connecting}
    count = subscribers - contestant.connected
    crowd.ask("reset", group=contestant.name)
    port = contestant.server.ready["port"]
    crowd.ask("connect", group=contestant.name, port=port, count=count, **group)
    ready = contestant.ready
    told = crowd.ask("wait", group=contestant.name, messages=ready, within=CONNECT_S, newest=count)
    if told != [ready, ready, 0]:
        raise RuntimeError(f"{contestant.name}: {told} of {ready} messages before the first event")
    for text in contestant.requests:
        crowd.ask("request", group=contestant.name, texts=[text] * count)
    contestant.connected = subscribers


def _look_idle(contestants: Sequence[Contestant], seconds: float) -> None:
    """All of them at once."""
    before = [contestant.server.cpu() for contestant in contestants]
    began = time.monotonic()
    time.sleep(seconds)
    for contestant, was in zip(contestants, before, strict=True):
        contestant.idle = (contestant.server.cpu() - was) / (time.monotonic() - began)


def _cost(contestant: Contestant, crowd: Child, load: Load) -> float:
    """µs of the server's CPU time per delivered event, all events having arrived."""
    server, warm = contestant.server, max(10, load.events // 10)
    crowd.ask("reset", group=contestant.name)
    server.ask("publish", count=warm, rate=load.rate, **contestant.arguments)
    _expect(crowd, contestant.name, warm)
    before, began = server.cpu(), time.monotonic()
    server.ask("publish", count=load.events, rate=load.rate, **contestant.arguments)
    _expect(crowd, contestant.name, warm + load.events)
    used = server.cpu() - before - contestant.idle * (time.monotonic() - began)
    return used / (load.events * load.subscribers) * 1e6


def _split(table: Table, contestant: Contestant, crowd: Child, load: Load, seconds: float) -> None:
    """Where the time of such events goes; all of them arrive."""
    count = int(load.rate * seconds)
    crowd.ask("reset", group=contestant.name)
    sampled = contestant.server.ask(
        "sample_publishing",
        seconds=seconds,
        stages=STAGES,
        count=count,
        rate=load.rate,
        **contestant.arguments,
    )
    _expect(crowd, contestant.name, count)
    each = median(contestant.costs) * load.subscribers
    shares = (sampled["stages"].get(stage, 0.0) for stage in NAMES)
    table.rows.append(
        (contestant.name, each, *(share * each for share in shares), sampled["looks"])
    )


def _expect(crowd: Child, group: str, messages: int) -> None:
    fewest, most, closed = crowd.ask("wait", group=group, messages=messages, within=20)
    if (fewest, most, closed) != (messages, messages, 0):
        raise RuntimeError(f"{group}: {fewest}..{most} of {messages} messages, {closed} closed")


def _add(table: Table, contestants: Sequence[Contestant], load: Load) -> None:
    costs = {contestant.name: contestant.costs for contestant in contestants}
    for contestant in contestants:
        name, own, beside = contestant.name, contestant.costs, contestant.beside
        table.rows.append(
            (
                name,
                load.subscribers,
                median(own),
                min(own),
                max(own),
                _ratio(own, costs[FLOOR]),
                _ratio(own, costs[beside]) if beside is not None else None,
                median(own) + contestant.idle / (load.rate * load.subscribers) * 1e6,
                _aim(name, load.subscribers),
            )
        )


def _ratio(costs: Sequence[float], of: Sequence[float]) -> float:
    return median(cost / base for cost, base in zip(costs, of, strict=True))


def _aim(name: str, subscribers: int) -> str:
    if name == HUB:
        return f"<= {2 if subscribers == 1 else 1.15:g} x floor"
    return AIMS.get(name, "") if subscribers > 1 else ""
