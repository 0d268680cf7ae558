"""``kill -9`` of the hub: what was acknowledged is durable, and every run gets its one end."""

import asyncio
import itertools
import random
from collections import Counter
from typing import Any

import httpx
import pytest
from hub_client import connect
from hub_client.retry import Backoff
from websockets.exceptions import ConnectionClosed

from tests.agents.agui import Reading, judge
from tests.agents.client import Client, Refused, opened, run_of
from tests.agents.test_runs import slowly
from tests.faults.processes import query, wait_until
from tests.parts.hub import PASSWORD, HubProcess
from tests.parts.redis import RedisProcess

QUICKLY = Backoff(draw=lambda: 0.2)


async def sign_in(hub: HubProcess, email: str, *, register: bool = False) -> str:
    account = {"email": email, "password": PASSWORD}
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as http:
        if register:
            (await http.post("/v1/auth/register", json=account)).raise_for_status()
        answer = (await http.post("/v1/auth/login", json=account)).raise_for_status()
    return str(answer.json()["access_token"])


async def start(hub: HubProcess) -> None:
    await asyncio.to_thread(hub.start)


async def test_what_was_acknowledged_just_before_a_kill_is_answered_after_the_restart(
    hub_process: HubProcess,
) -> None:
    await start(hub_process)
    token = await sign_in(hub_process, "ada@hub.example", register=True)
    async with opened(hub_process.url, token) as client:
        conversation = await client.conversation()
        await client.send(conversation, "the first question")
        await client.ended(conversation)
        at = {key: client.heard[-1][key] for key in ("epoch", "seq")}
        sent = await client.send(conversation, "and the second")
        hub_process.kill()
    left = {
        "messages": query(
            hub_process.data_dir,
            "SELECT id, turn, step, role, content, complete, run_id FROM messages "
            "ORDER BY turn, step",
        ),
        "runs": query(
            hub_process.data_dir, "SELECT id, turn, status, attempt, announced FROM runs"
        ),
    }
    asked = left["messages"][2]
    assert (asked["id"], asked["run_id"]) == (sent["message_id"], sent["run_id"])
    run = left["runs"][1]
    assert (run["id"], run["status"] in {"queued", "running"}) == (sent["run_id"], True)
    assert len(left["messages"]) == 3
    print(f"\nleft by the kill: {left}")

    await start(hub_process)
    async with opened(hub_process.url, token) as client:
        answered = await client.subscribe(conversation, at)
        print(f"on coming back: {answered}")
        assert not answered["recovered"]
        assert answered["epoch"] != at["epoch"]
        reading = Reading(answered["snapshot"])
        if len(reading.texts) == 3:  # else it was answered before we came back
            await client.until(
                lambda: sent["run_id"] in [run_of(end) for end in client.ends(conversation)]
            )
        # An end that nobody had noted yet is said in the new log too, and each once.
        ends = [run_of(end) for end in client.ends(conversation)]
        unnoted = {run["id"] for run in left["runs"] if not run["announced"]}
        assert len(ends) == len(set(ends))
        assert set(ends) <= unnoted
        print(f"and then: {client.heard}")
        for event in client.events(conversation):
            reading.feed(event)
        kept = await client.messages(conversation)
        assert reading.texts == {message["id"]: message["content"] for message in kept}
        assert [message["content"] for message in kept][2:] == ["and the second"] * 2
        judge(await client.past(conversation))
    # Its end is noted, so that no later start announces it again.
    await wait_until(
        lambda: not query(hub_process.data_dir, "SELECT id FROM runs WHERE NOT announced"),
        5,
        "all ends are noted",
    )


class Crowd:
    """People that send without pause, through one kill of the hub after another."""

    def __init__(self, hub: HubProcess, people: int) -> None:
        self.hub = hub
        self.names = [f"person-{number}@hub.example" for number in range(people)]
        self.tokens: list[str] = []
        self.conversations: list[str] = []
        self.acknowledged: dict[str, str] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self._numbers = itertools.count(1)

    async def settle_in(self) -> None:
        for name in self.names:
            self.tokens.append(await sign_in(self.hub, name, register=True))
            async with opened(self.hub.url, self.tokens[-1]) as client:
                self.conversations.append(await client.conversation(follow=False))

    async def live(self, number: int, first: asyncio.Event) -> None:
        """Send until the hub is gone."""
        conversation = self.conversations[number]
        try:
            async with opened(self.hub.url, self.tokens[number]) as client:
                try:
                    await client.subscribe(conversation, "start")
                    while True:
                        await self._send(client, conversation)
                        first.set()
                finally:
                    for heard in client.heard:
                        if heard["event"]["type"] in ("RUN_FINISHED", "RUN_ERROR"):
                            self.ends[heard["epoch"], run_of(heard["event"])] += 1
        except (ConnectionClosed, asyncio.CancelledError, OSError):
            return

    async def _send(self, client: Client, conversation: str) -> None:
        words = f"words {next(self._numbers)}"
        try:
            sent = await client.send(
                conversation, words, client_message_id=words, on_busy="interrupt"
            )
        except Refused as refused:
            if refused.reason != "conversation_busy":
                raise
            await asyncio.sleep(0.01)  # as many wait as may
            return
        self.acknowledged[sent["message_id"]] = sent["run_id"]


