"""What the Redis backplane does when Redis does not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hub.backplane import redis_pubsub
from hub.backplane.choice import open_backplane
from hub.backplane.interface import Appended, LeaseLost
from hub.backplane.memory import MemoryBackplane
from hub.backplane.redis import RedisBackplane
from hub.backplane.redis_keys import Keys, partition_of, slot_of
from hub.backplane.redis_server import Link, Server
from hub.backplane.standby import StandbyBackplane
from hub.faults import Fault
from tests.backplane.sinks import DEADLINE_S, Sink
from tests.parts.ports import free_port
from tests.parts.redis import RedisClusterProcesses, RedisProcess

CHANNEL = "conversation:c_1"
BOUND_S = 5.0


@pytest_asyncio.fixture
async def node(own_redis: RedisProcess) -> AsyncIterator[RedisBackplane]:
    backplane = RedisBackplane(own_redis.url, node="n_one")
    await backplane.start()
    yield backplane
    await backplane.close()


@pytest_asyncio.fixture
async def other(own_redis: RedisProcess) -> AsyncIterator[RedisBackplane]:
    backplane = RedisBackplane(own_redis.url, node="n_two")
    await backplane.start()
    yield backplane
    await backplane.close()


async def unavailable(call: Awaitable[object], within_s: float = BOUND_S) -> None:
    """The call raises backend_unavailable, in time."""
    async with asyncio.timeout(within_s):
        with pytest.raises(Fault) as caught:
            await call
    assert caught.value.reason == "backend_unavailable"


async def append_when_back(node: RedisBackplane, data: bytes, key: str | None = None) -> Appended:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(Fault):
                return await node.append(CHANNEL, data, key=key)
            await asyncio.sleep(0.02)


# --- killed and restarted ---


async def test_a_restarted_redis_has_logs_of_another_epoch(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    before = await node.append(CHANNEL, b"x")
    own_redis.restart()
    after = await node.append(CHANNEL, b"y")
    assert after.epoch != before.epoch
    assert after.seq == 1


async def test_a_node_receives_again_however_often_it_could_not_connect(
    own_redis: RedisProcess, node: RedisBackplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pubsub, "BACKOFF_S", (1e-6, 1e-6))
    failed, often = 0, asyncio.Event()
    open_link = Server.open

    async def count(server: Server) -> Link:
        nonlocal failed
        failed += 1
        if failed > 1_200:  # as after twenty minutes: 2 to that power is no float
            often.set()
        return await open_link(server)

    monkeypatch.setattr(Server, "open", count)
    sink = Sink()
    await node.subscribe(CHANNEL, sink)
    own_redis.kill()
    async with asyncio.timeout(DEADLINE_S):
        await often.wait()
    own_redis.start()
    await sink.until(lambda: bool(sink.repairs))
    await append_when_back(node, b"x")
    await sink.until(lambda: sink.data == [b"x"])


@pytest.mark.parametrize("first", ["append", "read"])
async def test_a_redis_that_restarts_from_an_old_snapshot_has_logs_of_another_epoch(
    own_redis: RedisProcess, node: RedisBackplane, first: str
) -> None:
    # It comes back with the log's beginning only: a seq would be given out twice.
    before = await node.append(CHANNEL, b"kept")
    with own_redis.client() as client:
        client.save()
    await node.append(CHANNEL, b"forgotten")
    own_redis.restart()
    if first == "append":
        assert (await node.append(CHANNEL, b"new")).seq == 1
    held = await node.read(CHANNEL, 0)
    assert held.epoch != before.epoch
    assert held.last == (1 if first == "append" else 0)


async def test_subscribers_are_told_that_they_may_have_missed_something(
    own_redis: RedisProcess, node: RedisBackplane, other: RedisBackplane
) -> None:
    sinks = {name: Sink() for name in (CHANNEL, "conversation:c_2")}
    for name, sink in sinks.items():
        await other.subscribe(name, sink)
    await node.append(CHANNEL, b"before")
    await sinks[CHANNEL].count(1)
    assert sinks[CHANNEL].repairs == []
    own_redis.restart()
    for name, sink in sinks.items():
        await sink.until(lambda sink=sink: bool(sink.repairs))  # type: ignore[misc]
        assert sink.repairs == [name]
    await node.append(CHANNEL, b"after")
    await sinks[CHANNEL].count(2)
    assert sinks[CHANNEL].data == [b"before", b"after"]


async def test_a_receiver_that_is_cut_off_comes_back_by_itself(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    sink = Sink()
    await node.subscribe(CHANNEL, sink)
    control = Sink()
    await node.listen("topic", control.control)
    with own_redis.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await sink.until(lambda: bool(sink.repairs))
    await node.append(CHANNEL, b"x")
    await sink.count(1)
    await node.publish("topic", b"m")
    await control.until(lambda: control.messages == [b"m"])


async def test_a_message_that_is_none_of_ours_does_not_end_the_receiving(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    sink = Sink()
    await node.subscribe(CHANNEL, sink)
    with own_redis.client() as client:
        client.publish(Keys("hub").of(CHANNEL).entries, b"garbage")
    await sink.until(lambda: bool(sink.repairs))
    await node.append(CHANNEL, b"x")
    await sink.count(1)


async def test_a_dead_redis_is_told_at_once_and_used_again_when_it_lives(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    sink = Sink()
    await node.subscribe(CHANNEL, sink)
    own_redis.kill()
    await unavailable(node.append(CHANNEL, b"x"), 1)
    await unavailable(node.ping(), 2)
    await unavailable(node.dequeue("q", 5))
    await unavailable(node.subscribe("conversation:c_2", Sink()))
    own_redis.start()
    await append_when_back(node, b"y")
    await sink.until(lambda: bool(sink.repairs))
    await node.append(CHANNEL, b"z")
    await sink.until(lambda: sink.data[-1:] == [b"z"])


async def test_a_lease_does_not_outlive_the_redis_that_knew_it(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    lease = await node.acquire(CHANNEL, 30)
    assert lease is not None
    own_redis.restart()
    with pytest.raises(LeaseLost):
        await node.append(CHANNEL, b"x", lease=lease)
    successor = await node.acquire(CHANNEL, 30)
    assert successor is not None
    assert successor.token > lease.token


# --- paused ---


async def test_nothing_hangs_on_a_paused_redis(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    lease = await node.acquire("other", 30)
    assert lease is not None
    await node.append(CHANNEL, b"x")
    dequeue = asyncio.create_task(node.dequeue("q", 60))
    await asyncio.sleep(0)
    own_redis.pause()
    try:
        await asyncio.gather(
            unavailable(dequeue),
            unavailable(node.ping(), 2.5),
            unavailable(node.append(CHANNEL, b"y")),
            unavailable(node.read(CHANNEL, 0)),
            unavailable(node.subscribe("conversation:c_2", Sink())),
            unavailable(node.listen("topic", Sink().control)),
            unavailable(node.publish("topic", b"m")),
            unavailable(node.acquire("lease", 1)),
            unavailable(node.renew(lease, 1)),
            unavailable(node.release(lease)),
            unavailable(node.enqueue("q", "r_1")),
            unavailable(node.cache_get("k")),
            unavailable(node.cache_set("k", b"v", 1, only_new=True)),
            unavailable(node.cache_delete("k")),
            unavailable(node.take("b", 1, rate=1, burst=1)),
        )
        # A connection that has to be made first is no exception.
        await unavailable(RedisBackplane(own_redis.url, node="n_new").start())
    finally:
        own_redis.resume()
    assert (await append_when_back(node, b"z")).seq >= 2


async def test_an_append_of_unknown_outcome_is_appended_once_when_it_is_retried(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    sink = Sink()
    await node.append(CHANNEL, b"first")
    await node.subscribe(CHANNEL, sink)
    own_redis.pause()
    try:
        # It waits in the paused server's socket, and is executed when that goes on.
        await unavailable(node.append(CHANNEL, b"second", key="k"))
    finally:
        own_redis.resume()
    answer = await append_when_back(node, b"second", key="k")
    await node.append(CHANNEL, b"third")
    held = await node.read(CHANNEL, 0)
    assert [entry.data for entry in held.entries] == [b"first", b"second", b"third"]
    assert answer.seq == 2
    await sink.count(2)
    assert sink.seqs == [2, 3]


async def test_an_append_whose_answer_was_lost_is_not_repeated(own_redis: RedisProcess) -> None:
    async with AnswerEater(own_redis.port) as proxy:
        node = RedisBackplane(f"redis://127.0.0.1:{proxy.port}", node="n_one")
        await node.start()
        await node.append(CHANNEL, b"0")
        proxy.swallow()
        # Redis executes these, the connection breaks before it says so, and they are sent again.
        answers = await asyncio.gather(
            *(node.append(CHANNEL, b"%d" % at, key=None) for at in range(1, 4))
        )
        assert proxy.swallowed
        assert [(answer.seq, answer.duplicate) for answer in answers] == [
            (2, False),
            (3, False),
            (4, False),
        ]
        held = await node.read(CHANNEL, 0)
        assert [entry.data for entry in held.entries] == [b"0", b"1", b"2", b"3"]
        await node.close()


async def test_a_first_of_unknown_outcome_is_a_fault_and_not_a_second(
    own_redis: RedisProcess,
) -> None:
    async with AnswerEater(own_redis.port) as proxy:
        node = RedisBackplane(f"redis://127.0.0.1:{proxy.port}", node="n_one")
        await node.start()
        assert await node.acquire("other", 30) is not None  # its script is loaded now
        proxy.swallow()
        await unavailable(node.cache_set("k", b"v", 30, only_new=True))
        await node.ping()
        proxy.swallow()
        lease = await node.acquire(CHANNEL, 30)  # this one knows that it was first
        assert lease is not None
        await node.renew(lease, 30)
        assert proxy.swallowed == 2
        await node.close()


# --- forgetful ---


async def test_flushed_scripts_are_loaded_again_and_order_is_kept(
    own_redis: RedisProcess, node: RedisBackplane, other: RedisBackplane
) -> None:
    for round_ in range(5):
        with own_redis.client() as client:
            client.script_flush()
        await asyncio.gather(
            *(node.append(CHANNEL, b"%d" % (round_ * 20 + at)) for at in range(20)),
            other.append("conversation:c_2", b"x"),
            node.acquire(f"lease{round_}", 1),
            node.take("b", 1, rate=1, burst=1),
        )
    held = await node.read(CHANNEL, 0)
    assert [entry.data for entry in held.entries] == [b"%d" % at for at in range(100)]


@pytest.mark.parametrize("first", ["append", "read"])
@pytest.mark.parametrize("part", ["log", "meta"])
async def test_half_a_log_is_no_log(
    own_redis: RedisProcess, node: RedisBackplane, part: str, first: str
) -> None:
    before = await node.append(CHANNEL, b"x", key="k")
    with own_redis.client() as client:
        (name,) = client.keys(f"hub:*:{part}:{CHANNEL}")
        client.delete(name)
    if first == "read":
        held = await node.read(CHANNEL, 0)
        assert held.epoch != before.epoch
        assert (held.first, held.last, held.entries) == (1, 0, ())
    again = await node.append(CHANNEL, b"y", key="k")
    assert (again.seq, again.duplicate) == (1, False)
    assert again.epoch != before.epoch
    assert [entry.data for entry in (await node.read(CHANNEL, 0)).entries] == [b"y"]


async def test_a_full_redis_is_a_fault_and_loses_nothing(
    own_redis: RedisProcess, node: RedisBackplane
) -> None:
    before = await node.append(CHANNEL, b"x")
    with own_redis.client() as client:
        client.config_set("maxmemory", "1mb")
        await unavailable(node.append(CHANNEL, b"y"))
        client.config_set("maxmemory", "0")
    assert await node.append(CHANNEL, b"z") == Appended(before.epoch, 2, False)


# --- clusters ---


async def test_a_slot_that_moves_takes_its_channels_along(
    own_redis_cluster: RedisClusterProcesses,
) -> None:
    one = RedisBackplane(own_redis_cluster.url, node="n_one")
    two = RedisBackplane(own_redis_cluster.url, node="n_two")
    await one.start()
    await two.start()
    sink = Sink()
    await two.subscribe(CHANNEL, sink)
    before = await one.append(CHANNEL, b"before")
    await asyncio.to_thread(own_redis_cluster.move_slot, slot_of(partition_of(CHANNEL)))
    answers = await asyncio.gather(*(one.append(CHANNEL, b"%d" % at) for at in range(20)))
    # Another server cannot vouch for the log, so it is another one.
    assert {answer.epoch for answer in answers} != {before.epoch}
    assert [answer.seq for answer in answers] == list(range(1, 21))
    await sink.until(lambda: sink.repairs == [CHANNEL])
    await one.append(CHANNEL, b"after")
    await sink.until(lambda: sink.data[-1:] == [b"after"])
    held = await two.read(CHANNEL, 0)
    assert [entry.data for entry in held.entries] == [*(b"%d" % at for at in range(20)), b"after"]
    await one.close()
    await two.close()


async def test_a_dead_master_takes_only_its_own_channels_away(
    own_redis_cluster: RedisClusterProcesses,
) -> None:
    for master in own_redis_cluster.nodes:
        with master.client() as client:
            client.config_set("cluster-require-full-coverage", "no")
    node = RedisBackplane(own_redis_cluster.url, node="n_one")
    await node.start()
    by_master: dict[int, str] = {}
    for at in range(200):
        name = f"conversation:c_{at}"
        by_master.setdefault(slot_of(partition_of(name)) * 3 // 16_384, name)
    assert len(by_master) == 3
    own_redis_cluster.nodes[2].kill()
    await unavailable(node.append(by_master[2], b"x"))
    for at in (0, 1):
        await node.append(by_master[at], b"x")
    await unavailable(node.ping())
    own_redis_cluster.nodes[2].start()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(Fault):
                await node.append(by_master[2], b"y")
                break
            await asyncio.sleep(0.05)
    await node.close()


# --- guarded ---


async def test_a_user_who_may_not_see_the_servers_state_can_still_append(
    own_redis: RedisProcess,
) -> None:
    with own_redis.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "hub", "on", ">s3:cret", "~*", "&*", "+@all", "-info"
        )
    node = RedisBackplane(f"redis://hub:s3%3Acret@127.0.0.1:{own_redis.port}/0", node="n_one")
    await node.start()
    assert (await node.append(CHANNEL, b"x")).seq == 1
    await node.close()
    wrong = RedisBackplane(f"redis://hub:wrong@127.0.0.1:{own_redis.port}/0", node="n_one")
    with pytest.raises(Fault) as caught:
        await wrong.start()
    assert caught.value.reason == "backend_unavailable"
    assert "wrong" not in caught.value.message
    await wrong.close()


async def test_a_redis_behind_tls_is_used_when_its_certificate_is_good(tmp_path: Path) -> None:
    _certify(tmp_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", f"{tmp_path}/tls.crt", "--tls-key-file", f"{tmp_path}/tls.key"]
    options += ["--tls-ca-cert-file", f"{tmp_path}/tls.crt"]
    server = RedisProcess(tmp_path / "redis", *options)
    try:
        server.start()
        url = f"rediss://localhost:{port}/0"
        node = RedisBackplane(f"{url}?ssl_ca_certs={tmp_path}/tls.crt", node="n_one")
        await node.start()
        sink = Sink()
        await node.subscribe(CHANNEL, sink)
        await node.append(CHANNEL, b"secret")
        await sink.count(1)
        await node.close()
        stranger = RedisBackplane(url, node="n_two")
        await unavailable(stranger.start())
        await stranger.close()
    finally:
        server.stop()


def _certify(folder: Path) -> None:
    """A self-signed certificate of localhost, ``tls.crt`` with ``tls.key``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


