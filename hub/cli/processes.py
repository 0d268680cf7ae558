"""``hub serve --processes N``: several processes on one port, and the one that watches over them.

Each process listens on the port by itself (SO_REUSEPORT), and the kernel spreads who comes over
them. They share nothing but Redis and the database, as nodes on several machines do. The parent
has the port too, but does not listen: it makes what is made once, starts the processes, starts one
again that dies, and passes on when to end. A socket joins it with each: by it the parent speaks,
and by its end either side knows that the other is dead.

One more process is their door (``hub.transports.door``), unless there is to be none: it does not
listen, and serves the sign-ins that the others hand over to it while the parent says that it is
there. Without Redis there is one process and its door, which shares its memory (``lending``).
"""

import asyncio
import os
import socket
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from typing import Final, NamedTuple

import uvloop

from hub.app import running
from hub.cli import lending, memory
from hub.cli.administration import prepare
from hub.cli.greeting import ANY_NAME, Welcome, greeting
from hub.cli.serving import (
    GRACEFUL_S,
    RUNTIME_FILE,
    CannotServe,
    DoorServer,
    HubServer,
    bind,
    claimed,
    following,
    listen,
    runtime_file,
    serve_metrics,
    signals,
)
from hub.settings import Settings
from hub.settings.production import check_production
from hub.telemetry.logs import log
from hub.transports.door import Handover, pair, turn_away

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
STEADY_S: Final = 10.0
"""A process that has served for this long did not die of its start: the next follows soon."""
KILLED_AFTER_S: Final = 10.0
"""What a process has left when its drain window is over; then it is killed."""

UP: Final = b"u"
END: Final = b"e"
AT_ONCE: Final = b"!"
DOOR: Final = b"d"
NO_DOOR: Final = b"n"


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
    if settings.redis_url is None and count > 1:
        raise CannotServe(
            "Several processes need HUB_REDIS_URL: without Redis a hub is one. Start a Redis and "
            "set it, or serve with --processes 1."
        )
    with claimed(settings, worker=worker) as lock:
        # Others on this port would share it unnoticed, were they of this user and as generous.
        bind(settings.host, settings.port).close()
        with closing(bind(settings.host, settings.port, shared=True)) as held:
            check_production(settings)  # before processes are started that cannot go on without it
            bound = settings.model_copy(update={"port": held.getsockname()[1]})
            parent = Parent(bound, count, worker=worker, door=door, lock=lock)
            return asyncio.run(parent.run(greet=greet))