async def test_nothing_acknowledged_is_lost_and_every_run_ends_once_through_many_kills(
    hub_process: HubProcess,
) -> None:
    chance = random.Random(11)
    crowd = Crowd(hub_process, 3)
    await start(hub_process)
    await crowd.settle_in()
    for round in range(15):
        if round:
            await start(hub_process)
        first = asyncio.Event()
        lives = [asyncio.create_task(crowd.live(number, first)) for number in range(3)]
        async with asyncio.timeout(10):
            await first.wait()
        await asyncio.sleep(chance.uniform(0, 0.15))  # a random moment
        hub_process.kill()
        async with asyncio.timeout(10):
            await asyncio.gather(*lives)
    await start(hub_process)
    unended = "SELECT id FROM runs WHERE NOT announced OR status IN ('queued', 'running')"
    await wait_until(lambda: not query(hub_process.data_dir, unended), 30, "all runs have ended")
    messages = {row["id"] for row in query(hub_process.data_dir, "SELECT id FROM messages")}
    runs = {row["id"] for row in query(hub_process.data_dir, "SELECT id FROM runs")}
    assert len(crowd.acknowledged) >= 15
    assert set(crowd.acknowledged) <= messages
    assert set(crowd.acknowledged.values()) <= runs
    async with opened(hub_process.url, crowd.tokens[0]) as client:
        await client.subscribe(crowd.conversations[0], "start")
        judge(await client.past(crowd.conversations[0]))
    assert set(crowd.ends.values()) == {1}
    assert {run for _, run in crowd.ends} <= runs
    print(f"\n{len(crowd.acknowledged)} acknowledged messages, {len(runs)} runs, all there")


@pytest.mark.parametrize("backplane", ["memory", "redis"])
async def test_the_client_comes_back_after_a_kill_in_the_middle_of_an_answer(
    hub_process: HubProcess, backplane: str, request: pytest.FixtureRequest
) -> None:
    if backplane == "redis":
        server: RedisProcess = request.getfixturevalue("redis_server")
        hub_process.environment["HUB_REDIS_URL"] = server.url
    await start(hub_process)
    token = await sign_in(hub_process, "ada@hub.example", register=True)
    whole = "".join(f"w{at} " for at in range(20))
    async with connect(hub_process.url, token=token, backoff=QUICKLY) as hub:
        conversation = await hub.conversations.create(model="echo")
        events: list[Any] = []
        killed = False
        async with asyncio.timeout(40):
            async for event in conversation.send(slowly(20, 25)):
                events.append(event)
                if not killed and "w4 " in "".join(e.delta or "" for e in events):
                    killed = True
                    hub_process.kill()
                    await start(hub_process)
        assert events[-1].type == "RUN_FINISHED"
        assert sum(event.terminal for event in events) == 1
        kept = [message async for message in conversation.messages()]
        assert [(m.role, m.complete) for m in kept] == [("user", True), ("assistant", True)]
        assert kept[-1].content == whole
        last = [e.delta for e in events if e.message_id == kept[-1].id and e.delta]
        assert "".join(last) == whole
        if backplane == "memory":
            # Its log is gone. A snapshot or the database tells the rest, or the next log does, from
            # its beginning, if the client is back before the run goes on.
            assert events[-1].epoch != events[0].epoch
            anew = next(event for event in events if event.epoch == events[-1].epoch)
            recovered = any(event.recovered for event in events)
            assert recovered or anew.type in ("RUN_STARTED", "TEXT_MESSAGE_START")
        else:  # by position: nothing was made up, nothing repeated
            seqs = [event.seq for event in events]
            assert seqs == list(range(1, len(seqs) + 1))
            judge(event.data for event in events)
