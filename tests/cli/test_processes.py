"""Several processes on one port."""

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import AsyncExitStack, ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from hub_client import connect
from hub_client.retry import Backoff

from tests.agents.client import Client, opened
from tests.agents.test_runs import slowly
from tests.faults.processes import children, wait_until
from tests.faults.test_kill import sign_in
from tests.parts.hub import HubProcess
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess

WITHIN_S = 15.0


@pytest.fixture
async def processes(
    hub_process: HubProcess, redis_server: RedisProcess, sqlite_url: str
) -> HubProcess:
    """A hub of two processes, and their door."""
    hub_process.environment |= {
        "HUB_REDIS_URL": redis_server.url,
        "HUB_DATABASE_URL": sqlite_url,
        "HUB_METRICS_PORT": str(free_ports(3)),
        "HUB_DRAIN_SECONDS": "2",
    }
    await asyncio.to_thread(hub_process.start, "--processes", "2", "--greet")
    await wait_until(lambda: "The hub is up at" in hub_process.log, WITHIN_S, hub_process.log)
    return hub_process


def free_ports(count: int) -> int:
    """The first of so many that follow each other."""
    while True:
        port = free_port()
        with ExitStack() as stack:
            try:
                for further in range(1, count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + further))
            except OSError:
                continue
            return port


def pids(hub: HubProcess) -> list[int]:
    assert hub.process is not None
    return children(hub.process.pid)


def node_of(client: Client) -> str:
    (ready,) = (params for name, params in client.notices if name == "session.ready")
    return str(ready["node"])


async def test_clients_are_spread_over_the_processes_and_speak_with_each_other(
    processes: HubProcess,
) -> None:
    token = await sign_in(processes, "ada@hub.example", register=True)
    async with AsyncExitStack() as stack:
        by_node: dict[str, Client] = {}
        for _ in range(60):  # each lands on one of two: on one alone by a chance of 2^-59
            client = await stack.enter_async_context(opened(processes.url, token))
            await client.until(partial(bool, client.notices))
            by_node.setdefault(node_of(client), client)
            if len(by_node) == 2:
                break
        one, other = by_node.values()
        conversation = await one.conversation()
        await other.subscribe(conversation, "start")
        await one.send(conversation, slowly(5))
        await other.says(conversation, "w4 ")
        await other.ended(conversation)
    async with httpx.AsyncClient(trust_env=False) as http:
        port = int(processes.environment["HUB_METRICS_PORT"])
        pages = [(await http.get(f"http://127.0.0.1:{port + at}/metrics")).text for at in (0, 1, 2)]
    assert all("hub_connections" in page for page in pages)
    runtime = json.loads((processes.data_dir / "hub.json").read_text())
    assert processes.process is not None
    assert runtime == {"pid": processes.process.pid, "url": processes.url}
    assert processes.log.count("The hub is up at") == 1
    assert processes.log.count("Sign in once") == 1


async def test_clients_of_a_process_that_is_killed_resume_on_the_other_and_it_comes_back(
    processes: HubProcess,
) -> None:
    token = await sign_in(processes, "ada@hub.example", register=True)
    before = pids(processes)
    assert len(before) == 3
    async with connect(processes.url, token=token, backoff=Backoff(draw=lambda: 0.2)) as library:
        conversation = await library.conversations.create(model="echo")
        stream = conversation.send(slowly(60, 50))
        killed: int | None = None
        async for _ in stream:
            if killed is None and "w3 " in "".join(stream.texts.values()):
                killed = _serving(before, processes.port)
                os.kill(killed, signal.SIGKILL)
        assert killed is not None
        assert list(stream.texts.values())[-1] == "".join(f"w{at} " for at in range(60))
    await wait_until(
        lambda: len(pids(processes)) == 3 and killed not in pids(processes), WITHIN_S, "a third"
    )
    await wait_until(lambda: processes.log.count("a process is up") == 4, WITHIN_S, "it serves")
    assert "a process died; another follows" in processes.log
    assert processes.stop() == 0


def _serving(of: list[int], port: int) -> int:
    """Which of these processes has the one connection to the port that is established."""
    (inode,) = {
        words[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (words := line.split())[3] == "01" and int(words[1].partition(":")[2], 16) == port
    }
    for pid in of:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return pid
            except OSError:
                continue
    raise AssertionError("nobody serves the connection")


async def test_one_signal_to_the_parent_ends_all_within_the_window_with_status_0(
    processes: HubProcess,
) -> None:
    token = await sign_in(processes, "ada@hub.example", register=True)
    before = pids(processes)
    assert processes.process is not None
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(opened(processes.url, token)) for _ in range(6)]
        conversation = await clients[0].conversation()
        await clients[0].send(conversation, slowly(500))
        await clients[0].says(conversation, "w2 ")
        began = time.monotonic()
        processes.send(signal.SIGTERM)
        status = await asyncio.to_thread(processes.process.wait, WITHIN_S)
        took = time.monotonic() - began
        for client in clients:
            await client._reading
            assert client.socket.close_code == 4001
    assert (status, took < 2 + 8) == (0, True), processes.log
    assert not set(before) & set(children(1) + pids(processes))
    assert not (processes.data_dir / "hub.json").exists()
    assert "Traceback" not in processes.log


async def test_processes_whose_parent_is_killed_end_by_themselves(processes: HubProcess) -> None:
    before = pids(processes)
    assert len(before) == 3
    processes.kill()
    await wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), WITHIN_S, "all ended"
    )
    assert "the parent is gone" in processes.log


async def test_one_that_cannot_start_ends_all_and_says_why(
    hub_process: HubProcess, redis_server: RedisProcess
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        hub_process.environment |= {
            "HUB_REDIS_URL": redis_server.url,
            "HUB_METRICS_PORT": str(taken.getsockname()[1]),
        }
        with suppress(AssertionError):  # the other may be ready for a moment, or never
            await asyncio.to_thread(hub_process.start, "--processes", "2")
        assert hub_process.process is not None
        assert await asyncio.to_thread(hub_process.process.wait, WITHIN_S) == 1
    assert "cannot serve metrics on port" in hub_process.log
    assert "Traceback" not in hub_process.log
