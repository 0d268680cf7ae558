"""Several nodes: one is killed, and one cannot reach Redis while the others can."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.agents.client import opened
from tests.agents.test_runs import slowly
from tests.faults.following import Following, ready, report
from tests.faults.sending import two_senders
from tests.faults.test_kill import sign_in, start
from tests.interaction.drivers import eventually
from tests.parts.figures import Figures
from tests.parts.hub import HubProcess
from tests.parts.namespace import Namespace
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess

SECRET = secrets.token_urlsafe(48)
TAKEN_OVER_S = 9.0 + 3.0 + 10.0
"""The lease, a sweep, and what a loaded machine takes."""


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """What the nodes share; SQLite unless the test says otherwise."""
    url: str = request.getfixturevalue(getattr(request, "param", "sqlite_url"))
    return url


@pytest.fixture
def nodes(hub_process: HubProcess, tmp_path: Path, database_url: str) -> Iterator[list[HubProcess]]:
    """Two nodes on one database, not started yet."""
    hub_process.environment |= {"HUB_DATABASE_URL": database_url, "JWT_SECRET_KEY": SECRET}
    other = replace(
        hub_process,
        data_dir=tmp_path / "other",
        port=free_port(),
        environment=dict(hub_process.environment),
    )
    yield [hub_process, other]
    if other.process is not None and other.process.poll() is None:
        other.kill()


@pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
async def test_clients_and_runs_of_a_killed_node_go_on_at_another_where_they_were(
    nodes: list[HubProcess], redis_server: RedisProcess, figures: Figures
) -> None:
    one, two = nodes
    for node in nodes:
        node.environment["HUB_REDIS_URL"] = redis_server.url
    two.environment["HUB_RUN_CONCURRENCY"] = "2"
    await start(two)
    token = await sign_in(two, "ada@hub.example", register=True)
    readers: list[Following] = []
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(opened(two.url, token))
        conversation, *slow = [await there.conversation(follow=False) for _ in range(3)]
        # The run that is read is the other node's, and goes on when this one is killed.
        sent = await there.send(conversation, slowly(1_000, 100))
        await start(one)
        one_stack = await stack.enter_async_context(AsyncExitStack())
        for _ in range(5):
            client = await one_stack.enter_async_context(opened(one.url, token))
            reader = Following(client, conversation, "start")
            readers.append(await one_stack.enter_async_context(reader))
        senders = await one_stack.enter_async_context(two_senders(one.url, token))
        # The other node has room for one run more, so that one of these at least is this one's.
        followed = [await stack.enter_async_context(Following(there, each)) for each in slow]
        runs = [await client.send(each, slowly(60, 40)) for each in slow]
        for reader in (*readers, *followed):
            await reader.says("w5 ")
        one.kill()
        killed_at = time.monotonic()
        await one_stack.aclose()
        again: list[Following] = []
        for reader in readers:
            client = await stack.enter_async_context(opened(two.url, token))
            again.append(
                await stack.enter_async_context(
                    Following(client, conversation, reader.at, reader.reading)
                )
            )
        for reader in again:
            assert reader.joins[0]["recovered"]
            await reader.until(lambda reader=reader: reader.events)
        live = time.monotonic() - killed_at

        async def taken_over() -> bool:
            return any(map(_started_again, followed))

        await eventually(taken_over, TAKEN_OVER_S)
        taken = time.monotonic() - killed_at
        for reader, run in zip(followed, runs, strict=True):
            await reader.ended(run["run_id"])
            assert len(reader.terminal(run["run_id"])) == 1
            assert (await reader.agrees())[-1]["content"] == "".join(f"w{at} " for at in range(60))
        await there.call("run.cancel", run_id=sent["run_id"])
        whole = "".join(f"w{at} " for at in range(1_000))
        for reader in again:
            await reader.ended(sent["run_id"])
            assert len(reader.terminal(sent["run_id"])) == 1
            (answer,) = (await reader.agrees())[1:]
            assert whole.startswith(answer["content"])
        for sender in senders:
            await sender.judge(there, 0.0)
        report(
            figures,
            "a node killed",
            all_its_clients_live_on_another_after=live,
            its_runs_taken_over_after=taken,
        )


async def test_a_node_that_is_cut_off_from_redis_goes_on_and_gives_way_when_it_is_back(
    nodes: list[HubProcess], namespace: Namespace, redis_folder: Path, figures: Figures
) -> None:
    address = namespace.near(0)
    redis = RedisProcess(
        redis_folder / "cut-off", "--bind", "127.0.0.1", address, "--protected-mode", "no"
    )
    cut_off, other = nodes
    async with AsyncExitStack() as stack:
        stack.callback(redis.stop)
        redis.start()
        # Clients reach the node by one link, the node Redis by the other.
        cut_off.host = namespace.far(1)
        cut_off.within = tuple(namespace.command())
        cut_off.environment["HUB_REDIS_URL"] = f"redis://{address}:{redis.port}/0"
        cut_off.environment["HUB_REGISTRATION"] = "open"
        model = cut_off.environment["OLLAMA_HOST"]
        door = await stack.enter_async_context(relay(namespace.near(1), model))
        cut_off.environment["OLLAMA_HOST"] = door
        other.environment["HUB_REDIS_URL"] = redis.url
        await start(cut_off)
        token = await sign_in(cut_off, "ada@hub.example", register=True)
        here = await stack.enter_async_context(opened(cut_off.url, token))
        conversation = await here.conversation(follow=False)
        mine = await stack.enter_async_context(Following(here, conversation))
        sent = await here.send(conversation, slowly(1_000, 150))
        await mine.says("w3 ")
        await start(other)  # now, so that it did not take the run
        there = await stack.enter_async_context(opened(other.url, token))
        theirs = await stack.enter_async_context(Following(there, conversation, "start"))
        senders = await stack.enter_async_context(two_senders(cut_off.url, token))
        namespace.cut(0)
        cut_at = time.monotonic()
        noticed = await ready(cut_off.url, False, 2.0)
        await mine.until(lambda: len(mine.joins) > 1)
        pause = mine.longest_pause(cut_at)
        text = "kept, though nobody can be told"
        asked = await here.send(conversation, text)
        restarted = partial(_started_again, theirs)
        await theirs.until(restarted, TAKEN_OVER_S)
        taken = time.monotonic() - cut_at
        local = len(mine.events)
        await mine.until(lambda: len(mine.events) > local + 3)  # it goes on for who reads here
        namespace.mend(0)
        mended_at = time.monotonic()
        back = await ready(cut_off.url, True, 10)
        await mine.until(lambda: mine.joins[-1]["epoch"] == theirs.joins[0]["epoch"])
        shared = time.monotonic() - mended_at
        await there.call("run.cancel", run_id=sent["run_id"])
        for reader in (mine, theirs):
            await reader.ended(asked["run_id"])
            assert len(reader.terminal(sent["run_id"])) == 1
            kept = await reader.agrees()
            assert [message["content"] for message in kept][2:] == [text, text]
        run = await there.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["attempt"]) == ("cancelled", 2)
        assert len(theirs.joins) == 1
        assert sum(sender.under_way(cut_at, cut_at + noticed) for sender in senders) > 0
        for sender in senders:
            await sender.takes_again()
            await sender.stop()
            await sender.judge(there, 0.0)
        report(
            figures,
            "a node cut off from Redis",
            said_by_the_node_after=noticed,
            pause_of_its_stream=pause,
            run_taken_over_after=taken,
            ready_again_after=back,
            shared_log_read_again_after=shared,
        )


@asynccontextmanager
async def relay(host: str, url: str) -> AsyncIterator[str]:
    """A door at this address to what serves at the URL on loopback; its URL."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        await asyncio.gather(copy(reader, outer), copy(inner, writer))

    server = await asyncio.start_server(accept, host, 0)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def _started_again(reader: Following) -> bool:
    return any(event["type"] == "MESSAGES_SNAPSHOT" for _, event in reader.events)
