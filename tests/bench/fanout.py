"""Fan-out: a server's CPU time per delivered event, 100 subscribers of one conversation."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from tests.bench.child import Child
from tests.bench.node import idle_share, quiet_hub
from tests.bench.report import Table, say

SUBSCRIBERS: Final = 100
WARM: Final = 20
RATE: Final = 200.0
SOCKET_IO: Final = "/socket.io/?EIO=4&transport=websocket"


@dataclass
class Contestant:
    """A server, how it is told to publish, and what it has cost: µs per delivered event."""

    name: str
    server: Child
    group: str
    arguments: dict[str, Any] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)


def fanout(*, quick: bool) -> list[Table]:
    """Measure the hub, the floor and the peers in turn, several rounds."""
    rounds, events = (2, 60) if quick else (9, 300)
    with ExitStack() as stack:
        crowd = stack.enter_context(Child("tests.bench.crowd"))
        say(f"fanout: starting four servers with {SUBSCRIBERS} subscribers each")
        contestants = _contestants(stack, crowd)
        for number in range(rounds):
            say(f"fanout: round {number + 1} of {rounds}")
            for contestant in contestants:
                contestant.costs.append(_cost(contestant, crowd, events))
        idle = idle_share(contestants[0].server, 1.0 if quick else 3.0)
    return [_table(contestants, rounds, events, idle)]


def _contestants(stack: ExitStack, crowd: Child) -> list[Contestant]:
    hub = stack.enter_context(quiet_hub())
    owner = hub.ask("sign_in", users=1)[0]
    [conversation] = hub.ask("converse", owners=[owner])
    channel = f"conversation:{conversation}"
    raw, socket_io, broadcast = (
        stack.enter_context(Child(f"tests.bench.servers.{name}"))
        for name in ("raw", "socketio_room", "broadcast")
    )
    subscribe = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "channel.subscribe",
        "params": {"channel": channel},
    }
    crowd.ask(
        "connect",
        group="hub",
        greetings=[json.dumps(subscribe)],
        port=hub.ready["port"],
        path="/ws",
        count=SUBSCRIBERS,
        subprotocol="agenthub.v1",
        tokens=[owner["token"]],
    )
    for server, path, greetings in (
        (raw, "/", []),
        (socket_io, SOCKET_IO, ["40"]),
        (broadcast, "/", []),
    ):
        crowd.ask(
            "connect",
            group=server.name,
            greetings=greetings,
            port=server.ready["port"],
            path=path,
            count=SUBSCRIBERS,
        )
    # Two messages each before the first event: session.ready and the reply; Socket.IO's 0 and 40.
    for group in ("hub", "socketio_room"):
        _expect(crowd, group, 2)
    return [
        Contestant("hub", hub, "hub", {"channel": channel}),
        Contestant("floor: a ready frame on raw transports", raw, "raw"),
        Contestant("python-socketio, a room", socket_io, "socketio_room"),
        Contestant("websockets.broadcast", broadcast, "broadcast"),
        Contestant("hub, ten events in one turn", hub, "hub", {"channel": channel, "burst": 10}),
    ]


def _expect(crowd: Child, group: str, messages: int) -> None:
    fewest, most, closed = crowd.ask("wait", group=group, messages=messages, within=20)
    if (fewest, most, closed) != (messages, messages, 0):
        raise RuntimeError(f"{group}: {fewest}..{most} of {messages} messages, {closed} closed")


def _cost(contestant: Contestant, crowd: Child, events: int) -> float:
    """µs of the server's CPU time per delivered event, all events having arrived."""
    server = contestant.server
    crowd.ask("reset", group=contestant.group)
    server.ask("publish", count=WARM, rate=RATE, **contestant.arguments)
    _expect(crowd, contestant.group, WARM)
    before = server.cpu()
    server.ask("publish", count=events, rate=RATE, **contestant.arguments)
    _expect(crowd, contestant.group, WARM + events)
    return (server.cpu() - before) / (events * SUBSCRIBERS) * 1e6


def _table(contestants: Sequence[Contestant], rounds: int, events: int, idle: float) -> Table:
    floor = contestants[1].costs
    table = Table(
        "fanout",
        f"server CPU per delivered event, {SUBSCRIBERS} subscribers of one conversation",
        ("", "µs/event", "lowest", "highest", "x floor", "of socketio"),
    )
    peer = contestants[2].costs
    for contestant in contestants:
        costs = contestant.costs
        table.rows.append(
            (
                contestant.name,
                median(costs),
                min(costs),
                max(costs),
                median(cost / base for cost, base in zip(costs, floor, strict=True)),
                median(cost / base for cost, base in zip(costs, peer, strict=True)),
            )
        )
    table.notes = [
        f"Medians of {rounds} rounds in turn, {events} events each at {RATE:.0f}/s, one at a time;",
        "ratios are medians of each round's ratio. CPU of the server's process alone. The hub's",
        f"row includes all that it does meanwhile: idle, it uses {idle:.2%} of a core.",
        "Aim: hub at most 2 x the floor.",
    ]
    return table
