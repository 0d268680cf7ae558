"""The door of ``hub serve``: the process that serves the sign-ins."""

import asyncio
import json
import os
import re
import signal
import socket
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import httpx
import pytest
from websockets import Subprotocol
from websockets.asyncio.client import connect

from tests.agents.client import opened, said
from tests.agents.test_runs import slowly
from tests.cli.test_processes import WITHIN_S, free_ports, pids
from tests.faults.processes import wait_until
from tests.faults.test_kill import sign_in
from tests.parts.hub import PASSWORD, HubProcess
from tests.parts.redis import RedisProcess

ADA: Final = "ada@hub.example"
CLOSED: Final = (httpx.RemoteProtocolError, httpx.ReadError)
"""What a client sees whose connection is closed; not that it has waited long enough."""


@pytest.fixture(params=["redis", "memory"])
async def hub(hub_process: HubProcess, request: pytest.FixtureRequest) -> HubProcess:
    """A hub of one process with sockets, and its door; Ada has an account there."""
    if request.param == "redis":
        server: RedisProcess = request.getfixturevalue("redis_server")
        hub_process.environment["HUB_REDIS_URL"] = server.url
    hub_process.environment |= {
        "HUB_METRICS_PORT": str(free_ports(2)),
        "HUB_DRAIN_SECONDS": "2",
    }
    await asyncio.to_thread(hub_process.start, "--door")
    await wait_until(lambda: "a process is up" in hub_process.log, WITHIN_S, hub_process.log)
    await sign_in(hub_process, ADA, register=True)
    await _let_in_by_the_door(hub_process)
    return hub_process


async def counted(hub: HubProcess, outcome: str, of: int = 0) -> int:
    """How many connections became that, as the process of this number says, or the door."""
    page = await metrics(hub, 1 if outcome == "taken" else of)
    [value] = re.findall(rf'^hub_door_total\{{outcome="{outcome}"\}} (\S+)$', page, re.M)
    return int(float(value))


async def metrics(hub: HubProcess, of: int) -> str:
    port = int(hub.environment["HUB_METRICS_PORT"]) + of
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/metrics")).text


async def becomes(hub: HubProcess, outcome: str, count: int) -> None:
    """Wait until so many have become that."""
    async with asyncio.timeout(WITHIN_S):
        while await counted(hub, outcome) < count:  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.005)


def _door_of(hub: HubProcess) -> int:
    [door] = pids(hub)
    assert _is_door(door)
    return door


