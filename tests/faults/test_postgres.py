"""PostgreSQL crashes and comes back under a hub that serves."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from hub.storage import schema
from tests.agents.client import Client, Refused, opened
from tests.agents.conftest import someone
from tests.agents.test_runs import slowly
from tests.faults.following import Following, ready, report
from tests.faults.processes import wait_until
from tests.parts.figures import Figures
from tests.parts.hub import ServeHub
from tests.parts.postgres import PostgresCluster, PostgresServer


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
    own_postgres: PostgresCluster, serve_hub: ServeHub, figures: Figures
) -> None:
    server = PostgresServer(own_postgres.port, "")
    admin: asyncpg.Connection = await server.admin()
    # The server of the tests is careless for their speed's sake. This one is not to be.
    await admin.execute("ALTER DATABASE postgres SET synchronous_commit TO on")
    await admin.close()
    async with (
        serve_hub(HUB_DATABASE_URL=server.url("postgres")) as hub,
        opened(hub.url, await someone(hub)) as client,
    ):
        conversation = await client.conversation(follow=False)
        other = await client.conversation(follow=False)
        async with Following(client, conversation) as reader:
            sent = await client.send(conversation, slowly(60, 50))
            await reader.says("w3 ")
            acknowledged: dict[str, str] = {}
            sending = asyncio.create_task(_send_on(client, other, acknowledged))
            await wait_until(lambda: len(acknowledged) >= 5, 10, "five messages are acknowledged")
            await asyncio.to_thread(own_postgres.stop, "immediate")
            gone_at = time.monotonic()
            noticed = await ready(hub.url, False, 2.5)
            refused_at = len(acknowledged)
            await asyncio.to_thread(own_postgres.start)
            started_at = time.monotonic()
            back = await ready(hub.url, True, 10)
            await wait_until(lambda: len(acknowledged) > refused_at, 10, "another is")
            again = time.monotonic() - started_at
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            # The model went on, and its answer was kept when that was possible again.
            await reader.ended(sent["run_id"], 20)
            kept = await reader.agrees()
            assert kept[-1]["content"] == "".join(f"w{at} " for at in range(60))
            pause = reader.longest_pause(gone_at)
            found: set[str] = set()
            page = await client.call("message.list", conversation_id=other, limit=200)
            found |= {message["id"] for message in page["items"]}
            assert set(acknowledged) <= found
            report(
                figures,
                "PostgreSQL crashed",
                said_by_the_node_after=noticed,
                ready_again_after=back,
                messages_taken_again_after=again,
                pause_of_a_stream=pause,
            )


async def _send_on(client: Client, conversation: str, acknowledged: dict[str, str]) -> None:
    number = 0
    while True:
        number += 1
        try:
            sent = await client.send(conversation, f"message {number}", on_busy="interrupt")
        except Refused as refused:
            assert refused.reason in ("backend_unavailable", "conversation_busy")  # noqa: PT017
        else:
            acknowledged[sent["message_id"]] = sent["run_id"]
        await asyncio.sleep(0.05)
