"""Whose a thing is, and with whom it is shared: found within the tenant, remembered for a while,
forgotten when deleted.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, event, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.ids import new_id
from hub.operations import grants, resources
from hub.operations.grants import Whose
from hub.rbac.actor import Actor
from hub.rbac.sharing import Granted
from hub.storage.scope import EVERY_TENANT, Scope
from hub.storage.tables import Conversation, Grant, Membership
from tests.interaction.drivers import Socket, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub


async def _actor_and_conversation(hub: ServedHub) -> tuple[Actor, str]:
    session = await hub.sign_up("ada@hub.example")
    services = hub.hub.services
    actor = await services.authority.actor(services.tokens.read(session["access_token"]))
    async with open_socket(hub.ws_url, session["access_token"]) as socket:
        return actor, (await socket.ask("conversation.create"))["id"]


def _asked(hub: ServedHub, monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    """In which scopes the database is read from now on."""
    asked: list[Scope] = []
    read = hub.hub.services.database.read

    def counted(scope: Scope) -> AbstractAsyncContextManager[AsyncSession]:
        asked.append(scope)
        return read(scope)

    monkeypatch.setattr(hub.hub.services.database, "read", counted)
    return asked


async def _remove(hub: ServedHub, conversation: str) -> None:
    """As another node would: this one is not told."""
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        row = await session.get(Conversation, conversation)
        await session.delete(row)


@pytest.mark.parametrize("kind", ["conversation", "channel"])
async def test_what_another_node_deleted_is_not_found_once_the_time_is_over(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    name = conversation if kind == "conversation" else f"conversation:{conversation}"
    found = served_hub.hub.services.resources
    monkeypatch.setattr(resources, "REMEMBERED_S", 0.0)
    assert (await found.find(kind, name, actor)).owner_id == actor.user_id
    await _remove(served_hub, conversation)
    with pytest.raises(Fault, match="not_found"):
        await found.find(kind, name, actor)


async def test_what_is_remembered_is_bounded(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "REMEMBERED", 1)
    actor, conversation = await _actor_and_conversation(served_hub)
    found = served_hub.hub.services.resources
    await found.find("conversation", conversation, actor)
    await found.find("channel", f"conversation:{conversation}", actor)
    assert len(found._known) == 1


async def test_a_thousand_who_come_back_at_once_ask_the_database_once(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    services = served_hub.hub.services
    services.resources.changed("conversation", conversation)  # forgotten
    asked = _asked(served_hub, monkeypatch)
    found = await asyncio.gather(
        *(services.resources.find("conversation", conversation, actor) for _ in range(1_000))
    )
    assert {one.owner_id for one in found} == {actor.user_id}
    assert len(asked) == 1


async def test_what_changes_while_it_is_looked_up_is_looked_up_again_and_others_are_not(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    found = served_hub.hub.services.resources
    found.changed("conversation", conversation)  # forgotten
    changing = [conversation, new_id("c"), new_id("c"), new_id("c")]
    look_up, asked = grants.look_up, 0

    async def in_a_storm(session: AsyncSession, ids: Collection[str]) -> dict[str, Whose]:
        nonlocal asked
        asked += 1
        answer = await look_up(session, ids)
        found.changed("conversation", changing[min(asked, len(changing)) - 1])
        return answer

    monkeypatch.setattr(grants, "look_up", in_a_storm)
    async with asyncio.timeout(5):
        resource = await found.find("conversation", conversation, actor)
    assert (resource.owner_id, asked) == (actor.user_id, 2)
    assert not found._asked, "nothing is left of it"


async def test_many_are_looked_up_together_each_in_its_own_tenant(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = served_hub.hub.services
    owners: list[tuple[Actor, str]] = []
    for name in ("ada", "bob", "cyd"):
        session = await served_hub.sign_up(f"{name}@hub.example")
        actor = await services.authority.actor(services.tokens.read(session["access_token"]))
        async with open_socket(served_hub.ws_url, session["access_token"]) as socket:
            made = [await socket.ask("conversation.create") for _ in range(3)]
        owners += [(actor, each["id"]) for each in made]
    for _, conversation in owners:
        services.resources.changed("conversation", conversation)  # forgotten
    asked = _asked(served_hub, monkeypatch)

    async def owner_of(conversation: str, actor: Actor) -> str | None:
        try:
            return (await services.resources.find("conversation", conversation, actor)).owner_id
        except Fault as fault:
            return fault.reason

    actors = list(dict.fromkeys(actor for actor, _ in owners))
    places = [(conversation, actor) for _, conversation in owners for actor in actors]
    found = await asyncio.gather(*(owner_of(*place) for place in places))
    expected = [
        actor.user_id if (actor, conversation) in owners else "not_found"
        for conversation, actor in places
    ]
    assert found == expected
    assert len(asked) <= 2, "the first by itself, the others while it was asked for"


async def test_who_asks_while_the_database_is_away_is_told_so_and_asks_again(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    found = served_hub.hub.services.resources
    found.changed("conversation", conversation)

    async def away(session: AsyncSession, ids: Collection[str]) -> dict[str, Whose]:
        raise Fault("backend_unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(grants, "look_up", away)
        asking = [found.find("conversation", conversation, actor) for _ in range(3)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(getattr(answer, "reason", answer)) for answer in answers] == 3 * [
        "backend_unavailable"
    ]
    assert (await found.find("conversation", conversation, actor)).owner_id == actor.user_id


async def test_one_who_goes_away_leaves_the_others_their_answer(served_hub: ServedHub) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    resources = served_hub.hub.services.resources
    resources.changed("conversation", conversation)
    first, second = (
        asyncio.create_task(resources.find("conversation", conversation, actor)) for _ in range(2)
    )
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).owner_id == actor.user_id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_owner_is_that_of_the_row(served_hub: ServedHub) -> None:
    actor, conversation = await _actor_and_conversation(served_hub)
    async with served_hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(
            update(Conversation)
            .where(col(Conversation.id) == conversation)
            .values(tenant_id=actor.tenant_id, title="Sky")
        )
    found = await served_hub.hub.services.resources.find("conversation", conversation, actor)
    assert (found.tenant_id, found.owner_id) == (actor.tenant_id, actor.user_id)
    elsewhere = Actor(actor.user_id, "t_other", actor.session_id, actor.roles, actor.permissions)
    with pytest.raises(Fault, match="not_found"):
        await served_hub.hub.services.resources.find("conversation", conversation, elsewhere)


async def _make_members(hub: ServedHub) -> None:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(update(Membership).values(role_id="member"))
    await hub.hub.services.authority.changed("role", "owner")


@pytest.mark.parametrize("what", ["given away", "deleted"])
async def test_who_follows_what_another_node_gave_away_is_let_go_though_nothing_was_heard(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(resources, "LOOK_S", 0.1)
    async with serve_hub() as hub:
        ada, bob = [await hub.sign_up(f"{name}@hub.example") for name in ("ada", "bob")]
        async with open_socket(hub.ws_url, ada["access_token"]) as socket:
            conversation = (await socket.ask("conversation.create"))["id"]
            channel = f"conversation:{conversation}"
            await _make_members(hub)  # who owns a tenant may follow all of it
            await socket.ask("channel.subscribe", {"channel": channel})
            if what == "deleted":
                await _remove(hub, conversation)
            else:
                user_id = hub.hub.services.tokens.read(bob["access_token"]).user_id
                async with hub.hub.services.database.write(EVERY_TENANT) as session:
                    of = col(Conversation.id) == conversation
                    await session.exec(update(Conversation).where(of).values(owner_id=user_id))
            ended = await socket.notice("subscription.ended")
            assert ended == {"channel": channel, "reason": "not_found"}


# --- what is shared ---


async def _colleague(hub: ServedHub, of: Actor) -> tuple[Actor, str]:
    """A member of the same tenant, and their access token."""
    services = hub.hub.services
    await services.accounts.create_user("bob@hub.example", PASSWORD, of.tenant_id, "member")
    token = (await services.accounts.login("bob@hub.example", PASSWORD)).access_token
    return await services.authority.actor(services.tokens.read(token)), token


async def _grant(
    hub: ServedHub, of: Actor, conversation: str, to: Actor | str, until: datetime | None = None
) -> None:
    """To a user, or to the group with this id; as another node would: this one is not told."""
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        session.add(
            Grant(
                id=f"sh_{conversation[2:]}",
                tenant_id=of.tenant_id,
                subject_kind="group" if isinstance(to, str) else "user",
                subject_id=to if isinstance(to, str) else to.user_id,
                resource_kind="conversation",
                resource_id=conversation,
                access="reader",
                granted_by=of.user_id,
                expires_at=until,
            )
        )


async def _take_all(hub: ServedHub) -> None:
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(delete(Grant))


@contextmanager
def _statements(hub: ServedHub) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    asked: list[str] = []
    engine = hub.hub.services.database._reader.sync_engine

    def note(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_what_is_granted_comes_with_the_resource_for_the_one_who_has_it(
    served_hub: ServedHub,
) -> None:
    ada, conversation = await _actor_and_conversation(served_hub)
    bob, _ = await _colleague(served_hub, ada)
    end = datetime.now(UTC) + timedelta(hours=1)
    await _grant(served_hub, ada, conversation, bob, end)
    found = served_hub.hub.services.resources
    await served_hub.hub.services.authority.changed("conversation", conversation)
    for kind, name in (
        ("conversation", conversation),
        ("channel", f"conversation:{conversation}"),
    ):
        assert (await found.find(kind, name, bob)).granted == (Granted("reader", end),)
        assert (await found.find(kind, name, ada)).granted == ()
    elsewhere = Actor(bob.user_id, "t_other", bob.session_id, bob.roles, bob.permissions)
    with pytest.raises(Fault, match="not_found"):
        await found.find("conversation", conversation, elsewhere)


@pytest.mark.parametrize("asker", ["owner", "reader"])
async def test_whose_it_is_and_with_whom_it_is_shared_is_one_question_for_all_at_once(
    served_hub: ServedHub, asker: str
) -> None:
    ada, conversation = await _actor_and_conversation(served_hub)
    bob, _ = await _colleague(served_hub, ada)
    await _grant(served_hub, ada, conversation, bob)
    services = served_hub.hub.services
    await services.authority.changed("conversation", conversation)
    who = ada if asker == "owner" else bob
    with _statements(served_hub) as asked:
        for _ in range(2):
            await asyncio.gather(
                *(services.resources.find("conversation", conversation, who) for _ in range(50))
            )
    assert len([each for each in asked if "FROM conversations" in each]) == 1


@pytest.mark.parametrize("asker", ["owner", "in the group", "in another"])
async def test_what_is_granted_to_a_group_is_no_question_more_for_anybody(
    served_hub: ServedHub, asker: str
) -> None:
    ada, conversation = await _actor_and_conversation(served_hub)
    bob, _ = await _colleague(served_hub, ada)
    await _grant(served_hub, ada, conversation, "g_1")
    services = served_hub.hub.services
    await services.authority.changed("conversation", conversation)
    who = replace(ada if asker == "owner" else bob, groups=frozenset({"g_1", "g_2"}))
    if asker == "in another":
        who = replace(who, groups=frozenset({"g_2", "g_3"}))
    with _statements(served_hub) as asked:
        found = [await services.resources.find("conversation", conversation, who) for _ in "ab"]
    # The hub looks at other tables meanwhile: the audit trail, for those who follow it.
    assert len([each for each in asked if "conversations" in each or "grants" in each]) == 1
    granted = (Granted("reader"),) if asker == "in the group" else ()
    assert [each.granted for each in found] == [granted] * 2


async def test_a_change_while_it_is_asked_is_asked_again(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, conversation = await _actor_and_conversation(served_hub)
    bob, _ = await _colleague(served_hub, ada)
    await _grant(served_hub, ada, conversation, bob)
    services = served_hub.hub.services
    await services.authority.changed("conversation", conversation)
    asked, changed = asyncio.Event(), asyncio.Event()
    look_up = grants.look_up

    async def held_up(session: AsyncSession, ids: Collection[str]) -> dict[str, Whose]:
        found = await look_up(session, ids)
        asked.set()
        await changed.wait()
        return found

    monkeypatch.setattr(grants, "look_up", held_up)
    early = asyncio.create_task(services.resources.find("conversation", conversation, bob))
    await asked.wait()
    await _take_all(served_hub)
    await services.authority.changed("conversation", conversation)
    late = asyncio.create_task(services.resources.find("conversation", conversation, bob))
    changed.set()
    assert [each.granted for each in await asyncio.gather(early, late)] == [(), ()]


async def test_a_grant_ends_at_its_instant_for_who_follows_though_nobody_says_a_word(
    served_hub: ServedHub,
) -> None:
    ada, conversation = await _actor_and_conversation(served_hub)
    bob, token = await _colleague(served_hub, ada)
    async with open_socket(served_hub.ws_url, token) as socket:
        channel = await _follow_shared(served_hub, ada, bob, socket, conversation)
        end = datetime.now(UTC) + timedelta(seconds=0.5)
        async with served_hub.hub.services.database.write(EVERY_TENANT) as session:
            await session.exec(update(Grant).values(expires_at=end))
        await served_hub.hub.services.authority.changed("conversation", conversation)
        assert await socket.notice("subscription.ended") == {
            "channel": channel,
            "reason": "not_found",
        }
        late = datetime.now(UTC) - end
    assert timedelta(0) <= late < timedelta(seconds=1)


async def _follow_shared(hub: ServedHub, ada: Actor, bob: Actor, socket: Socket, name: str) -> str:
    channel = f"conversation:{name}"
    await _grant(hub, ada, name, bob)
    await hub.hub.services.authority.changed("conversation", name)
    await socket.ask("channel.subscribe", {"channel": channel})
    return channel


async def test_one_look_finds_all_that_was_taken_back_unheard(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "LOOK_S", 1_000)
    async with serve_hub() as hub:
        ada, first = await _actor_and_conversation(hub)
        bob, token = await _colleague(hub, ada)
        async with hub.hub.services.database.write(EVERY_TENANT) as session:
            second = Conversation(id=f"c_{first[2:][::-1]}", tenant_id=ada.tenant_id, owner_id="")
            second.owner_id = ada.user_id
            session.add(second)
        names = [first, second.id]
        async with open_socket(hub.ws_url, token) as socket:
            channels = {await _follow_shared(hub, ada, bob, socket, name) for name in names}
            await _take_all(hub)
            await hub.hub.services.resources._look_again(names)
            ended = [await socket.notice("subscription.ended") for _ in names]
        assert {each["channel"] for each in ended} == channels


async def test_what_was_forgotten_among_many_and_is_followed_is_looked_at_anew(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "LOOK_S", 0.1)
    monkeypatch.setattr(resources, "REMEMBERED", 1)
    async with serve_hub() as hub:
        ada, conversation = await _actor_and_conversation(hub)
        bob, token = await _colleague(hub, ada)
        async with open_socket(hub.ws_url, token) as socket:
            await _follow_shared(hub, ada, bob, socket, conversation)
            other = (await socket.ask("conversation.create"))["id"]
            await socket.ask("conversation.get", {"conversation_id": other})
            await _take_all(hub)
            await socket.ask("conversation.get", {"conversation_id": other})
            assert (await socket.notice("subscription.ended"))["reason"] == "not_found"


async def test_a_grant_that_is_not_asked_for_any_more_keeps_no_timer(served_hub: ServedHub) -> None:
    ada, conversation = await _actor_and_conversation(served_hub)
    bob, _ = await _colleague(served_hub, ada)
    await _grant(served_hub, ada, conversation, bob, datetime.now(UTC) + timedelta(days=1))
    services = served_hub.hub.services
    await services.authority.changed("conversation", conversation)
    await services.resources.find("conversation", conversation, bob)
    assert len(services.resources._expiring._when) == 1
    await services.authority.changed("conversation", conversation)
    assert not services.resources._expiring._when
