"""What is taken away on one node ends what it allowed on another, mid-stream, and says why."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import httpx
import pytest
from sqlalchemy import delete
from sqlmodel import col, select, update

from hub.agents import permission
from hub.events.outbox import REPLAY_BYTES
from hub.ids import new_id
from hub.operations import resources
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    Conversation,
    LoginSession,
    Membership,
    Message,
    Role,
    RolePermission,
    Run,
    Tenant,
    User,
    now,
)
from hub.transports import sse
from tests.agents.agui import judge
from tests.agents.client import Client, opened
from tests.agents.test_runs import slowly
from tests.interaction.drivers import eventually
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.scripted import ScriptedModel
from tests.transports.test_closing import stalling

TRIALS: Final = 5
"""Of each kind."""
WITHIN_S: Final = 1.0
LOST_S: Final = 6.0
"""What a node is not told of it finds in less than this."""
RUNS: Final = ("channel:subscribe", "conversation:create", "message:send")


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of two nodes on one database, and on one Redis."""
    return {
        "HUB_DATABASE_URL": request.getfixturevalue(request.param),
        "HUB_REDIS_URL": request.getfixturevalue("redis_server").url,
        "HUB_RUN_CONCURRENCY": "64",
    }


@pytest.fixture
async def nodes(
    shared: dict[str, str], serve_hub: ServeHub
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    """Where things are changed, and where they are followed and answered."""
    async with serve_hub(worker=False, **shared) as here, serve_hub(**shared) as there:
        yield here, there


@dataclass
class Person:
    """A member of a tenant of their own, whose only role may do what a conversation takes."""

    user_id: str
    tenant_id: str
    session_id: str
    role_id: str
    token: str


async def person(hub: ServedHub) -> Person:
    services = hub.hub.services
    email = f"{new_id('u')}@hub.example".lower()
    await services.accounts.register(email, PASSWORD)
    signed_in = await services.accounts.login(email, PASSWORD)
    claims = services.tokens.read(signed_in.access_token)
    role = Role(id=new_id("ro"), tenant_id=claims.tenant_id, name="talker", rank=5)
    async with services.database.write(EVERY_TENANT) as session:
        session.add(role)
        await session.flush()
        session.add_all(RolePermission(role_id=role.id, permission=each) for each in RUNS)
        await session.exec(
            update(Membership)
            .where(col(Membership.user_id) == claims.user_id)
            .values(role_id=role.id)
        )
    return Person(
        claims.user_id, claims.tenant_id, claims.session_id, role.id, signed_in.access_token
    )


Taking = Callable[[ServedHub, Person, str], Awaitable[tuple[str, str]]]
"""Changes the rows; the kind and id to tell the authority of."""


async def session_revoked(hub: ServedHub, who: Person, _: str) -> tuple[str, str]:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        of = col(LoginSession.id) == who.session_id
        await session.exec(update(LoginSession).where(of).values(revoked_at=now()))
    return "session", who.session_id


async def user_disabled(hub: ServedHub, who: Person, _: str) -> tuple[str, str]:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        of = col(User.id) == who.user_id
        await session.exec(update(User).where(of).values(disabled_at=now()))
    return "user", who.user_id


async def tenant_suspended(hub: ServedHub, who: Person, _: str) -> tuple[str, str]:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        of = col(Tenant.id) == who.tenant_id
        await session.exec(update(Tenant).where(of).values(suspended_at=now()))
    return "tenant", who.tenant_id


async def membership_ended(hub: ServedHub, who: Person, _: str) -> tuple[str, str]:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(delete(Membership).where(col(Membership.user_id) == who.user_id))
    return "user", who.user_id


async def role_replaced(hub: ServedHub, who: Person, _: str) -> tuple[str, str]:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        empty = Role(id=new_id("ro"), tenant_id=who.tenant_id, name="nothing", rank=1)
        session.add(empty)
        await session.flush()
        of = col(Membership.user_id) == who.user_id
        await session.exec(update(Membership).where(of).values(role_id=empty.id))
    return "user", who.user_id


async def permission_removed(hub: ServedHub, who: Person, _: str) -> tuple[str, str]:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        of = col(RolePermission.role_id) == who.role_id
        await session.exec(delete(RolePermission).where(of))
    return "role", who.role_id


async def conversation_given_away(hub: ServedHub, who: Person, place: str) -> tuple[str, str]:
    """As a conversation that is shared no more: somebody else's, whom they may not read."""
    other = await person(hub)
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        of = col(Conversation.id) == place
        await session.exec(update(Conversation).where(of).values(owner_id=other.user_id))
    return "conversation", place


SESSION: Final[dict[Taking, str]] = {
    session_revoked: "session_revoked",
    user_disabled: "user_disabled",
    tenant_suspended: "tenant_suspended",
    membership_ended: "membership_ended",
}
"""What ends the whole session, and the reason that is told."""
CHANNEL: Final[dict[Taking, str]] = {
    role_replaced: "permission_denied",
    permission_removed: "permission_denied",
    conversation_given_away: "not_found",
}
"""What ends the subscription alone."""


@asynccontextmanager
async def stream(hub: ServedHub, token: str, conversation: str) -> AsyncIterator[httpx.Response]:
    path = sse.PATH.format(channel=f"conversation:{conversation}")
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
        client.stream("GET", path, headers=headers) as response,
    ):
        yield response


