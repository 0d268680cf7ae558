"""What is shared and taken back on one node ends on another, in the middle of an answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import delete, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.agents import permission
from hub.identity.access import groups
from hub.identity.access.shares import forget_group_shares
from hub.ids import new_id
from hub.operations import resources
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Grant
from hub.transports import sse
from tests.agents.client import Client, Refused, opened
from tests.agents.test_runs import slowly
from tests.faults.test_revocation import ends, stream, stream_ends
from tests.interaction.drivers import eventually
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, ServedHub, ServeHub

TRIALS: Final = 2
"""Of each kind."""
WITHIN_S: Final = 1.0


@dataclass
class Person:
    user_id: str
    token: str


@dataclass
class House:
    """Two nodes on one database and one Redis: ada shares on ``here``, bob follows on ``there``."""

    here: ServedHub
    there: ServedHub
    ada: Person
    bob: Person


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of two nodes on one database, and on one Redis."""
    return {
        "HUB_DATABASE_URL": request.getfixturevalue(request.param),
        "HUB_REDIS_URL": request.getfixturevalue("redis_server").url,
        "HUB_RUN_CONCURRENCY": "64",
    }


@pytest.fixture
async def house(shared: dict[str, str], serve_hub: ServeHub) -> AsyncIterator[House]:
    async with serve_hub(worker=False, **shared) as here, serve_hub(**shared) as there:
        ada = await _person(here, None)
        tenant_id = here.hub.services.tokens.read(ada.token).tenant_id
        yield House(here, there, ada, await _person(here, tenant_id))


async def _person(hub: ServedHub, tenant_id: str | None) -> Person:
    services, email = hub.hub.services, f"{new_id('u')}@hub.example".lower()
    if tenant_id is None:
        await services.accounts.register(email, PASSWORD)
    else:
        await services.accounts.create_user(email, PASSWORD, tenant_id, "member")
    token = (await services.accounts.login(email, PASSWORD)).access_token
    return Person(services.tokens.read(token).user_id, token)


@dataclass
class Shared:
    """What ada shares with bob, or with a group of which he is."""

    house: House
    ada: Client
    conversation: str
    group: str | None = None

    @property
    def whom(self) -> dict[str, str]:
        return {"group_id": self.group} if self.group else {"user_id": self.house.bob.user_id}

    async def share(self, access: str, **more: Any) -> None:
        named = {"conversation_id": self.conversation, **self.whom}
        await self.ada.call("conversation.share", **named, access=access, **more)


Taking = Callable[[Shared], Awaitable[float]]
"""Takes back what bob was given; when that was, of ``time.time()``."""


async def unshared(it: Shared) -> float:
    began = time.time()
    await it.ada.call("conversation.unshare", conversation_id=it.conversation, **it.whom)
    return began


async def expired(it: Shared) -> float:
    """Nobody says a word at its end."""
    end = datetime.now(UTC) + timedelta(seconds=0.8)
    await it.share("writer", expires_at=end.isoformat())
    return end.timestamp()


async def made_a_reader(it: Shared) -> float:
    began = time.time()
    await it.share("reader")
    return began


async def taken_out(it: Shared) -> float:
    began = time.time()
    await it.ada.call("group.remove", **it.whom, user_id=it.house.bob.user_id)
    return began


async def group_deleted(it: Shared) -> float:
    began = time.time()
    await it.ada.call("group.delete", **it.whom)
    return began


@dataclass
class Trial:
    """Seconds from the taking back to each end; None where nothing ended."""

    client_s: float | None
    stream_s: float | None
    run_s: float | None
    left_s: float | None


async def _group(ada: Client, bob: Person) -> str:
    """A new group, with bob in it."""
    group = str((await ada.call("group.create", name=new_id("g")))["id"])
    await ada.call("group.add", group_id=group, user_id=bob.user_id)
    return group


async def trial(house: House, take: Taking, *, by_group: bool) -> Trial:
    """Take the share back on one node while an answer to bob is streaming on another."""
    async with (
        opened(house.here.url, house.ada.token) as ada,
        opened(house.there.url, house.bob.token) as bob,
    ):
        conversation = await ada.conversation(follow=False)
        channel = f"conversation:{conversation}"
        await ada.call("channel.subscribe", channel=channel, presence=True)
        it = Shared(house, ada, conversation, await _group(ada, house.bob) if by_group else None)
        await it.share("writer")
        listed = (await bob.call("conversation.list", shared=True))["items"]
        assert [(each["id"], each["access"]) for each in listed] == [(conversation, "writer")]
        await bob.call("channel.subscribe", channel=channel, presence=True)
        async with stream(house.there, house.bob.token, conversation) as response:
            ending = asyncio.create_task(stream_ends(response))
            sent = await bob.send(conversation, slowly(1_000, 5))
            await bob.says(conversation, "w3 ")
            began = await take(it)
            within = max(0.0, began - time.time()) + WITHIN_S
            if take is made_a_reader:
                run_s = await _after(began, ada.ended(conversation, within=within))
                await bob.ended(conversation)
                assert not ending.done()
                assert not _ends(bob)
                ending.cancel()
                await asyncio.wait({ending})
                await unshared(it)
                return Trial(None, None, run_s, None)
            each = await asyncio.gather(
                _after(began, bob.until(lambda: _ends(bob), within)),
                _after(began, asyncio.wait_for(ending, within)),
                _after(began, ada.ended(conversation, within=within)),
                _after(began, ada.until(lambda: "presence.left" in _named(ada), within)),
            )
            assert _ends(bob) == [{"channel": channel, "reason": "not_found"}]
            assert ending.result()[1] == "not_found"
            assert ada.ends(conversation)[0]["code"] == "permission_denied"
            heard = len(bob.heard)
            with pytest.raises(Refused) as refusal:
                await bob.call("run.get", run_id=sent["run_id"])
            assert refusal.value.reason == "not_found"
            await ada.send(conversation, "And now among ourselves.")
            await ada.ended(conversation, 2)
            assert len(bob.heard) == heard
        return Trial(*each)