def _is_door(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline") as words:
        return "--far" in words.read().split("\0")


async def test_sign_ins_are_the_doors_and_sockets_are_not_until_both_end(hub: HubProcess) -> None:
    before = await counted(hub, "taken")
    assert before >= 1  # Ada has come in
    token = await sign_in(hub, ADA)
    processes = pids(hub)
    assert hub.process is not None
    async with opened(hub.url, token) as client:
        conversation = await client.conversation()
        await client.send(conversation, slowly(500))
        await client.says(conversation, "w2 ")
        assert await counted(hub, "taken") == before + 1 == await counted(hub, "handed")
        pages = [await metrics(hub, of) for of in (0, 1)]
        assert ["hub_connections 1.0" in page for page in pages] == [True, False]
        # Who is being let in as it ends is let in.
        asked = asyncio.create_task(sign_in(hub, ADA))
        await becomes(hub, "taken", before + 2)
        hub.send(signal.SIGTERM)
        assert await asked
        status = await asyncio.to_thread(hub.process.wait, WITHIN_S)
    assert status == 0, hub.log
    assert not set(processes) & set(pids(hub))
    assert "Traceback" not in hub.log


async def _let_in_by_the_door(hub: HubProcess) -> None:
    """Sign in until the door does it, of which who hands over is told in a moment."""
    async with asyncio.timeout(WITHIN_S):
        while not await counted(hub, "taken"):  # of another process
            await sign_in(hub, ADA)


async def test_without_its_door_a_hub_answers_sign_ins_until_it_has_another(
    hub: HubProcess,
) -> None:
    door = _door_of(hub)
    os.kill(door, signal.SIGSTOP)
    handed = await counted(hub, "handed")
    asked = asyncio.create_task(sign_in(hub, ADA))
    await becomes(hub, "handed", handed + 1)
    os.kill(door, signal.SIGKILL)
    with pytest.raises(CLOSED):  # and not left standing
        await asyncio.wait_for(asked, WITHIN_S)
    await wait_until(
        lambda: "the door is gone; who stood there was turned away" in hub.log, WITHIN_S, hub.log
    )
    assert await sign_in(hub, ADA)
    assert await counted(hub, "kept") == 1
    await wait_until(lambda: hub.log.count("a process is up") == 2, WITHIN_S, hub.log)
    await _let_in_by_the_door(hub)
    assert hub.stop() == 0


async def test_who_stands_at_a_door_that_dies_while_all_end_is_turned_away(
    hub_process: HubProcess, redis_server: RedisProcess
) -> None:
    first = free_ports(3)
    hub_process.environment |= {
        "HUB_REDIS_URL": redis_server.url,
        "HUB_METRICS_PORT": str(first),
        "HUB_DRAIN_SECONDS": "2",
    }
    await asyncio.to_thread(hub_process.start, "--processes", "2")
    await wait_until(lambda: "the hub is up" in hub_process.log, WITHIN_S, hub_process.log)
    await sign_in(hub_process, ADA, register=True)
    [door] = [pid for pid in pids(hub_process) if _is_door(pid)]
    late = next(pid for pid in pids(hub_process) if pid != door)

    async def handed() -> int:
        return sum([await counted(hub_process, "handed", of) for of in range(2)])

    before = await handed()
    os.kill(door, signal.SIGSTOP)
    asked = asyncio.create_task(sign_in(hub_process, ADA))
    async with asyncio.timeout(WITHIN_S):
        while await handed() == before:  # noqa: ASYNC110  # of other processes
            await asyncio.sleep(0.005)
    os.kill(late, signal.SIGSTOP)  # so that not all have ended
    hub_process.send(signal.SIGTERM)
    await wait_until(lambda: "the node drains" in hub_process.log, WITHIN_S, hub_process.log)
    os.kill(door, signal.SIGKILL)
    with pytest.raises(CLOSED):
        await asyncio.wait_for(asked, 5)
    os.kill(late, signal.SIGCONT)
    assert hub_process.process is not None
    await asyncio.to_thread(hub_process.process.wait, WITHIN_S)


@pytest.mark.parametrize("hub", ["memory"], indirect=True)
async def test_who_comes_in_by_the_door_and_the_sockets_are_of_one_hub(hub: HubProcess) -> None:
    taken = await counted(hub, "taken")
    account = {"email": ADA, "password": PASSWORD}
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as by_door:
        answer = (await by_door.post("/v1/auth/login", json=account)).raise_for_status()
        token = answer.json()["access_token"]
        by_door.headers["Authorization"] = f"Bearer {token}"
        async with opened(hub.url, token) as client:
            conversation = await client.conversation()
            sent = await by_door.post(
                f"/v1/conversations/{conversation}/messages",
                json={"client_message_id": "1", "content": "said at the door"},
            )
            sent.raise_for_status()
            await client.ended(conversation)
            assert said(client.events(conversation)) == "said at the door"
            log = await by_door.get(f"/v1/channels/conversation:{conversation}/history")
            assert [item["event"] for item in log.raise_for_status().json()["items"]] == (
                await client.past(conversation)
            )
            assert (await by_door.post("/v1/auth/logout", json={"everywhere": True})).is_success
            await client.until(lambda: client.closed, within=2)
            assert "session.revoked" in dict(client.notices)
        assert (await by_door.get("/v1/conversations")).status_code == 401
    assert await counted(hub, "taken") == taken + 1, "it was one connection, and the door's"


async def test_a_door_ends_at_once_with_the_memory_that_it_shares(hub_process: HubProcess) -> None:
    hub_process.environment["HUB_DRAIN_SECONDS"] = "60"
    await asyncio.to_thread(hub_process.start, "--door")
    await wait_until(lambda: "a process is up" in hub_process.log, WITHIN_S, hub_process.log)
    await sign_in(hub_process, ADA, register=True)
    door = _door_of(hub_process)
    by_door, token = await asyncio.to_thread(_kept_alive, hub_process.port)
    greeting = {"Authorization": f"Bearer {token}"}
    async with connect(
        f"ws://127.0.0.1:{hub_process.port}/ws",
        sock=by_door,
        additional_headers=greeting,
        subprotocols=[Subprotocol("agenthub.v1")],
    ) as client:
        assert "session.ready" in str(await client.recv())
        hub_process.kill()
        # It would be told to leave at some moment of a minute.
        await wait_until(lambda: not _lives(door), 5, hub_process.log)
    assert "Traceback" not in hub_process.log


def _kept_alive(port: int) -> tuple[socket.socket, str]:
    """A connection that has signed in, and so is the door's, and the token."""
    connection = HTTPConnection("127.0.0.1", port)
    body = json.dumps({"email": ADA, "password": PASSWORD})
    connection.request("POST", "/v1/auth/login", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    by_door: socket.socket = connection.sock
    by_door.setblocking(False)
    return by_door, str(answer["access_token"])


async def test_a_door_that_cannot_start_costs_a_hub_nothing_but_the_door(
    hub_process: HubProcess,
) -> None:
    first = free_ports(2)
    hub_process.environment["HUB_METRICS_PORT"] = str(first)
    with socket.create_server(("127.0.0.1", first + 1)):  # which the door wants
        await asyncio.to_thread(hub_process.start, "--door")
        assert await sign_in(hub_process, ADA, register=True)
        await wait_until(
            lambda: "a process died; another follows" in hub_process.log, WITHIN_S, hub_process.log
        )
        assert f"cannot serve metrics on port {first + 1}" in hub_process.log
    await wait_until(lambda: "a process is up" in hub_process.log, WITHIN_S, hub_process.log)
    await _let_in_by_the_door(hub_process)
    assert hub_process.stop() == 0


async def test_in_production_a_hub_has_a_door_unless_it_is_told_to_do_without(
    hub_process: HubProcess,
) -> None:
    hub_process.environment |= {
        "HUB_ENVIRONMENT": "production",
        "HUB_SMTP_URL": "smtp://127.0.0.1:9",
        "HUB_PUBLIC_URL": "https://hub.example",
        "HUB_BCRYPT_COST": "10",
    }
    for words, doors in ((("--no-door",), []), ((), [True])):
        await asyncio.to_thread(hub_process.start, *words)
        assert [_is_door(pid) for pid in pids(hub_process)] == doors
        assert hub_process.stop() == 0


def _lives(pid: int) -> bool:
    """Whether it has not ended, also where nobody asks for its status."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
