"""Idle: memory of the server per connection that does nothing, 2,000 of them."""

import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from tests.bench.child import Child
from tests.bench.node import idle_share, quiet_hub, subscription
from tests.bench.report import Table, say

CONNECTIONS: Final = 2_000
USERS: Final = 100
"""Login sessions that share the connections."""
WARM: Final = 100
"""Connections before the first look, so that what is made once is not counted."""
SETTLE_S: Final = 2.0
LOOK_S: Final = 10.0
"""How long the CPU of the idle server is looked at: longer than all that it does now and then."""
READY: Final = 1
"""Messages that a fresh connection of the hub gets: ``session.ready``."""


class Grown(NamedTuple):
    """Bytes of a server before and after, and the share of a core it uses with all idle."""

    before: int
    after: int
    share: float


def idle(*, quick: bool) -> list[Table]:
    """Measure a bare echo, the hub, and the hub with a subscription on each connection."""
    raise_file_limit()
    count = 300 if quick else CONNECTIONS
    table = Table(
        "idle",
        f"memory of the server per idle connection, {count:,} of them",
        ("", "KiB each", "x floor", "MiB before", "MiB after", "CPU"),
    )
    with ExitStack() as stack:
        crowd = stack.enter_context(Child("tests.bench.crowd"))
        say(f"idle: {count} connections to a bare echo")
        with Child("tests.bench.servers.echo") as echo:
            grown = _grown(echo, crowd, count, {"path": "/"})
        floor = (grown.after - grown.before) / count
        table.rows.append(_row("floor: uvicorn and Starlette, an echo", count, grown, floor))
        for name, subscribed in (
            ("hub, authenticated", False),
            ("hub, and a subscription of its own", True),
        ):
            say(f"idle: {count} connections, {name}")
            grown = _hub(crowd, count, subscribed=subscribed)
            table.rows.append(_row(name, count, grown, floor))
    table.notes = [
        "Growth of the process's proportional set size (PSS), by the connections after the first",
        f"{WARM}. No garbage collection is forced. {USERS} login sessions share the connections;",
        "each subscription is of a conversation of its own. What the kernel holds for a socket is",
        "not in it. CPU: of one core, by all of them idle. Aim: at most 30 KiB.",
    ]
    return [table]


def _row(name: str, count: int, grown: Grown, floor: float) -> tuple[object, ...]:
    each = (grown.after - grown.before) / count
    sizes = grown.before / 2**20, grown.after / 2**20
    return name, each / 1024, each / floor, *sizes, f"{grown.share:.1%}"


def _hub(crowd: Child, count: int, *, subscribed: bool) -> Grown:
    with quiet_hub() as hub:
        owners = hub.ask("sign_in", users=USERS)
        tokens = [owner["token"] for owner in owners]
        where = {"path": "/ws", "subprotocol": "agenthub.v1", "tokens": tokens}
        texts: list[str] = []
        if subscribed:
            those = [owners[n % USERS] for n in range(WARM + count)]
            texts = [subscription(conversation) for conversation in _converse(hub, those)]
        return _grown(hub, crowd, count, where, texts, ready=READY)


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
    ready: int = 0,
) -> Grown:
    """The server with the first connections, and with ``count`` more."""
    sizes = []
    done = 0
    for group, number in (("first", WARM), ("more", count)):
        crowd.ask(
            "connect", group=group, greetings=[], port=server.ready["port"], count=number, **where
        )
        _expect(crowd, group, ready)
        if texts:
            crowd.ask("request", group=group, texts=texts[done : done + number])
            _expect(crowd, group, ready + 1)
        done += number
        time.sleep(SETTLE_S)
        sizes.append(server.memory())
    share = idle_share(server, LOOK_S)
    for group in ("first", "more"):
        crowd.ask("close", group=group)
    return Grown(sizes[0], sizes[1], share)


def _expect(crowd: Child, group: str, messages: int) -> None:
    fewest, most, closed = crowd.ask("wait", group=group, messages=messages, within=120)
    if (fewest, most, closed) != (messages, messages, 0):
        raise RuntimeError(f"{group}: {fewest}..{most} of {messages} messages, {closed} closed")


def raise_file_limit() -> None:
    """Let this process, and its children, open as many files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
