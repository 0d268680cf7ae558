"""``hub serve --processes N``: several processes on one port, and the one that watches over them.

Each process listens on the port by itself (SO_REUSEPORT), and the kernel spreads who comes over
them. They share nothing but Redis and the database, as nodes on several machines do. The parent
has the port too, but does not listen: it makes what is made once, keeps the processes
(``hub.cli.kept``), and passes on when to end.

One more process is their door (``hub.transports.door``), unless there is to be none: it does not
listen, and serves the sign-ins that the others hand over to it while the parent says that it is
there. One process that serves alone keeps its door itself (``own_door``).
"""

import asyncio
import os
import socket
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import NamedTuple

import uvloop

from hub.app import running
from hub.backplane.remote_memory import RemoteMemory
from hub.cli import memory
from hub.cli.administration import prepare
from hub.cli.greeting import ANY_NAME, Welcome, greeting
from hub.cli.kept import AT_ONCE, DOOR, END, NO_DOOR, UP, Child, Kept, ended
from hub.cli.serving import (
    GRACEFUL_S,
    RUNTIME_FILE,
    CannotServe,
    DoorServer,
    HubServer,
    bind,
    check_redis_url,
    listen,
    runtime_file,
    serve_metrics,
)
from hub.cli.signals import signals
from hub.settings import Settings
from hub.settings.production import check_production
from hub.telemetry.logs import log
from hub.transports.door import Handover, pair, turn_away


def count_of(asked: str) -> int:
    """The number that ``--processes`` means; ``auto`` and 0: one for each core.

    Raises ArgumentTypeError.
    """
    if asked != "auto" and not asked.isdecimal():
        raise ArgumentTypeError(f"{asked!r} is no number of processes, and not auto")
    number = 0 if asked == "auto" else int(asked)
    return number or len(os.sched_getaffinity(0))


def serve_many(settings: Settings, count: int, *, worker: bool, greet: bool, door: bool) -> int:
    """Serve by ``count`` processes, and one more that is their ``door``, until SIGTERM or SIGINT;
    their exit status.

    Raises CannotServe, Fault, BadSettings, OSError.
    """
    if settings.redis_url is None:
        raise CannotServe(
            "Several processes need HUB_REDIS_URL: without Redis a hub is one. Start a Redis and "
            "set it, or serve with --processes 1."
        )
    check_redis_url(settings)
    # Others on this port would share it unnoticed, were they of this user and as generous.
    bind(settings.host, settings.port).close()
    with closing(bind(settings.host, settings.port, shared=True)) as held:
        check_production(settings)  # before processes are started that could not go on without it
        bound = settings.model_copy(update={"port": held.getsockname()[1]})
        return asyncio.run(Parent(bound, count, worker=worker, door=door).run(greet=greet))


class Parent:
    """Keeps the processes, and has them end. ``run`` once."""

    def __init__(self, settings: Settings, count: int, *, worker: bool, door: bool) -> None:
        self._settings = settings
        near, far = pair() if door else (None, None)
        self._far = far
        self._serving = [self._kept(index, worker=worker, near=near) for index in range(count)]
        self._door = self._kept(count, worker=False, far=far) if door else None
        self._all_up = asyncio.Event()
        self._ending = asyncio.Event()

    async def run(self, *, greet: bool) -> int:
        settings, url = self._settings, self._settings.local_url
        generated, code = await prepare(settings)
        with signals(self._end, partial(self._end, AT_ONCE)):
            keepers = [asyncio.create_task(each.keep()) for each in self._all()]
            all_up = asyncio.create_task(self._all_up.wait())
            await asyncio.wait({*keepers, all_up}, return_when=asyncio.FIRST_COMPLETED)
            if self._all_up.is_set():
                with runtime_file(settings.data_dir / RUNTIME_FILE, url):
                    log.info("the hub is up", url=url, processes=len(keepers))
                    if greet:
                        print(greeting(settings, url, Welcome(code, generated)), flush=True)
                    elif settings.any_name:
                        log.warning(ANY_NAME)
                    await self._ending.wait()
                    statuses = await ended(self._all(), keepers, settings.drain_s + GRACEFUL_S)
            else:  # one could not be started, and has said why; or we were told to end
                all_up.cancel()
                self._end()
                statuses = await ended(self._all(), keepers, settings.drain_s + GRACEFUL_S)
        log.info("the hub has ended")
        return 1 if any(statuses) else 0

    def _all(self) -> list[Kept]:
        return self._serving if self._door is None else [*self._serving, self._door]

    def _kept(self, index: int, *, worker: bool, **ends: socket.socket | None) -> Kept:
        start = partial(Child.start, self._settings, index, worker=worker, **ends)
        return Kept(index, start, self._changed, must_start=lambda: not self._all_up.is_set())

    def _changed(self) -> None:
        if all(each.up for each in self._all()):
            self._all_up.set()
        if self._door is None or self._far is None:
            return
        if not self._door.up:
            turn_away(self._far)
        if not self._ending.is_set():
            for each in self._serving:
                each.tell(DOOR if self._door.up else NO_DOOR)

    def _end(self, word: bytes = END) -> None:
        self._ending.set()
        for each in self._all():
            each.end(word)