async def stream_ends(response: httpx.Response) -> tuple[float, str]:
    """When the stream was said to end, and why; nothing comes after that."""
    last = ""
    async for line in response.aiter_lines():
        last = line if line.startswith("data: ") else last
    return time.perf_counter(), str(json.loads(last.removeprefix("data: "))["reason"])


@dataclass
class Trial:
    """Seconds from the commit to each end; None where nothing ended."""

    client_s: float
    stream_s: float
    run_s: float | None


async def trial(here: ServedHub, there: ServedHub, take: Taking) -> Trial:
    """Take something away on one node while an answer is streaming on another."""
    reason = {**SESSION, **CHANNEL}[take]
    who = await person(here)
    run_error: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def on_log(channel: str, epoch: str, seq: int, data: bytes) -> None:
        event = json.loads(data)
        if event["type"] == "RUN_ERROR" and not run_error.done():
            assert event["code"] == "permission_denied"
            run_error.set_result(time.perf_counter())

    async with opened(there.url, who.token) as client:
        conversation = await client.conversation()
        backplane = here.hub.services.backplane
        await backplane.subscribe(f"conversation:{conversation}", on_log)
        async with stream(there, who.token, conversation) as response:
            ending = asyncio.create_task(stream_ends(response))
            await client.send(conversation, slowly(1_000, 5))
            await client.says(conversation, "w3 ")
            kind, id = await take(here, who, conversation)
            began = time.perf_counter()
            await here.hub.services.authority.changed(kind, id)
            await client.until(lambda: _end(client) is not None, WITHIN_S)
            client_s = time.perf_counter() - began
            assert _end(client) == reason
            heard = len(client.heard)
            ended_at, why = await asyncio.wait_for(ending, WITHIN_S)
            assert why == reason
            run_s = None
            if take is not session_revoked:
                run_s = await asyncio.wait_for(run_error, WITHIN_S) - began
            if take in SESSION:
                async with asyncio.timeout(WITHIN_S):
                    await client.socket.wait_closed()
                assert client.socket.close_code == 4503
            else:
                await client.call("session.ping")
            assert len(client.heard) == heard  # the run went on, and nothing of it came
        await backplane.unsubscribe(f"conversation:{conversation}")
        return Trial(client_s, ended_at - began, run_s)


def _end(client: Client) -> str | None:
    for method, params in client.notices:
        if method in ("session.revoked", "subscription.ended"):
            return str(params["reason"])
    return None


async def test_what_is_taken_away_on_another_node_ends_within_a_second(
    nodes: tuple[ServedHub, ServedHub], figures: Figures
) -> None:
    for take in [*SESSION, *CHANNEL]:
        trials = [await trial(*nodes, take) for _ in range(TRIALS)]
        figures(f"{take.__name__} on another node: {ends(trials, 'client_s', 'stream_s', 'run_s')}")


def ends(trials: Sequence[object], *what: str) -> str:
    """What ended when, in words: the least and the most of these attributes of trials. All were in
    time.
    """
    words = []
    for name in what:
        times = sorted(took for each in trials if (took := getattr(each, name)) is not None)
        if times:
            assert times[0] >= 0.0  # not before it was taken away
            assert times[-1] < WITHIN_S
            least, most = times[0] * 1e3, times[-1] * 1e3
            words.append(f"{name.removesuffix('_s')} {least:.0f} to {most:.0f} ms")
    return ", ".join(words)


