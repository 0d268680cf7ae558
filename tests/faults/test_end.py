"""SIGTERM: the hub says goodbye, leaves nothing behind, and its runs are gone on with."""

import asyncio
import json
import signal
import time

from tests.agents.client import opened
from tests.agents.test_runs import slowly
from tests.faults.processes import children, query
from tests.faults.test_kill import sign_in, start
from tests.parts.hub import HubProcess


async def test_sigterm_closes_the_sockets_with_4001_and_leaves_nothing(
    hub_process: HubProcess,
) -> None:
    await start(hub_process)
    runtime = hub_process.data_dir / "hub.json"
    assert hub_process.process is not None
    pid = hub_process.process.pid
    assert json.loads(runtime.read_text()) == {"pid": pid, "url": hub_process.url}
    token = await sign_in(hub_process, "ada@hub.example", register=True)
    async with opened(hub_process.url, token) as busy, opened(hub_process.url, token) as idle:
        conversation = await busy.conversation()
        sent = await busy.send(conversation, slowly(500))
        await busy.says(conversation, "w2 ")
        before = children(pid)
        asked_at = time.monotonic()
        hub_process.send(signal.SIGTERM)
        status = await asyncio.to_thread(hub_process.process.wait, 15)
        took = time.monotonic() - asked_at
        for client in (busy, idle):
            await client._reading
            assert client.socket.close_code == 4001
            assert client.notices[-1][0] == "session.draining"
    assert (status, took < 5.0) == (0, True), hub_process.log
    assert not runtime.exists()
    assert [child for child in before if child in children(1) + children(pid)] == []
    (run,) = query(hub_process.data_dir, "SELECT id, status FROM runs")
    assert run == {"id": sent["run_id"], "status": "running"}

    await start(hub_process)
    async with opened(hub_process.url, token) as client:
        await client.subscribe(conversation, "start")
        await client.says(conversation, "w2 ")  # it was begun again
        await client.call("run.cancel", run_id=sent["run_id"])
        await client.ended(conversation)
    assert hub_process.stop() == 0
