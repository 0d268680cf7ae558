"""Real Redis: one server, servers to be killed, and a cluster of three masters."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.parts.ports import free_port

READY_S = 15.0
SLOTS = 16_384


class RedisProcess:
    """A redis-server on a free loopback port, with its files in a directory of its own."""

    def __init__(self, folder: Path, *options: str, cluster: bool = False) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
        self._options += ["--repl-diskless-sync-delay", "0"]
        self._options += ["--cluster-port", str(free_port())]
        self._options = self._options if cluster else list(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "RedisProcess":
        """This: what can be killed, paused and so on."""
        return self

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [_binary(), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "no"]
        command += ["--logfile", str(self._folder / "redis.log"), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, f"redis-server on port {self.port}")

    def kill(self) -> None:
        """SIGKILL; what it held is lost."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: its port accepts, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it, and start it again on its port, empty."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGKILL)

    def client(self) -> "redis.Redis":
        """A client of its own, to look at it and to tamper with it."""
        return redis.Redis(port=self.port, protocol=2, socket_timeout=5)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        if not self.alive():
            raise RuntimeError(f"redis-server ended: {(self._folder / 'redis.log').read_text()}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        assert self._process is not None
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class RedisClusterProcesses:
    """Three masters that share the slots, and the replicas that they are given."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [RedisProcess(folder / str(at), cluster=True) for at in range(3)]
        self.replicas: list[RedisProcess] = []
        self._folder = folder
        self.url = f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> None:
        """Start the servers, make them a cluster, and wait until it is one."""
        bounds = [SLOTS * at // 3 for at in range(4)]
        for at, node in enumerate(self.nodes):
            node.start()
            with node.client() as client:
                last = bounds[at + 1] - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[at], last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        with self.nodes[0].client() as client:
            for node in self.nodes[1:]:
                bus = node._options[-1]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(self.ok, "the Redis Cluster")

    def stop(self) -> None:
        """End all of them."""
        for node in (*self.nodes, *self.replicas):
            node.stop()

    def master_of(self, slot: int) -> RedisProcess:
        """The master that has a slot from the beginning."""
        return next(self.nodes[at] for at in range(3) if slot < SLOTS * (at + 1) // 3)

    def replicate(self, master: RedisProcess) -> RedisProcess:
        """Start a replica of a master, and wait until all know it and it has what that has."""
        replica = RedisProcess(self._folder / f"replica-{len(self.replicas)}", cluster=True)
        self.replicas.append(replica)
        replica.start()
        with master.client() as client, replica.client() as its_replica:
            master_id = client.execute_command("CLUSTER", "MYID").decode()
            meet = ("CLUSTER", "MEET", "127.0.0.1", replica.port, replica._options[-1])
            client.execute_command(*meet)

            def known() -> bool:
                return master_id.encode() in its_replica.execute_command("CLUSTER", "NODES")

            wait_until(known, "a node that is met")
            its_replica.execute_command("CLUSTER", "REPLICATE", master_id)
        wait_until(lambda: self._replicated(replica), "a replica")
        return replica

    def _replicated(self, replica: RedisProcess) -> bool:
        with replica.client() as client:
            if client.info("replication").get("master_link_status") != "up":
                return False
        for node in self.nodes:
            with node.client() as client:
                told = client.execute_command("CLUSTER", "NODES").decode()
            of_it = [line for line in told.splitlines() if f":{replica.port}@" in line]
            if not of_it or " slave " not in of_it[0].replace(",", " "):
                return False
        return True

    def flush(self) -> None:
        """Forget everything that is held."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def move_slot(self, slot: int) -> None:
        """Give a slot, with its keys, to the next master, as ``redis-cli --cluster reshard``."""
        source = self.nodes.index(self.master_of(slot))
        target = (source + 1) % 3
        with self.nodes[source].client() as giver, self.nodes[target].client() as taker:
            giver_id = giver.execute_command("CLUSTER", "MYID").decode()
            taker_id = taker.execute_command("CLUSTER", "MYID").decode()
            taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", giver_id)
            giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", taker_id)
            port = self.nodes[target].port
            while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                giver.execute_command(
                    "MIGRATE", "127.0.0.1", port, "", 0, 5000, "REPLACE", "KEYS", *keys
                )
            for client in (taker, giver):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", taker_id)

    def ok(self) -> bool:
        """Whether each server sees the whole cluster at work."""
        for node in self.nodes:
            with node.client() as client:
                info = client.execute_command("CLUSTER", "INFO").decode()
            if "cluster_state:ok" not in info or "cluster_known_nodes:3" not in info:
                return False
        return True


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for a server of the tests. Raises TimeoutError after ``READY_S``."""
    deadline = time.monotonic() + READY_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {READY_S:.0f} s")
        time.sleep(0.02)


def _binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        message = "redis-server is missing; install it with: apt-get install -y redis-server"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def redis_installed() -> None:
    """For a test that has its Redis started elsewhere: skips (with CI=true: fails) without one."""
    _binary()


@pytest.fixture(scope="session")
def redis_folder() -> Iterator[Path]:
    """A short path: the tests' own temporary directories are too deep for some sockets."""
    with tempfile.TemporaryDirectory(prefix="hub-redis-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def redis_session(redis_folder: Path) -> Iterator[RedisProcess]:
    """The Redis that the tests of a session share. Use ``redis_server``."""
    server = RedisProcess(redis_folder / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_server(redis_session: RedisProcess) -> RedisProcess:
    """A Redis, emptied for this test. Do not kill it; see ``own_redis``."""
    with redis_session.client() as client:
        client.flushall()
    return redis_session


@pytest.fixture
def own_redis(redis_folder: Path) -> Iterator[RedisProcess]:
    """A Redis of this test alone, to be killed and paused."""
    server = RedisProcess(redis_folder / f"own-{time.monotonic_ns()}")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_cluster_session(redis_folder: Path) -> Iterator[RedisClusterProcesses]:
    """The cluster that the tests of a session share. Use ``redis_cluster``."""
    cluster = RedisClusterProcesses(redis_folder / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def redis_cluster(redis_cluster_session: RedisClusterProcesses) -> RedisClusterProcesses:
    """A three-node Redis Cluster, emptied for this test. Do not kill its nodes."""
    redis_cluster_session.flush()
    return redis_cluster_session


@pytest.fixture
def own_redis_cluster(redis_folder: Path) -> Iterator[RedisClusterProcesses]:
    """A three-node Redis Cluster of this test alone, to be reshaped and broken."""
    cluster = RedisClusterProcesses(redis_folder / f"own-cluster-{time.monotonic_ns()}")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
