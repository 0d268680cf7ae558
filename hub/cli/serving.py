"""``hub serve`` and ``hub worker``: a node from its start to its end."""

import asyncio
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Final

import uvicorn
import uvloop
from prometheus_client import start_http_server

from hub.app import Hub, running
from hub.backplane.choice import open_backplane
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.cli import memory
from hub.cli.administration import first_administrator
from hub.cli.changes import FILE as CHANGES_FILE
from hub.cli.changes import Changes
from hub.cli.claim import claim
from hub.cli.greeting import ANY_NAME, Welcome, greeting
from hub.cli.kept import AT_ONCE, END
from hub.cli.own_door import own_door
from hub.cli.signals import signals
from hub.faults import Fault
from hub.protocol.limits import HEARTBEAT_S, MAX_FRAME_BYTES, PONG_DEADLINE_S
from hub.settings import BadSettings, Settings
from hub.telemetry.logs import log
from hub.transports.door import Door
from hub.transports.http_wire import HandedOver, HttpProtocol, HttpState
from hub.transports.wire import HubProtocol

RUNTIME_FILE: Final = "hub.json"
GRACEFUL_S: Final = 2
"""What answers over HTTP have left at least when the sockets and the runs have ended."""
BACKLOG: Final = 2_048


class CannotServe(Exception):
    """The node cannot start; the message says why and what to do."""


def serve(settings: Settings, *, worker: bool, greet: bool, door: bool) -> int:
    """Serve until SIGTERM or SIGINT. Raises CannotServe, Claimed, Fault, BadSettings, OSError."""
    if not worker and settings.redis_url is None:
        raise CannotServe("--no-worker needs HUB_REDIS_URL: a worker process shares Redis with it.")
    check_redis_url(settings)
    with _claimed(settings):
        return _serve_claimed(settings, worker=worker, greet=greet, door=door)


def check_redis_url(settings: Settings) -> None:
    """Raise BadSettings for a URL that is not of Redis. The URL is not shown: it has a password."""
    try:
        open_backplane(settings.redis_url, "unused")
    except ValueError:
        raise BadSettings(
            "HUB_REDIS_URL: not of Redis; use redis://host:6379/0, rediss://… or redis+cluster://…"
        ) from None


def _claimed(settings: Settings) -> AbstractContextManager[None]:
    """The data directory, alone where the backplane is this process's memory."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return nullcontext() if settings.redis_url is not None else claim(settings.data_dir)


def _serve_claimed(settings: Settings, *, worker: bool, greet: bool, door: bool) -> int:
    listening = listen(settings.host, settings.port)
    bound = settings.model_copy(update={"port": listening.getsockname()[1]})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(bound, listening, worker=worker, greet=greet, door=door))


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens. ``shared``: others of this user may listen there as well, and the
    kernel spreads who comes. Raises CannotServe.
    """
    return bind(host, port, shared=shared, listens=True)


