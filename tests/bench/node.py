"""Node: a hub with the embedded defaults, and a model server that nobody asks."""

import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from tests.bench.backs import redis_server, shared
from tests.bench.child import Child
from tests.parts.redis import RedisProcess


@contextmanager
def quiet_hub(*words: str, **settings: str) -> Iterator[Child]:
    """A hub that has nothing to do but what it is asked; by default with the embedded backs.
    ``words`` are those of ``tests.bench.servers.hub``, which is given the descriptors in them.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-bench-"))
        # Or the hub would start the embedded one, which wants a core.
        model = stack.enter_context(Child("tests.bench.servers.model", "1", "0", "0"))
        environ = {
            "HUB_DATA_DIR": folder,
            "HUB_LOG_LEVEL": "error",
            "OLLAMA_HOST": f"http://127.0.0.1:{model.ready['port']}",
            **settings,
        }
        ends = [int(word.partition("=")[2]) for word in words if "=" in word]
        hub = Child("tests.bench.servers.hub", *words, environ=environ, passed=ends)
        yield stack.enter_context(hub)


class Nodes(NamedTuple):
    """Two hubs that share a database and a Redis."""

    first: Child
    second: Child
    redis: RedisProcess


@contextmanager
def two_nodes(*, works_too: bool = True, **settings: str) -> Iterator[Nodes]:
    """On PostgreSQL if it is installed here, else on one file of SQLite. ``works_too``: the second
    drives runs, as the first does.
    """
    with ExitStack() as stack:
        start = stack.enter_context
        model = start(Child("tests.bench.servers.model", "1", "0", "0"))
        redis = start(redis_server())
        environ = {
            **start(shared(redis)),
            "HUB_LOG_LEVEL": "error",
            "OLLAMA_HOST": f"http://127.0.0.1:{model.ready['port']}",
            **settings,
        }
        first = start(Child("tests.bench.servers.hub", environ=environ))
        idle = () if works_too else ("without-runs",)
        second = start(Child("tests.bench.servers.hub", *idle, environ=environ))
        yield Nodes(first, second, redis)


def idle_share(server: Child, seconds: float = 3.0) -> float:
    """The share of a core that a server uses while nobody asks it anything."""
    before, began = server.cpu(), time.monotonic()
    time.sleep(seconds)
    return (server.cpu() - before) / (time.monotonic() - began)


def subscription(conversation: str, number: int = 1, since: object = None) -> str:
    """The request that subscribes to a conversation, as a frame's text."""
    params = {"channel": f"conversation:{conversation}", "since": since}
    request = {"jsonrpc": "2.0", "id": number, "method": "channel.subscribe", "params": params}
    return json.dumps(request)


def raise_file_limit() -> int:
    """Let this process, and its children, open as many files as they may; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
