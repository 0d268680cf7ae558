"""Trust: what a check per message costs, how long signing in takes, and whether a flood is felt."""

import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final, NamedTuple

from hub.cli.kept import joint
from hub.transports.door import pair
from tests.bench.ages import percentile
from tests.bench.backs import EMBEDDED, OUTGROWN, backs, redis_server, shared
from tests.bench.child import Child, on_core
from tests.bench.node import quiet_hub, raise_file_limit, subscription
from tests.bench.report import Table, say
from tests.parts.rank_sum import rank_sum

COST: Final = 12
"""bcrypt's, as by default."""
PASSWORD: Final = "correct horse battery"
NOBODY: Final = {"email": "nobody@hub.example", "password": PASSWORD}
WITHIN_S: Final = 60.0
FLOOD: Final = 100.0
"""Sign-ins a second."""


@dataclass(frozen=True)
class Load:
    """Checks; requests one after the other; sign-ins of each kind of who does not come in; sockets,
    their conversations, events a second of each, and the seconds that they are looked at.
    """

    checks: int
    requests: int
    refused: int
    sockets: int
    conversations: int
    rate: float
    seconds: float


FULL: Final = Load(20_000, 20, 200, 1_000, 100, 5.0, 20.0)
QUICK: Final = Load(2_000, 2, 8, 50, 5, 5.0, 2.0)
GUESSES: Final = 25
"""Of an account: it stands a hundred from places where it was not used before."""
ENOUGH: Final = 20
"""Trials from which on something is said about two samples."""


def trust(*, quick: bool) -> list[Table]:
    """Measure the checks of one message, the doors, and the neighbours of a flood at a door."""
    raise_file_limit()
    load = QUICK if quick else FULL
    settings = {
        "HUB_BCRYPT_COST": str(4 if quick else COST),
        "HUB_REGISTRATION": "open",
        "HUB_TRUSTED_PROXIES": "127.0.0.1",
    }
    with ExitStack() as stack:
        start = stack.enter_context
        hub = start(quiet_hub(**settings))
        visitors = start(Child("tests.bench.visitors"))
        crowd = start(Child("tests.bench.crowd"))
        owner = hub.ask("sign_in", users=1)[0]
        say("trust: what a message costs")
        checks = _checks(hub, owner, load)
        say("trust: the doors")
        ways = {EMBEDDED: _ways_in(hub, visitors, owner, load)}
        for name, back in backs(all_of_them=not quick).items():
            if name != EMBEDDED:
                say(f"trust: the doors, {name}")
                with back() as environ, quiet_hub(**environ, **settings) as other:
                    its_owner = other.ask("sign_in", users=1)[0]
                    ways[name] = _ways_in(other, visitors, its_owner, load)
        doors = _doors(ways, visitors, load, 4 if quick else COST)
        say("trust: who does not come in")
        alike = _alike(hub, visitors, load, 4 if quick else COST)
        say("trust: a flood at the door")
        floods = [_flood(hub, visitors, crowd, owner, load)]
        floods.append(_flood_with_door(settings, load, EMBEDDED))
        if OUTGROWN in backs() and not quick:
            floods.append(_flood_with_door(settings, load, OUTGROWN))
        return [checks, doors, alike, *floods]


def _checks(hub: Child, owner: dict[str, str], load: Load) -> Table:
    [conversation] = hub.ask("converse", owners=[owner])
    table = Table(
        "trust",
        "what it costs to let one message in, ns",
        ("", "who, and how often", "the parameters", "may they", "all"),
    )
    for method, params in (
        ("session.ping", {}),
        ("conversation.get", {"conversation_id": conversation}),
        (
            "message.send",
            {"conversation_id": conversation, "client_message_id": "1", "content": "Hello"},
        ),
    ):
        found = hub.ask(
            "authorise", token=owner["token"], method=method, params=params, count=load.checks
        )
        table.rows.append((method, *found, sum(found)))
    table.notes = [
        f"Of {load.checks:,} each, one after the other, with what was looked up remembered as it",
        "is for who is active: the actor of a token with the rates of its user and tenant, the",
        "model of the parameters, and the decision about what is acted on.",
    ]
    return table


def _ways_in(
    hub: Child, visitors: Child, owner: dict[str, str], load: Load
) -> dict[str, dict[str, Any]]:
    """The times of each of them."""
    port = hub.ready["port"]
    login = {"email": owner["email"], "password": PASSWORD}
    newcomers = [
        {"email": f"new{number}@hub.example", "password": PASSWORD}
        for number in range(load.requests)
    ]
    ways = {
        "register": visitors.ask("each", port=port, path="/v1/auth/register", bodies=newcomers),
        "sign in": visitors.ask(
            "each", port=port, path="/v1/auth/login", bodies=[login] * load.requests
        ),
        "refresh": visitors.ask("refresh", port=port, token=owner["refresh"], count=load.requests),
    }
    for name, found in ways.items():
        _expect_success(name, found)
    return ways