# --- choosing ---


async def test_no_redis_is_a_fault_at_the_start() -> None:
    for scheme in ("redis", "redis+cluster"):
        node = open_backplane(f"{scheme}://127.0.0.1:{free_port()}", "n_one")
        await unavailable(node.start())
        await unavailable(node.append(CHANNEL, b"x"))
        await node.close()


async def test_the_url_decides_which_backplane_it_is() -> None:
    assert isinstance(open_backplane(None, "n"), MemoryBackplane)
    for scheme in ("redis", "rediss", "redis+cluster", "rediss+cluster"):
        assert isinstance(open_backplane(f"{scheme}://user:pw@localhost/0", "n"), StandbyBackplane)
    for url in ("http://localhost", "unix:///tmp/redis.sock", "localhost:6379", ""):
        with pytest.raises(ValueError, match="redis"):
            open_backplane(url, "n")


class AnswerEater:
    """A proxy in front of Redis. After ``swallow`` it passes the next request on, waits until
    Redis has answered, and closes both connections without saying so.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._armed = False
        self._server: asyncio.Server | None = None
        self.swallowed = 0
        self.port = 0

    def swallow(self) -> None:
        self._armed = True

    async def __aenter__(self) -> "AnswerEater":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, down: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        up, request = await asyncio.open_connection("127.0.0.1", self._upstream)

        async def back() -> None:
            while data := await up.read(65_536):
                if self._armed:
                    self._armed = False
                    self.swallowed += 1
                    break
                answer.write(data)
            answer.close()
            request.close()

        backwards = asyncio.create_task(back())
        while data := await down.read(65_536):
            request.write(data)
        request.close()
        await backwards