@pytest.mark.parametrize("take", [membership_ended, conversation_given_away])
async def test_what_a_node_is_not_told_of_it_finds_and_the_words_of_a_run_are_kept(
    nodes: tuple[ServedHub, ServedHub], take: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((permission, "RECHECK_S"), (resources, "REMEMBERED_S")):
        monkeypatch.setattr(module, name, 0.2)
    here, there = nodes
    there.hub.services.watches._sweep_s = 0.2
    who = await person(here)
    async with opened(there.url, who.token) as client:
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(1_000, 5))
        await client.says(conversation, "w3 ")
        await take(here, who, conversation)  # and not a word of it
        run = await _ended(here, sent["run_id"])
        await client.until(lambda: _end(client) is not None, LOST_S)
        assert _end(client) == {**SESSION, **CHANNEL}[take]
    assert (run.status, run.error_code) == ("failed", "permission_denied")
    async with here.hub.services.database.read(EVERY_TENANT) as session:
        of = (col(Message.run_id) == run.id) & (col(Message.role) == "assistant")
        kept = (await session.exec(select(Message).where(of))).one()
    assert kept.content.startswith("w0 w1 w2 w3 ")
    assert not kept.complete


async def test_what_waits_behind_a_run_ends_without_a_word_of_the_model(
    nodes: tuple[ServedHub, ServedHub], scripted_model: ScriptedModel
) -> None:
    here, there = nodes
    who = await person(here)
    async with opened(there.url, who.token) as client:
        conversation = await client.conversation()
        await client.send(conversation, slowly(1_000, 5))
        waiting = [await client.send(conversation, f"waits {conversation} {n}") for n in range(3)]
        await client.says(conversation, "w3 ")
        asked = len(scripted_model.requests)
        await here.hub.services.authority.changed(*await user_disabled(here, who, conversation))
        for sent in waiting:
            run = await _ended(here, sent["run_id"])
            assert (run.status, run.error_code) == ("failed", "permission_denied")
    assert len(scripted_model.requests) == asked
    page = await here.hub.services.backplane.read(f"conversation:{conversation}", 0)
    judge(json.loads(entry.data) for entry in page.entries)


async def test_a_logout_leaves_the_run_that_was_asked_for(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    here, there = nodes
    who = await person(here)
    async with opened(there.url, who.token) as client:
        conversation = await client.conversation()
        sent = await client.send(conversation, slowly(30))
        await client.says(conversation, "w3 ")
        await here.hub.services.authority.changed(*await session_revoked(here, who, ""))
        await client.until(lambda: _end(client) == "session_revoked", WITHIN_S)
        assert (await _ended(here, sent["run_id"])).status == "succeeded"


async def test_a_replay_to_a_slow_reader_ends_in_the_middle(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    here, there = nodes
    who = await person(here)
    async with opened(there.url, who.token) as client:
        channel = f"conversation:{await client.conversation(follow=False)}"
        filler = json.dumps({"type": "CUSTOM", "name": "filler", "value": "x" * 16_000}).encode()
        backplane = here.hub.services.backplane
        for _ in range(480):  # under the log's 8 MiB, and more than the buffers on the way take
            await backplane.append(channel, filler)
        async with stalling(there, who.token) as slow:
            params = {"channel": channel, "since": "start"}
            frame = {"jsonrpc": "2.0", "id": 1, "method": "channel.subscribe", "params": params}
            await slow.send(json.dumps(frame))
            await eventually(partial(_waits, there))
            await here.hub.services.authority.changed(*await role_replaced(here, who, ""))
            await eventually(partial(_let_go, there, channel), WITHIN_S)
            frames = [json.loads(await slow.recv())]
            while frames[-1].get("method") != "subscription.ended":
                frames.append(json.loads(await slow.recv()))
            assert frames[-1]["params"] == {"channel": channel, "reason": "permission_denied"}
            assert sum(frame.get("method") == "event" for frame in frames) < 480
            await slow.send(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "session.ping"}))
            assert json.loads(await slow.recv())["id"] == 2  # nothing of the channel came after it


async def _waits(hub: ServedHub) -> bool:
    """Whether a replay waits for its reader."""
    return any(each._outbox.size > REPLAY_BYTES for each in hub.hub.socket.connections._all)


async def _let_go(hub: ServedHub, channel: str) -> bool:
    return not any(channel in each.subscriptions for each in hub.hub.socket.connections._all)


async def _ended(hub: ServedHub, run_id: str) -> Run:
    """Wait for the run's end, as its row has it."""

    async def look() -> bool:
        async with hub.hub.services.database.read(EVERY_TENANT) as session:
            run = await session.get(Run, run_id)
        found.extend([run] if run is not None and run.finished_at is not None else [])
        return bool(found)

    found: list[Run] = []
    await eventually(look)
    return found[0]