def bind(host: str, port: int, *, shared: bool = False, listens: bool = False) -> socket.socket:
    """A socket that has the address, and listens or does not. Raises CannotServe."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
        if listens:
            listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            advice = "Give an address of this machine with --host or HUB_HOST."
        else:
            advice = "Choose another port with --port or HUB_PORT (0 picks a free one)."
        raise CannotServe(
            f"cannot listen on {host} port {port}: {error.strerror}. {advice}"
        ) from None
    listening.setblocking(False)
    return listening


class HubServer(uvicorn.Server):
    """uvicorn, set up for the hub; it says goodbye to clients before it closes their sockets."""

    server_state: HttpState

    def __init__(self, hub: Hub) -> None:
        super().__init__(
            uvicorn.Config(
                hub.application,
                ws=HubProtocol,
                http=HttpProtocol,
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                ws_max_size=MAX_FRAME_BYTES,
                ws_per_message_deflate=False,
                ws_ping_interval=HEARTBEAT_S,
                ws_ping_timeout=PONG_DEADLINE_S,
                timeout_graceful_shutdown=GRACEFUL_S,
                server_header=False,
                # uvicorn would believe whoever asks from this machine (hub.transports.admission).
                proxy_headers=False,
            )
        )
        self.server_state = HttpState()
        self.told: Callable[[bytes], None] | None = None
        """Called with END and AT_ONCE when the server is told to end."""
        self._hub = hub

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The base class raises the signal again when it has ended, which would kill us before the
        # rooms are closed.
        with signals(self.end, self.end_at_once):
            yield

    def connected(self) -> int:
        """How many connections there are."""
        return len(self.server_state.connections)

    def handed_over(self, first: bytes) -> HandedOver:
        """What serves a connection of which another process has read the ``first`` bytes."""
        return HandedOver(
            first,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    def end(self) -> None:
        self.should_exit = True
        if self.told is not None:
            self.told(END)

    def end_at_once(self) -> None:
        self.force_exit = True
        if self.told is not None:
            self.told(AT_ONCE)
        self._hub.draining.hurry()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # nobody new, while those who are here are sent elsewhere
        self.server_state.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + self._hub.services.settings.drain_s
        self._hub.drain()
        await self._hub.drained()
        # Answers over HTTP may take what is left of the window too.
        self.config.timeout_graceful_shutdown = max(GRACEFUL_S, int(until - loop.time()))
        for connection in list(self.server_state.connections):
            if isinstance(connection, HubProtocol):
                # It was told, and had the whole window to take it.
                connection.transport.abort()
        await super().shutdown(sockets)


class DoorServer(HubServer):
    """Serves the connections that other processes hand over by ``far``, and listens nowhere."""

    def __init__(self, hub: Hub, far: socket.socket) -> None:
        super().__init__(hub)
        self._door = Door(far, self.handed_over, hub.services.metrics.door)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._door.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().shutdown(sockets)
        finally:
            self._door.close()


async def _serve(
    settings: Settings, listening: socket.socket, *, worker: bool, greet: bool, door: bool
) -> int:
    async with AsyncExitStack() as stack:
        own, backplane = None, None
        if door:
            shared = MemoryShared() if settings.redis_url is None else None
            within_s = settings.drain_s + GRACEFUL_S
            own = await stack.enter_async_context(own_door(settings, shared, within_s))
            backplane = None if shared is None else MemoryBackplane(shared)
        hub = await stack.enter_async_context(running(settings, worker=worker, backplane=backplane))
        generated = await first_administrator(hub.services)
        if settings.metrics_port is not None:
            serve_metrics(settings, hub)
        if settings.redis_url is None:
            stack.enter_context(following(settings, hub))
        server = HubServer(hub)
        if own is not None:
            server.server_state.handover = own.begin(hub.services.metrics.door)
            server.told = own.end
        url = settings.local_url
        stack.enter_context(runtime_file(settings.data_dir / RUNTIME_FILE, url))
        log.info("the hub is up", url=url, node=hub.services.node)
        if greet:
            print(greeting(settings, url, await _welcome(hub, generated)), flush=True)
        elif settings.any_name:
            log.warning(ANY_NAME)
        async with memory.settled(server.connected):
            await server.serve(sockets=[listening])
    log.info("the hub has ended")
    return 0


@contextmanager
def following(settings: Settings, hub: Hub) -> Iterator[None]:
    """Meanwhile what commands change in the data directory acts at once."""
    changes = Changes(settings.data_dir / CHANGES_FILE)
    task = asyncio.create_task(changes.follow(hub.services.authority.changed))
    try:
        yield
    finally:
        task.cancel()


def serve_metrics(settings: Settings, hub: Hub) -> None:
    assert settings.metrics_port is not None
    try:
        start_http_server(
            settings.metrics_port, settings.host, registry=hub.services.metrics.registry
        )
    except (OSError, OverflowError) as error:  # the last: there is no such port
        why = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise CannotServe(
            f"cannot serve metrics on port {settings.metrics_port}: {why}; see HUB_METRICS_PORT."
        ) from None


@contextmanager
def runtime_file(path: Path, url: str) -> Iterator[None]:
    """``hub.json`` tells others on this machine where this data directory's hub is."""
    made = path.with_suffix(f".{os.getpid()}")
    made.write_text(json.dumps({"pid": os.getpid(), "url": url}))
    made.replace(path)
    try:
        yield
    finally:
        try:
            if json.loads(path.read_text())["pid"] == os.getpid():
                path.unlink()
        except (OSError, ValueError, KeyError):
            log.warning("the runtime file was changed by somebody else", path=str(path))


async def _welcome(hub: Hub, generated: tuple[str, str] | None) -> Welcome:
    services = hub.services
    try:
        code = await services.accounts.login_code_for()
    except Fault:
        log.info("there is no administrator to make a login link for")
        code = None
    return Welcome(code, generated, services.catalogue.status().get("detail"))


def work(settings: Settings) -> int:
    """Drive runs until SIGTERM or SIGINT. Raises CannotServe, Fault, BadSettings."""
    if settings.redis_url is None:
        raise CannotServe("a worker needs HUB_REDIS_URL; without Redis `hub serve` drives runs.")
    check_redis_url(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(settings))


async def _work(settings: Settings) -> int:
    stop, at_once = asyncio.Event(), asyncio.Event()
    with signals(stop.set, at_once.set):
        async with running(settings, worker=True) as hub:
            if settings.metrics_port is not None:
                serve_metrics(settings, hub)
            async with memory.settled():
                log.info("the worker is up", node=hub.services.node)
                await stop.wait()
                await _drained(hub, at_once)
    log.info("the worker has ended")
    return 0


async def _drained(hub: Hub, at_once: asyncio.Event) -> None:
    hurry = asyncio.create_task(at_once.wait())
    hurry.add_done_callback(lambda _: hub.draining.hurry())
    try:
        await hub.drained()
    finally:
        hurry.cancel()