class Parent:
    """Starts the processes, and has them end. ``run`` once."""

    def __init__(
        self, settings: Settings, count: int, *, worker: bool, door: bool, lock: int | None
    ) -> None:
        """``lock``: a descriptor that the processes are to have as well."""
        self._settings = settings
        self._passed = [] if lock is None else [lock]
        self._count = count
        self._worker = worker
        self._door = count if door else None  # its number
        self._ends = pair() if door else None
        self._children: dict[int, Child] = {}
        self._up: set[int] = set()
        self._all_up = asyncio.Event()
        self._ending = asyncio.Event()
        self._at_once = False

    async def run(self, *, greet: bool) -> int:
        settings, url = self._settings, self._settings.local_url
        generated, code = await prepare(settings)
        with signals(self._end, self._end_at_once):
            numbers = range(self._count + (self._door is not None))
            keepers = [asyncio.create_task(self._keep(index)) for index in numbers]
            all_up = asyncio.create_task(self._all_up.wait())
            await asyncio.wait({*keepers, all_up}, return_when=asyncio.FIRST_COMPLETED)
            if self._all_up.is_set():
                with runtime_file(settings.data_dir / RUNTIME_FILE, url):
                    log.info("the hub is up", url=url, processes=len(numbers))
                    if greet:
                        print(greeting(settings, url, Welcome(code, generated)), flush=True)
                    elif settings.any_name:
                        log.warning(ANY_NAME)
                    await self._ending.wait()
                    statuses = await self._ended(keepers)
            else:  # one could not be started, and has said why; or we were told to end
                all_up.cancel()
                self._end()
                statuses = await self._ended(keepers)
        log.info("the hub has ended")
        return 1 if any(statuses) else 0

    def _end(self) -> None:
        self._ending.set()
        for child in self._children.values():
            child.tell(END)

    def _end_at_once(self) -> None:
        self._at_once = True
        for child in self._children.values():
            child.tell(AT_ONCE)

    async def _ended(self, keepers: list["asyncio.Task[int]"]) -> list[int]:
        within = self._settings.drain_s + GRACEFUL_S + KILLED_AFTER_S
        _, late = await asyncio.wait(keepers, timeout=within)
        if late:
            for child in self._children.values():
                log.error("a process does not end; it is killed", pid=child.process.pid)
                child.process.kill()
        return await asyncio.gather(*keepers)

    async def _keep(self, index: int) -> int:
        """Have a process of this number, until all are to end. The last one's exit status."""
        loop = asyncio.get_running_loop()
        wait_s = FIRST_WAIT_S
        while True:
            began = loop.time()
            status = await self._live(index)
            if self._ending.is_set() or not self._all_up.is_set():
                return status
            if loop.time() - began >= STEADY_S:
                wait_s = FIRST_WAIT_S
            log.error("a process died; another follows", process=index, status=status, in_s=wait_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._ending.wait()
                return 0
            except TimeoutError:
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _live(self, index: int) -> int:
        is_door = index == self._door
        end = self._ends and self._ends[1 if is_door else 0]
        worker = self._worker and not is_door
        child = await Child.start(
            *(self._settings, index, self._passed), worker=worker, is_door=is_door, end=end
        )
        self._children[index] = child
        if self._ending.is_set():
            child.tell(AT_ONCE if self._at_once else END)
        try:
            if await child.says_up():
                self._up.add(index)
                self._say_where_the_door_is()
                if len(self._up) == self._count + (self._door is not None):
                    self._all_up.set()
            return await child.process.wait()
        finally:
            del self._children[index]
            self._up.discard(index)
            child.joint.close()
            if is_door:
                self._say_where_the_door_is()
                self._turn_away()

    def _say_where_the_door_is(self) -> None:
        if self._door is None or self._ending.is_set():
            return
        word = DOOR if self._door in self._up else NO_DOOR
        for index in self._up - {self._door}:
            self._children[index].tell(word)

    def _turn_away(self) -> None:
        assert self._ends is not None
        if count := turn_away(self._ends[1]):
            log.warning("the door is gone; who stood there was turned away", connections=count)


class Child:
    """One process, seen from its parent. ``joint`` is our end of the socket between us."""

    def __init__(self, process: asyncio.subprocess.Process, joint: socket.socket) -> None:
        self.process = process
        self.joint = joint

    @classmethod
    async def start(
        cls,
        settings: Settings,
        index: int,
        passed: Sequence[int],
        *,
        worker: bool,
        is_door: bool,
        end: socket.socket | None,
    ) -> "Child":
        """``passed``: descriptors that it is to have open. ``end``: its own of the pair that leads
        to the door, if there is one.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            words = [
                *("serve", "--host", settings.host, "--port", str(settings.port)),
                *("--data-dir", str(settings.data_dir)),
                *(() if worker else ("--no-worker",)),
                *("--joint", str(theirs.fileno()), "--index", str(index)),
            ]
            passed = [*passed, theirs.fileno()]
            if end is not None:
                passed.append(end.fileno())
                words += ["--far" if is_door else "--near", str(end.fileno())]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hub", *words),
                pass_fds=passed,
                # A terminal's ctrl-C is for the parent, which passes it on once.
                process_group=0,
            )
        return cls(process, ours)

    async def says_up(self) -> bool:
        """Wait until it serves; False if it has ended."""
        try:
            return await asyncio.get_running_loop().sock_recv(self.joint, 1) == UP
        except OSError:
            return False

    def tell(self, word: bytes) -> None:
        try:
            self.joint.send(word)
        except OSError:
            log.debug("a process was gone before it was told", pid=self.process.pid)


class Share(NamedTuple):
    """What the parent has given one of several processes: its number, and descriptors of the socket
    that joins them and of an end of the door's pair (one of them, if there is a door).
    """

    number: int
    joint: int
    near: int | None
    far: int | None


def serve_share(settings: Settings, share: Share, *, worker: bool) -> int:
    """Be one of several processes, until the parent says so or is gone."""
    if settings.metrics_port is not None:
        port = settings.metrics_port + share.number
        settings = settings.model_copy(update={"metrics_port": port})
    with ExitStack() as stack:
        parent = stack.enter_context(socket.socket(fileno=share.joint))
        parent.setblocking(False)
        near, far = [
            None if end is None else stack.enter_context(socket.socket(fileno=end))
            for end in (share.near, share.far)
        ]
        listening = None
        if far is None:
            listening = listen(settings.host, settings.port, shared=True)
            stack.callback(listening.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                _serve_share(settings, listening, parent, near=near, far=far, worker=worker)
            )


async def _serve_share(
    settings: Settings,
    listening: socket.socket | None,
    parent: socket.socket,
    *,
    near: socket.socket | None,
    far: socket.socket | None,
    worker: bool,
) -> int:
    gone = asyncio.Event()
    async with AsyncExitStack() as stack:
        backplane = None
        if settings.redis_url is None:
            shared = lending.backplane(near, far, settings.drain_s + GRACEFUL_S, gone.set)
            backplane = await stack.enter_async_context(shared)
        hub = await stack.enter_async_context(running(settings, worker=worker, backplane=backplane))
        if settings.metrics_port is not None:
            serve_metrics(settings, hub)
        server = HubServer(hub) if far is None else DoorServer(hub, far)
        if near is not None:
            server.server_state.handover = Handover(near, hub.services.metrics.door)
        if settings.redis_url is None and far is None:
            stack.enter_context(following(settings, hub))
        stack.callback(asyncio.create_task(_end_without(gone, server)).cancel)
        async with memory.settled(server.connected):
            with _obeying(parent, server):
                parent.send(UP)
                log.info(
                    "a process is up",
                    node=hub.services.node,
                    metrics_port=settings.metrics_port,
                    door=far is not None,
                )
                await server.serve(sockets=[] if listening is None else [listening])
    return 0


async def _end_without(gone: asyncio.Event, server: HubServer) -> None:
    """End at once when what it cannot be without is gone; another follows."""
    await gone.wait()
    server.end()
    server.end_at_once()


@contextmanager
def _obeying(parent: socket.socket, server: HubServer) -> Iterator[None]:
    """Do what the parent says; end when it is gone."""
    loop = asyncio.get_running_loop()
    handover = server.server_state.handover

    def said() -> None:
        try:
            words = parent.recv(16)
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
            loop.remove_reader(parent)

    loop.add_reader(parent, said)
    try:
        yield
    finally:
        loop.remove_reader(parent)
