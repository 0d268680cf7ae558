"""PostgreSQL crashes and comes back under two nodes that serve."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from hub.storage import schema
from tests.agents.client import opened
from tests.agents.conftest import someone
from tests.agents.test_runs import slowly
from tests.faults.following import Following, ready, report
from tests.faults.sending import two_senders
from tests.parts.figures import Figures
from tests.parts.hub import ServeHub
from tests.parts.postgres import PostgresCluster, PostgresServer
from tests.parts.redis import RedisProcess


@pytest.fixture
def own_postgres(postgres_programs: Path) -> Iterator[PostgresCluster]:
    """A server of this test alone, to be crashed; its database ``postgres`` is migrated."""
    cluster = PostgresCluster(postgres_programs)
    try:
        cluster.start()
        schema.upgrade(make_url(PostgresServer(cluster.port, "").url("postgres")))
        yield cluster
    finally:
        if cluster.running:
            cluster.stop()
        cluster.remove()


async def test_what_was_acknowledged_survives_a_crash_of_postgresql_and_runs_end(
    own_postgres: PostgresCluster, redis_server: RedisProcess, serve_hub: ServeHub, figures: Figures
) -> None:
    server = PostgresServer(own_postgres.port, "")
    admin: asyncpg.Connection = await server.admin()
    # The server of the tests is careless for their speed's sake. This one is not to be.
    await admin.execute("ALTER DATABASE postgres SET synchronous_commit TO on")
    await admin.close()
    settings = {"HUB_DATABASE_URL": server.url("postgres"), "HUB_REDIS_URL": redis_server.url}
    async with (
        serve_hub(**settings) as hub,
        serve_hub(**settings) as another,
        opened(hub.url, token := await someone(hub)) as client,
        opened(another.url, token) as there,
        AsyncExitStack() as stack,
    ):
        conversation = await client.conversation(follow=False)
        async with Following(client, conversation) as reader, Following(there, conversation) as far:
            sent = await client.send(conversation, slowly(60, 50))
            await asyncio.gather(reader.says("w3 "), far.says("w3 "))
            senders = await stack.enter_async_context(two_senders(hub.url, token))
            await senders[0].until(lambda: len(senders[0].acknowledged) >= 5)
            await asyncio.to_thread(own_postgres.stop, "immediate")
            gone_at = time.monotonic()
            noticed = max(
                await asyncio.gather(*(ready(node.url, False, 2.5) for node in (hub, another)))
            )
            await asyncio.to_thread(own_postgres.start)
            started_at = time.monotonic()
            back = max(
                await asyncio.gather(*(ready(node.url, True, 10) for node in (hub, another)))
            )
            taken = max([await each.takes_again() for each in senders]) - started_at
            # The model went on, and its answer was kept when that was possible again.
            pauses = []
            for each in (reader, far):
                await each.ended(sent["run_id"], 20)
                kept = await each.agrees()
                assert kept[-1]["content"] == "".join(f"w{at} " for at in range(60))
                # One log, one subscription: nothing was missed and nothing came twice.
                assert (len(each.joins), len(each.terminal(sent["run_id"]))) == (1, 1)
                pauses.append(each.longest_pause(gone_at))
            for sender in senders:
                await sender.stop()
                await sender.judge(there, 0.0)
            report(
                figures,
                "PostgreSQL crashed",
                said_by_the_nodes_after=noticed,
                ready_again_after=back,
                messages_taken_again_after=taken,
                pause_of_a_stream=max(pauses),
            )
