"""What only a backplane can show that is the memory of another process: how either side goes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from hub.backplane import memory_server, remote_memory
from hub.backplane.frames import framed
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.memory_server import MemoryServer
from hub.backplane.remote_memory import RemoteMemory
from hub.cli.kept import joint
from hub.faults import Fault
from tests.backplane.conftest import remote
from tests.backplane.sinks import DEADLINE_S, Sink, eventually

CHANNEL = "conversation:c_1"


@pytest.fixture
def shared() -> MemoryShared:
    return MemoryShared()


@pytest_asyncio.fixture
async def server(shared: MemoryShared) -> AsyncIterator[MemoryServer]:
    server = MemoryServer(shared)
    yield server
    server.close()


async def until(true: Callable[[], object]) -> None:
    async def ask() -> object:
        return true()

    await eventually(ask)


async def test_when_the_memory_is_gone_nothing_waits_and_its_node_is_told(
    server: MemoryServer, shared: MemoryShared
) -> None:
    gone = asyncio.Event()
    node = remote(server, gone.set)
    await node.start()
    waiting = asyncio.create_task(node.dequeue("runs", DEADLINE_S))
    await until(lambda: "runs" in shared.queues and shared.queues["runs"].takers)
    server.close()
    async with asyncio.timeout(DEADLINE_S):
        await gone.wait()
        for call in (waiting, node.ping(), node.publish("authority", b"x"), node.read(CHANNEL, 0)):
            with pytest.raises(Fault) as failure:
                await call
            assert failure.value.reason == "backend_unavailable"
    await node.close()


async def test_a_node_that_goes_leaves_nothing_behind(
    server: MemoryServer, shared: MemoryShared
) -> None:
    node = remote(server)
    await node.start()
    await node.subscribe(CHANNEL, Sink())
    await node.overhear(CHANNEL, lambda _, __: None)
    await node.listen("authority", lambda _: None)
    waiting = asyncio.create_task(node.dequeue("runs", DEADLINE_S))
    await until(lambda: "runs" in shared.queues and shared.queues["runs"].takers)
    await node.close()
    with pytest.raises(Fault):
        await waiting
    await until(lambda: not (shared.sinks or shared.whisperers or shared.listeners["authority"]))
    await until(lambda: not shared.queues["runs"].takers)


async def test_a_memory_that_does_not_answer_is_said_to_be_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_memory, "PING_S", 0.05)
    monkeypatch.setattr(remote_memory, "ANSWER_S", 0.05)
    theirs, ours = joint()
    monkeypatch.setattr(remote_memory, "START_S", 0.05)
    node = RemoteMemory(ours)
    with theirs:
        for call in (node.start, node.ping, lambda: node.take("b", 1, rate=1, burst=1)):
            with pytest.raises(Fault, match="try again"):
                await call()
        await node.close()


async def test_an_item_that_was_given_to_who_waits_no_more_is_put_back(
    server: MemoryServer, shared: MemoryShared
) -> None:
    node, here = remote(server), MemoryBackplane(shared)
    await node.start()
    waiting = asyncio.create_task(node.dequeue("runs", DEADLINE_S))
    await until(lambda: "runs" in shared.queues and shared.queues["runs"].takers)
    await here.enqueue("runs", "r_1")  # it is on its way
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await here.dequeue("runs", DEADLINE_S) == "r_1"
    await node.close()


async def test_who_asks_for_much_at_once_gets_it_all(
    server: MemoryServer, shared: MemoryShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_server, "MOST_WAITING", 1024 * 1024)
    here, node = MemoryBackplane(shared), remote(server)
    for _ in range(8):
        await here.append(CHANNEL, b"x" * 100_000)
    await node.start()
    pages = await asyncio.gather(*(node.read(CHANNEL, 0) for _ in range(40)))
    assert [len(page.entries) for page in pages] == [8] * 40
    await node.close()


async def test_what_is_asked_for_at_once_is_so_in_its_order(
    server: MemoryServer, shared: MemoryShared
) -> None:
    node, sinks = remote(server), [Sink(), Sink()]
    await node.start()
    await asyncio.gather(*(node.listen("authority", sink.control) for sink in sinks))
    await asyncio.gather(
        node.subscribe(CHANNEL, sinks[0]),
        node.unsubscribe(CHANNEL),
        node.subscribe(CHANNEL, sinks[1]),
    )
    await node.publish("authority", b"changed")
    await node.append(CHANNEL, b"said")
    await until(lambda: [sink.messages for sink in sinks] == [[b"changed"], [b"changed"]])
    assert [sink.data for sink in sinks] == [[], [b"said"]]
    await node.close()


async def test_a_request_that_fails_costs_who_asked_and_nobody_else(
    server: MemoryServer, shared: MemoryShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: MemoryBackplane, key: str) -> bytes:
        raise KeyError(key)

    node = remote(server)
    await node.start()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryBackplane, "cache_get", broken)
        with pytest.raises(RuntimeError, match="cache_get"):
            await node.cache_get("k")
    assert await node.cache_get("k") is None
    await node.close()


async def test_a_node_that_does_not_read_is_left_and_costs_no_more_than_its_share(
    server: MemoryServer, shared: MemoryShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_server, "MOST_WAITING", 1024 * 1024)
    theirs, ours = joint()
    server.admit(theirs)
    with ours:
        ours.send(framed([1, "subscribe", [CHANNEL], {}]))
        await until(lambda: CHANNEL in shared.sinks)
        here = MemoryBackplane(shared)
        for _ in range(30):
            await here.append(CHANNEL, b"x" * 100_000)
        await until(lambda: CHANNEL not in shared.sinks)
        assert len((await here.read(CHANNEL, 0)).entries) > 0
        await asyncio.to_thread(_read_to_the_end, ours)


def _read_to_the_end(end: socket.socket) -> None:
    end.settimeout(DEADLINE_S)
    while end.recv(65_536):
        pass