def _doors(
    found: dict[str, dict[str, dict[str, Any]]], visitors: Child, load: Load, cost: int
) -> Table:
    floor = visitors.ask("hash_ms", cost=cost, count=min(5, load.requests))
    table = Table(
        "trust doors",
        "signing in from end to end, one after the other, ms",
        ("", "on", "p50", "p99", "x floor"),
    )
    table.rows.append((f"floor: a bare bcrypt hash of cost {cost}", None, floor, None, 1.0))
    for back, ways in found.items():
        for name, told in ways.items():
            table.rows.append((name, back, told["p50"], told["p99"], told["p50"] / floor))
    table.notes = [
        f"{load.requests} of each, on a connection of its own. PostgreSQL does not wait for its",
        "disk (fsync is off).",
    ]
    return table


def _alike(hub: Child, visitors: Child, load: Load, cost: int) -> Table:
    accounts = -(-load.refused // GUESSES)
    known, disabled = [hub.ask("sign_in", users=accounts) for _ in range(2)]
    hub.ask("disable", users=disabled)
    wrong = "wrong horse battery"
    ways = {
        "unknown": [(f"nobody-{number}@hub.example", PASSWORD) for number in range(accounts)],
        "known, the password is wrong": [(one["email"], wrong) for one in known],
        "disabled, the password is right": [(one["email"], PASSWORD) for one in disabled],
    }
    bodies = {
        name: [
            {"email": email, "password": password}
            for email, password in islice(cycle(tried), load.refused)
        ]
        for name, tried in ways.items()
    }
    found = visitors.ask("in_turns", port=hub.ready["port"], path="/v1/auth/login", ways=bodies)
    table = Table(
        "trust alike",
        f"sign-ins that are refused, at bcrypt's cost of {cost}, from end to end, ms",
        ("", "trials", "p10", "p50", "p90", "p99", "p beside the unknown"),
    )
    for name, told in found.items():
        if told["statuses"] != {"401": load.refused}:
            raise RuntimeError(f"{name}: {told['statuses']}")
        unlike = None
        if name != "unknown" and load.refused >= ENOUGH:
            unlike = rank_sum(found["unknown"]["times"], told["times"])
        shown = [percentile(told["times"], share) for share in (10, 50, 90, 99)]
        table.rows.append((name, load.refused, *shown, unlike))
    table.notes = [
        "In turns, in any order of the three, each on a connection of its own and from another",
        "address by the word of a proxy that is trusted, so that no budget answers first. The last",
        "column is how likely samples of one distribution differ as much (Mann and Whitney, by",
        f"rank); of fewer than {ENOUGH} nothing is said.",
    ]
    return table


def _expect_success(name: str, found: dict[str, Any]) -> None:
    if any(not status.startswith("2") for status in found["statuses"]):
        raise RuntimeError(f"{name}: {found['statuses']}")


class Flood(NamedTuple):
    """What comes to the door of whom while the sockets stream. ``is_floor``: the ratios of the rows
    that follow are to this one.
    """

    name: str
    to: Child
    bodies: list[dict[str, str]]
    is_floor: bool = False


class Streaming(NamedTuple):
    """A hub, the sockets that read there, and the channels that they read."""

    hub: Child
    crowd: Child
    channels: list[str]


def _flood(hub: Child, visitors: Child, crowd: Child, owner: dict[str, str], load: Load) -> Table:
    table = _flood_table("trust flood", f"{EMBEDDED}, one process", load)
    no_sign_in = [{"password": PASSWORD}]
    with Child("tests.bench.servers.refusing") as bare:
        streaming = Streaming(hub, crowd, _readers(hub, crowd, owner, load))
        for flood in (
            Flood("nobody", hub, []),
            Flood("floor: as many at a bare server beside the hub", bare, no_sign_in, True),
            Flood("no sign-in: its e-mail is missing", hub, no_sign_in),
            Flood("known users", hub, [_right(owner)]),
            Flood("unknown users", hub, [NOBODY]),
        ):
            table.rows.append(_row(flood, streaming, visitors, load))
    _add_ratios(table)
    table.notes = [
        f"{load.conversations} conversations, {load.rate:g} events/s each, "
        f"{load.sockets // load.conversations} sockets on each,",
        f"for {load.seconds:g} s. All come from one loopback address. Who waits behind too many",
        "others, or has guessed too often, is answered 429 before a password is hashed. What is no",
        "sign-in is answered 400 at once, each on a connection; and so is all that the bare server",
        "is sent, a process of its own that has nothing to do with the sockets: x floor is of p99.",
    ]
    return table


def _flood_with_door(settings: Mapping[str, str], load: Load, back: str) -> Table:
    """The same where the sign-ins are another process's."""
    table = _flood_table("trust door", f"{back}, one process and its door", load)
    with ExitStack() as stack:
        start = stack.enter_context
        near, far = map(start, pair())
        lends, memory = map(start, joint())
        with on_core(0):
            redis = start(redis_server()) if back == OUTGROWN else None
        lending = ({}, {}) if redis else ({"lends": lends}, {"memory": memory})
        with on_core(1):
            folder = start(tempfile.TemporaryDirectory(prefix="hub-bench-"))
            place = {"HUB_DATA_DIR": folder} if redis is None else start(shared(redis))
            environ = {**place, **settings}
            other = start(quiet_hub(**settings))
            visitors = start(Child("tests.bench.visitors"))
        with on_core(0):
            hub = start(quiet_hub(*_given(near=near, **lending[0]), **environ))
            crowd = start(Child("tests.bench.crowd"))
        with on_core(1):
            start(quiet_hub("without-runs", *_given(far=far, **lending[1]), **environ))
        [owner] = hub.ask("sign_in", users=1)
        [somebody] = other.ask("sign_in", users=1)
        streaming = Streaming(hub, crowd, _readers(hub, crowd, owner, load))
        for flood in (
            Flood("nobody", hub, []),
            Flood("floor: known users of another hub", other, [_right(somebody)], True),
            Flood("known users", hub, [_right(owner)]),
            Flood("floor: unknown users of another hub", other, [NOBODY], True),
            Flood("unknown users", hub, [NOBODY]),
        ):
            table.rows.append(_row(flood, streaming, visitors, load))
    _add_ratios(table)
    table.notes = [
        "As above, with `hub serve --door`. What streams (the hub, the sockets, Redis if there is",
        "one) has a core, and all else another: the door, PostgreSQL, and another hub, embedded.",
        "That one has nothing to do with the sockets: what a flood there does, the machine does.",
    ]
    return table


def _given(**ends: socket.socket) -> list[str]:
    return [f"{name}={end.fileno()}" for name, end in ends.items()]


def _flood_table(name: str, where: str, load: Load) -> Table:
    return Table(
        name,
        f"ms from append to delivery, {load.sockets:,} sockets, {FLOOD:.0f} sign-ins a second, "
        + where,
        ("", "p50", "p99", "x floor", "slowest", "signed in", "told to wait", "sign-in p50"),
    )


def _readers(hub: Child, crowd: Child, owner: dict[str, str], load: Load) -> list[str]:
    """Have the sockets read; the channels that they do."""
    conversations = hub.ask("converse", owners=[owner] * load.conversations)
    for conversation in conversations:
        crowd.ask(
            "connect",
            group="readers",
            greetings=[subscription(conversation)],
            port=hub.ready["port"],
            path="/ws",
            count=load.sockets // load.conversations,
            subprotocol="agenthub.v1",
            tokens=[owner["token"]],
        )
    crowd.ask("wait", group="readers", messages=2, within=WITHIN_S)
    crowd.ask("stamp", group="readers")
    return [f"conversation:{one}" for one in conversations]


def _row(flood: Flood, streaming: Streaming, visitors: Child, load: Load) -> tuple[Any, ...]:
    say(f"trust: {flood.name}")
    hub, crowd, channels = streaming
    hub.ask("begin_stream", channels=channels, rate=load.rate, seconds=load.seconds)
    told: dict[str, Any] = {"statuses": {}, "p50": None}
    if flood.bodies:
        told = visitors.ask(
            "flood",
            port=flood.to.ready["port"],
            path="/v1/auth/login",
            bodies=flood.bodies,
            rate=FLOOD,
            seconds=load.seconds,
        )
    count = hub.ask("finish_stream") * (load.sockets // load.conversations)
    crowd.ask("aged", group="readers", count=count, within=WITHIN_S)
    ages = crowd.ask("ages", group="readers")
    statuses = told["statuses"]
    return (
        flood.name,
        ages["p50"],
        ages["p99"],
        1.0 if flood.is_floor else None,
        ages["most"],
        statuses.get("200", 0),
        statuses.get("429", 0),
        told["p50"],
    )


def _add_ratios(table: Table) -> None:
    floor = None
    for number, (name, p50, p99, is_floor, *rest) in enumerate(table.rows):
        if is_floor:
            floor = p99
        table.rows[number] = (name, p50, p99, p99 / floor if floor else None, *rest)


def _right(owner: dict[str, str]) -> dict[str, str]:
    return {"email": owner["email"], "password": PASSWORD}