async def _after(began: float, end: Awaitable[object]) -> float:
    await end
    return time.time() - began


def _ends(client: Client) -> list[dict[str, Any]]:
    return [params for method, params in client.notices if method == "subscription.ended"]


def _named(client: Client) -> list[str]:
    return [str(heard["event"].get("name")) for heard in client.heard]


@pytest.mark.parametrize("by_group", [False, True], ids=["user", "group"])
async def test_what_is_taken_back_on_another_node_ends_within_a_second(
    house: House, by_group: bool, figures: Figures
) -> None:
    for take in (unshared, expired, made_a_reader, *((taken_out, group_deleted) * by_group)):
        trials = [await trial(house, take, by_group=by_group) for _ in range(TRIALS)]
        took = ends(trials, "client_s", "stream_s", "run_s", "left_s")
        figures(f"{take.__name__} on another node: {took}")


async def test_who_follows_what_is_deleted_on_another_node_is_let_go(house: House) -> None:
    async with (
        opened(house.here.url, house.ada.token) as ada,
        opened(house.there.url, house.bob.token) as bob,
    ):
        conversation = await ada.conversation()
        await Shared(house, ada, conversation).share("reader")
        await bob.subscribe(conversation)
        async with stream(house.there, house.bob.token, conversation) as response:
            ending = asyncio.create_task(stream_ends(response))
            await ada.call("conversation.delete", conversation_id=conversation)
            await bob.until(lambda: _ends(bob), WITHIN_S)
            _, why = await asyncio.wait_for(ending, WITHIN_S)
        assert (_ends(bob)[0]["reason"], why) == ("not_found", "not_found")


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (permission, sse):
        monkeypatch.setattr(module, "RECHECK_S", 0.2)
    for name in ("REMEMBERED_S", "LOOK_S"):
        monkeypatch.setattr(resources, name, 0.2)


async def test_what_a_node_is_not_told_of_a_share_it_finds(
    looking_often: None, house: House
) -> None:
    for forget in (delete(Grant), update(Grant).values(expires_at=datetime.now(UTC))):
        await _found_unheard(house, forget)


async def _found_unheard(house: House, forget: Any) -> None:
    async with (
        opened(house.here.url, house.ada.token) as ada,
        opened(house.there.url, house.bob.token) as bob,
    ):
        conversation = await ada.conversation()
        await Shared(house, ada, conversation).share("writer")
        await bob.subscribe(conversation)
        async with stream(house.there, house.bob.token, conversation) as response:
            ending = asyncio.create_task(stream_ends(response))
            sent = await bob.send(conversation, slowly(1_000, 5))
            await bob.says(conversation, "w3 ")
            async with house.here.hub.services.database.write(EVERY_TENANT) as session:
                await session.exec(forget.where(col(Grant.resource_id) == conversation))
            # And not a word of it. The first look may be 4 s away still: nodes pause between two.
            await bob.until(lambda: _ends(bob), 6.0)
            _, why = await asyncio.wait_for(ending, 6.0)
            assert (_ends(bob)[0]["reason"], why) == ("not_found", "not_found")

        async def ended() -> bool:
            run = await ada.call("run.get", run_id=sent["run_id"])
            return bool(run["status"] == "failed" and run["error"]["code"] == "permission_denied")

        await eventually(ended)


async def test_who_is_in_another_group_that_has_it_follows_on(house: House) -> None:
    async with (
        opened(house.here.url, house.ada.token) as ada,
        opened(house.there.url, house.bob.token) as bob,
    ):
        conversation = await ada.conversation()
        leaving, staying = [
            Shared(house, ada, conversation, await _group(ada, house.bob)) for _ in range(2)
        ]
        await leaving.share("writer")
        await staying.share("reader")
        await bob.subscribe(conversation)
        await group_deleted(leaving)

        async def may_only_read() -> bool:
            found = await bob.call("conversation.get", conversation_id=conversation)
            return bool(found["access"] == "reader")

        await eventually(may_only_read)
        await ada.send(conversation, "Are you there?")
        await bob.ended(conversation)
        assert not _ends(bob)


async def test_a_group_that_is_shared_with_while_it_is_deleted_leaves_no_share(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten, go_on = asyncio.Event(), asyncio.Event()
    forget = forget_group_shares

    async def held_up(session: AsyncSession, group_id: str) -> list[str]:
        found = await forget(session, group_id)
        forgotten.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(groups, "forget_group_shares", held_up)
    async with (
        opened(house.here.url, house.ada.token) as ada,
        opened(house.there.url, house.ada.token) as elsewhere,
    ):
        conversation = await ada.conversation(follow=False)
        group = await _group(ada, house.bob)
        deleting = asyncio.create_task(group_deleted(Shared(house, ada, conversation, group)))
        await forgotten.wait()
        sharing = asyncio.create_task(Shared(house, elsewhere, conversation, group).share("reader"))
        await asyncio.wait({sharing}, timeout=0.3)  # done too early, if it were not made to wait
        go_on.set()
        await deleting
        with pytest.raises(Refused) as refusal:
            await sharing
        assert refusal.value.reason == "not_found"
        async with house.here.hub.services.database.read(EVERY_TENANT) as session:
            assert (await session.exec(select(Grant))).all() == []
