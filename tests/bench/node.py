"""Node: a hub with the embedded defaults, and a model server that nobody asks."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.bench.child import Child


@contextmanager
def quiet_hub() -> Iterator[Child]:
    """A hub that has nothing to do but what it is asked."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-bench-"))
        # Or the hub would start the embedded one, which wants a core.
        model = stack.enter_context(Child("tests.bench.servers.model", "1", "0", "0"))
        environ = {
            "HUB_DATA_DIR": folder,
            "HUB_LOG_LEVEL": "error",
            "OLLAMA_HOST": f"http://127.0.0.1:{model.ready['port']}",
        }
        yield stack.enter_context(Child("tests.bench.servers.hub", environ=environ))


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