class Share(NamedTuple):
    """What one of several processes was given by the one that keeps it: its number, and descriptors
    of the socket that joins them, of an end of the door's pair (one of them, if there is a door),
    and of a socket to the memory that is the backplane.
    """

    number: int
    joint: int
    near: int | None = None
    far: int | None = None
    memory: int | None = None


class _Ends(NamedTuple):
    """The same as sockets, and what it listens by."""

    joint: socket.socket
    near: socket.socket | None
    far: socket.socket | None
    memory: socket.socket | None
    listening: socket.socket | None


def serve_share(settings: Settings, share: Share, *, worker: bool) -> int:
    """Be one of several processes, until its keeper says so or is gone."""
    if settings.metrics_port is not None:
        port = settings.metrics_port + share.number
        settings = settings.model_copy(update={"metrics_port": port})
    with ExitStack() as stack:
        joint, near, far, shared = [
            None if end is None else stack.enter_context(socket.socket(fileno=end))
            for end in share[1:]
        ]
        assert joint is not None
        listening = None
        if far is None:
            listening = listen(settings.host, settings.port, shared=True)
            stack.callback(listening.close)
        ends = _Ends(joint, near, far, shared, listening)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve_share(settings, ends, worker=worker))


async def _serve_share(settings: Settings, ends: _Ends, *, worker: bool) -> int:
    gone = asyncio.Event()
    backplane = None if ends.memory is None else RemoteMemory(ends.memory, gone.set)
    async with running(settings, worker=worker, backplane=backplane) as hub:
        if settings.metrics_port is not None:
            serve_metrics(settings, hub)
        server = HubServer(hub) if ends.far is None else DoorServer(hub, ends.far)
        if ends.near is not None:
            server.server_state.handover = Handover(ends.near, hub.services.metrics.door)
        ending = asyncio.create_task(_end_without(gone, server))
        async with memory.settled(server.connected):
            with _obeying(ends.joint, server):
                ends.joint.send(UP)
                log.info(
                    "a process is up",
                    node=hub.services.node,
                    metrics_port=settings.metrics_port,
                    door=ends.far is not None,
                )
                await server.serve(sockets=[] if ends.listening is None else [ends.listening])
        ending.cancel()
    return 0


async def _end_without(gone: asyncio.Event, server: HubServer) -> None:
    """End at once when what it cannot be without is gone; another follows."""
    await gone.wait()
    server.end()
    server.end_at_once()


@contextmanager
def _obeying(joint: socket.socket, server: HubServer) -> Iterator[None]:
    """Do what the keeper says; end when it is gone."""
    loop = asyncio.get_running_loop()
    handover = server.server_state.handover

    def said() -> None:
        try:
            words = joint.recv(16)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        for number in words or END:
            word = bytes((number,))
            if handover is not None:
                handover.open = word == DOOR  # nobody is handed over by who is to end, either
            if word in (END, AT_ONCE):
                server.end()
            if word == AT_ONCE:
                server.end_at_once()
        if not words:
            log.warning("the parent is gone")
            loop.remove_reader(joint)

    loop.add_reader(joint, said)
    try:
        yield
    finally:
        loop.remove_reader(joint)
