"""Idle: memory of the server per connection that does nothing, 2,000 and 10,000 of them."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from tests.bench.child import Child
from tests.bench.node import idle_share, quiet_hub, raise_file_limit, subscription
from tests.bench.report import Table, say

WARM: Final = 100
"""Connections before the first look, so that what is made once is not counted."""
SPARE_FILES: Final = 500
"""What a process opens besides."""
READY: Final = 1
"""Messages that a fresh connection of the hub gets: ``session.ready``."""


class Load(NamedTuple):
    """How many connections, the login sessions that share them, for how long those that have come
    are left alone, and how long the idle server is looked at.
    """

    counts: tuple[int, ...]
    users: int
    settle_s: float
    look_s: float


# Looked at for longer than two of the hub's pings to everybody, and three of uvicorn's own.
FULL: Final = Load((2_000, 10_000), 100, 2.0, 60.0)
QUICK: Final = Load((200,), 5, 0.2, 0.5)


class Grown(NamedTuple):
    """Bytes of a server before and after, and the share of a core it uses with all idle."""

    before: int
    after: int
    share: float


def idle(*, quick: bool) -> list[Table]:
    """Measure a bare echo, the hub, and the hub with a subscription on each connection."""
    most = raise_file_limit() - WARM - SPARE_FILES
    load = QUICK if quick else FULL
    table = Table(
        "idle",
        "memory of the server per idle connection, its pings among what it does",
        ("", "connections", "KiB each", "x floor", "MiB before", "MiB after", "CPU", "aim"),
    )
    with ExitStack() as stack:
        crowd = stack.enter_context(Child("tests.bench.crowd"))
        for wanted in load.counts:
            count = min(wanted, most)
            if count < wanted:
                table.notes.append(f"{count:,}: as many files as a process may open (ulimit -n).")
            _add(table, crowd, count, load)
    table.notes += [
        "Growth of the process's proportional set size (PSS), by the connections after the first",
        f"{WARM}, {load.look_s:g} s after the last of them came. No garbage collection is forced.",
        f"{load.users} login sessions share the connections; each subscription is of a",
        "conversation of its own. What the kernel holds for a socket is not in it. CPU: of one",
        "core, by all of them idle. Both send WebSocket pings, the hub each 25 s, the echo's",
        "uvicorn each 20 s.",
    ]
    return [table]


def _add(table: Table, crowd: Child, count: int, load: Load) -> None:
    say(f"idle: {count} connections to a bare echo")
    with Child("tests.bench.servers.echo") as echo:
        grown = _grown(echo, crowd, count, {"path": "/"}, load=load)
    floor = (grown.after - grown.before) / count
    table.rows.append(_row("floor: uvicorn and Starlette, an echo", count, grown, floor))
    for name, subscribed, aim in (
        ("hub, authenticated", False, "<= 24 KiB"),
        ("hub, and a subscription of its own", True, ""),
    ):
        say(f"idle: {count} connections, {name}")
        grown = _hub(crowd, count, load, subscribed=subscribed)
        table.rows.append((*_row(name, count, grown, floor)[:-1], aim))


def _row(name: str, count: int, grown: Grown, floor: float) -> tuple[object, ...]:
    each = (grown.after - grown.before) / count
    sizes = grown.before / 2**20, grown.after / 2**20
    return name, count, each / 1024, each / floor, *sizes, f"{grown.share:.1%}", ""


def _hub(crowd: Child, count: int, load: Load, *, subscribed: bool) -> Grown:
    with quiet_hub() as hub:
        owners = hub.ask("sign_in", users=load.users)
        tokens = [owner["token"] for owner in owners]
        where = {"path": "/ws", "subprotocol": "agenthub.v1", "tokens": tokens}
        texts: list[str] = []
        if subscribed:
            those = [owners[n % load.users] for n in range(WARM + count)]
            texts = [subscription(conversation) for conversation in _converse(hub, those)]
        return _grown(hub, crowd, count, where, texts, load=load, ready=READY)


def _converse(hub: Child, owners: list[dict[str, str]]) -> list[str]:
    found: list[str] = hub.ask("converse", owners=owners)
    return found


def _grown(
    server: Child,
    crowd: Child,
    count: int,
    where: Mapping[str, object],
    texts: Sequence[str] = (),
    *,
    load: Load,
    ready: int = 0,
) -> Grown:
    """The server with the first connections, and with ``count`` more."""
    sizes: list[int] = []
    done, share = 0, 0.0
    for group, number in (("first", WARM), ("more", count)):
        crowd.ask(
            "connect", group=group, greetings=[], port=server.ready["port"], count=number, **where
        )
        _expect(crowd, group, ready)
        if texts:
            crowd.ask("request", group=group, texts=texts[done : done + number])
            _expect(crowd, group, ready + 1)
        done += number
        time.sleep(load.settle_s)
        if group == "more":
            share = idle_share(server, load.look_s)
        sizes.append(server.memory())
    for group in ("first", "more"):
        crowd.ask("close", group=group)
    return Grown(sizes[0], sizes[1], share)


def _expect(crowd: Child, group: str, messages: int) -> None:
    fewest, most, closed = crowd.ask("wait", group=group, messages=messages, within=120)
    if (fewest, most, closed) != (messages, messages, 0):
        raise RuntimeError(f"{group}: {fewest}..{most} of {messages} messages, {closed} closed")
