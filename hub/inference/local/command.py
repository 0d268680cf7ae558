"""``hub local-model``: serve one GGUF file by Ollama's protocol until told to end."""

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn

from hub.inference.local.engine import Engine
from hub.inference.local.extra import PACKAGED_NAME, missing, packaged_model
from hub.inference.local.gguf import BadGguf, read_gguf
from hub.inference.local.served import Served
from hub.inference.local.server import ModelServer
from hub.inference.local.wire import STAND_IN_SAMPLING, USUAL_SAMPLING

GRACE_S: Final = 2
"""Seconds that answers get to break off before the process ends."""


def main(argv: list[str]) -> int:
    """The command; 0, or 1 with the reason on stderr.

    Prints ``{"port": N, "model": "…"}`` on stdout when it serves.
    """
    parser = argparse.ArgumentParser(
        prog="hub local-model",
        description="Serve a small model by Ollama's protocol: the packaged stand-in, or a GGUF "
        "file of yours.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 picks a free one")
    parser.add_argument("--gguf", type=Path, help="model file; default: the packaged stand-in")
    parser.add_argument(
        "--exit-on-eof", action="store_true", help="end when standard input does (for a supervisor)"
    )
    given = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    if reason := missing(given.gguf):
        return _complain(reason)

    def announce(port: int, model: str) -> None:
        print(json.dumps({"port": port, "model": model}), flush=True)

    try:
        asyncio.run(
            serve(
                host=given.host,
                port=given.port,
                gguf=given.gguf,
                announce=announce,
                exit_on_eof=given.exit_on_eof,
            )
        )
    except BadGguf as error:
        return _complain(f"The model file cannot be used: {error}.")
    except OSError as error:
        return _complain(f"The local model cannot start: {error.strerror or error}.")
    except KeyboardInterrupt:
        pass
    return 0


async def serve(
    *,
    host: str,
    port: int,
    gguf: Path | None,
    announce: Callable[[int, str], None],
    exit_on_eof: bool = False,
) -> None:
    """Load the model, serve it, and call ``announce(port, model name)`` when it does.

    Returns when told to end by a signal or by the end of stdin. Raises BadGguf and OSError.
    """
    end = _End()
    if exit_on_eof:
        end.watch_stdin()
    path = gguf or packaged_model()
    assert path is not None
    listener = _listen(host, port)
    model = await asyncio.to_thread(read_gguf, path)
    try:
        engine = await asyncio.to_thread(Engine, model)
    except RuntimeError as error:
        raise BadGguf("the engine cannot load it") from error
    name = PACKAGED_NAME if gguf is None else path.stem
    usual = STAND_IN_SAMPLING if gguf is None else USUAL_SAMPLING
    served = Served(engine, name, usual, stand_in=gguf is None)
    app = ModelServer(served, hosts=_names(host)).app
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, engine, lambda: announce(listener.getsockname()[1], name))
    end.server = server
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, engine: Engine, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._engine, self._announce = engine, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.stop()
        await super().shutdown(sockets)


class _End:
    """Ends the process when the supervisor goes, which closes the pipe even if it is killed."""

    def __init__(self) -> None:
        self.server: uvicorn.Server | None = None

    def watch_stdin(self) -> None:
        threading.Thread(target=self._watch, name="stdin", daemon=True).start()

    def _watch(self) -> None:
        # Not sys.stdin: its lock, held by this thread, would break the interpreter's exit.
        while os.read(0, 4096):
            pass
        if self.server is not None:
            self.server.should_exit = True
            time.sleep(GRACE_S + 1)
        # Nobody is left to wait for a model that is still loading, or does not end.
        os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _names(host: str) -> list[str]:
    """The names by which a client may call this server; a server for everybody has any."""
    try:
        loopback: Any = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return ["127.0.0.1", "localhost", "[::1]", host] if loopback else ["*"]


def _complain(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1
