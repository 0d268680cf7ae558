"""The door of ``hub serve``: the process that serves the sign-ins."""

import asyncio
import os
import re
import signal
from typing import Final

import httpx
import pytest

from tests.agents.client import opened
from tests.agents.test_runs import slowly
from tests.cli.test_processes import WITHIN_S, free_ports, pids
from tests.faults.processes import wait_until
from tests.faults.test_kill import sign_in
from tests.parts.hub import PASSWORD, HubProcess
from tests.parts.redis import RedisProcess

ADA: Final = "ada@hub.example"


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
    await asyncio.to_thread(hub_process.start, "--door", "--greet")
    await wait_until(lambda: "The hub is up at" in hub_process.log, WITHIN_S, hub_process.log)
    await sign_in(hub_process, ADA, register=True)
    return hub_process


async def counted(hub: HubProcess, outcome: str) -> int:
    """How many connections became that, as the process says that counts them."""
    page = await metrics(hub, of_door=outcome == "taken")
    [value] = re.findall(rf'^hub_door_total\{{outcome="{outcome}"\}} (\S+)$', page, re.M)
    return int(float(value))


async def metrics(hub: HubProcess, *, of_door: bool) -> str:
    port = int(hub.environment["HUB_METRICS_PORT"]) + of_door
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/metrics")).text


async def becomes(hub: HubProcess, outcome: str, count: int) -> None:
    """Wait until so many have become that."""
    async with asyncio.timeout(WITHIN_S):
        while await counted(hub, outcome) < count:  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.005)


def _door_of(hub: HubProcess) -> int:
    [door] = [pid for pid in pids(hub) if _is_door(pid)]
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
        pages = [await metrics(hub, of_door=of_door) for of_door in (False, True)]
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


async def test_without_its_door_a_hub_answers_sign_ins_until_it_has_another(
    hub: HubProcess,
) -> None:
    door = _door_of(hub)
    os.kill(door, signal.SIGSTOP)
    handed = await counted(hub, "handed")
    asked = asyncio.create_task(sign_in(hub, ADA))
    await becomes(hub, "handed", handed + 1)
    os.kill(door, signal.SIGKILL)
    with pytest.raises(httpx.TransportError):  # and not left standing
        await asyncio.wait_for(asked, WITHIN_S)
    await wait_until(
        lambda: "the door is gone; who stood there was turned away" in hub.log, WITHIN_S, hub.log
    )
    assert await sign_in(hub, ADA)
    assert await counted(hub, "kept") == 1
    await wait_until(lambda: hub.log.count("a process is up") == 3, WITHIN_S, hub.log)
    account = {"email": ADA, "password": PASSWORD}
    async with asyncio.timeout(WITHIN_S), httpx.AsyncClient(base_url=hub.url) as client:
        while not await counted(hub, "taken"):  # the other is told in a moment
            await client.post("/v1/auth/login", json=account, headers={"Connection": "close"})
    assert hub.stop() == 0
