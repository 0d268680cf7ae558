"""One's own account, and those of others, through every transport."""

from collections import Counter
from typing import Any

import httpx
import pytest
from sqlmodel import col, select
from websockets.exceptions import ConnectionClosed

from hub.ids import new_id
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Message, ProviderIdentity, Run, User
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, eventually, open_socket
from tests.parts.hub import PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = "a better horse and battery"


async def login(world: World, person: Person, password: str = PASSWORD) -> httpx.Response:
    async with httpx.AsyncClient(base_url=world.hub.url, trust_env=False) as client:
        account = {"email": person.email, "password": password}
        return await client.post("/v1/auth/login", json=account, headers={"User-Agent": "phone"})


async def refused(world: World, asked: Any) -> str:
    """The reason; of a connection that was closed, that one is nobody there any more."""
    with pytest.raises((Refused, ConnectionError, ConnectionClosed)) as caught:
        await asked
    return caught.value.reason if isinstance(caught.value, Refused) else "unauthenticated"


async def user_of(person: Person) -> str:
    return str((await person.ask("session.info"))["user_id"])


async def test_one_sees_ones_sessions_and_ends_one_of_them(world: World) -> None:
    ada = await world.owner()
    other = (await login(world, ada)).json()
    listed = (await ada.ask("session.list"))["items"]
    assert [(item["id"], item["current"]) for item in listed] == [
        (other["session_id"], False),
        (ada.session["session_id"], True),
    ]
    assert listed[0]["device"] == "phone"
    assert listed[0]["address"] == "127.0.0.1"
    async with open_socket(world.hub.ws_url, other["access_token"]) as socket:
        await ada.ask("session.revoke", {"session_id": other["session_id"]})
        assert (await socket.notice("session.revoked", within=1))["reason"] == "session_revoked"
        assert (await socket.closed())[0] == 4503
    assert len((await ada.ask("session.list"))["items"]) == 1


async def test_sessions_are_listed_page_by_page_the_newest_first(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    everyone = [bob.session["session_id"]]
    for _ in range(4):
        everyone.insert(0, (await login(world, bob)).json()["session_id"])
    whose = {"user_id": await user_of(bob)}
    for person, method, params in ((bob, "session.list", {}), (ada, "user.sessions", whose)):
        first = await person.ask(method, {**params, "limit": 2})
        assert [item["id"] for item in first["items"]] == everyone[:2]
        # The list goes on from where it was, also when that session has ended.
        await ada.ask("session.revoke", {"session_id": everyone.pop(1)})
        then = {**params, "limit": 2, "cursor": first["next_cursor"]}
        second = await person.ask(method, then)
        found = [item["id"] for item in first["items"][:1] + second["items"]]
        while "next_cursor" in second:
            second = await person.ask(method, {**then, "cursor": second["next_cursor"]})
            found += [item["id"] for item in second["items"]]
        assert found == everyone
    whole = await bob.ask("session.list")
    assert [item["id"] for item in whole["items"]] == everyone
    assert "next_cursor" not in whole


async def test_an_administrator_sees_and_ends_sessions_and_a_member_does_not(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    (listed,) = (await ada.ask("user.sessions", {"user_id": await user_of(bob)}))["items"]
    assert listed["id"] == bob.session["session_id"]
    assert not listed["current"]
    hers = {"session_id": ada.session["session_id"]}
    assert await refused(world, bob.ask("session.revoke", hers)) == "not_found"
    await ada.ask("session.revoke", {"session_id": listed["id"]})
    assert await refused(world, bob.ask("session.info")) == "unauthenticated"


async def test_logging_out_everywhere_ends_all_and_here_one(world: World) -> None:
    ada = await world.owner()
    pairs = [(await login(world, ada)).json() for _ in range(2)]
    async with httpx.AsyncClient(base_url=world.hub.url, trust_env=False) as client:

        async def goes_on(pair: dict[str, Any]) -> bool:
            body = {"refresh_token": pair["refresh_token"]}
            answer = await client.post("/v1/auth/refresh", json=body)
            pair.update(answer.json())
            return answer.is_success

        bearer = {"Authorization": f"Bearer {pairs[0]['access_token']}"}
        await client.post("/v1/auth/logout", json={}, headers=bearer)
        assert [await goes_on(pair) for pair in pairs] == [False, True]
        await ada.ask("account.logout", {"everywhere": True})
        assert [await goes_on(pair) for pair in pairs] == [False, False]
    assert await refused(world, ada.ask("session.info")) == "unauthenticated"


async def test_a_password_is_changed_by_who_knows_it(world: World) -> None:
    ada = await world.owner()
    wrong = ada.ask("account.change_password", {"current": NEW, "password": NEW})
    assert await refused(world, wrong) == "permission_denied"
    easy = ada.ask("account.change_password", {"current": PASSWORD, "password": "x" * 20})
    assert await refused(world, easy) == "invalid_params"
    await ada.ask("account.change_password", {"current": PASSWORD, "password": NEW})
    await ada.ask("session.info")
    assert (await login(world, ada)).status_code == 401
    assert (await login(world, ada, NEW)).status_code == 200


async def test_one_reads_ones_own_account(world: World) -> None:
    ada = await world.owner()
    told = await ada.ask("account.get")
    assert (told["id"], told["email"]) == (await user_of(ada), ada.email)
    assert "verified_at" not in told


async def exported(person: Person, method: str, **params: Any) -> list[dict[str, Any]]:
    """All of it, three at a time."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await person.ask(method, {"limit": 3, **params, **cursor})
        assert len(page["items"]) <= 3
        items += page["items"]
        if "next_cursor" not in page:
            return items
        cursor = {"cursor": page["next_cursor"]}


async def known_at_a_provider(world: World, person: Person) -> None:
    user_id = await user_of(person)
    known = ProviderIdentity(
        id=new_id("pi"), user_id=user_id, issuer="https://id.example", subject=user_id
    )
    async with world.hub.hub.services.database.write(EVERY_TENANT) as session:
        session.add(known)


async def test_everything_of_one_is_exported_once_and_no_secret_with_it(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    await talk(bob, "Not hers.")
    said = [f"Thought {number}" for number in range(4)]
    for text in said:
        await talk(ada, text)
    key = await ada.ask("apikey.create", {"name": "a bot of hers"})
    await known_at_a_provider(world, ada)
    items = await exported(ada, "account.export")
    kinds = [item["section"] for item in items]
    assert kinds == sorted(kinds, key=list(dict.fromkeys(kinds)).index), "in the order of sections"
    assert Counter(kinds) == {
        "profile": 1, "membership": 1, "session": 1, "key": 1, "identity": 1, "conversation": 4,
        "message": 8, "run": 4, "usage": 4,
    }  # fmt: skip
    assert len({(item["section"], item["data"]["id"]) for item in items}) == len(items)
    contents = [item["data"]["content"] for item in items if item["section"] == "message"]
    assert sorted(contents) == sorted(said * 2)
    assert items[0]["data"]["email"] == ada.email
    text = repr(items)
    for secret in ("bcrypt", "hash", ada.session["refresh_token"], key["key"], "Not hers"):
        assert secret not in text
    wrong = ada.ask("account.export", {"cursor": "secrets:1"})
    assert await refused(world, wrong) == "invalid_params"


async def test_an_administrator_exports_a_users_data_before_they_delete_them(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await talk(bob, "A thought of Bob's.")
    user_id = await user_of(bob)
    await known_at_a_provider(world, bob)
    items = await exported(ada, "user.export", user_id=user_id)
    assert "A thought of Bob's." in repr(items)
    assert "identity" not in {item["section"] for item in items}, "that is no matter of a tenant"
    async with open_socket(world.hub.ws_url, bob.token) as socket:
        await ada.ask("user.delete", {"user_id": user_id})
        assert (await socket.notice("session.revoked", within=1))["reason"] in (
            "session_revoked",
            "user_disabled",
        )
    gone = ada.ask("user.get", {"user_id": user_id})
    assert await refused(world, gone) == "not_found"
    await eventually(lambda: _erased(world, user_id))
    lost = ada.ask("conversation.get", {"conversation_id": conversation})
    assert await refused(world, lost) == "not_found"


async def test_who_deletes_their_account_is_gone_with_their_conversations(world: World) -> None:
    ada = await world.owner()
    await talk(ada, "Soon forgotten.")
    user_id = await user_of(ada)
    wrong = ada.ask("account.delete", {"password": NEW})
    assert await refused(world, wrong) == "permission_denied"
    async with open_socket(world.hub.ws_url, ada.token) as socket:
        channel = f"conversation:{await ada.conversation()}"
        await socket.ask("channel.subscribe", {"channel": channel})
        await ada.ask("account.delete", {"password": PASSWORD})
        assert (await socket.closed(within=1))[0] == 4503
    assert (await login(world, ada)).status_code == 401
    await eventually(lambda: _erased(world, user_id))


async def test_a_run_that_goes_on_in_a_deleted_users_conversation_ends_and_goes_too(
    world: World,
) -> None:
    ada = await world.owner()
    conversation = await ada.conversation(model="slow")
    content = {"conversation_id": conversation, "client_message_id": "1", "content": "On and on"}
    sent = await ada.ask("message.send", content)
    user_id = await user_of(ada)
    await eventually(lambda: _runs(world, sent["run_id"], "running"))
    await ada.ask("account.delete", {"password": PASSWORD})
    await eventually(lambda: _erased(world, user_id))


async def test_an_administrator_disables_and_enables_a_user(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "admin")
    user_id = await user_of(bob)
    async with open_socket(world.hub.ws_url, bob.token) as socket:
        told = await ada.ask("user.disable", {"user_id": user_id})
        assert "disabled_at" in told
        assert (await socket.notice("session.revoked", within=1))["reason"] == "user_disabled"
        assert (await socket.closed())[0] == 4503
    assert (await login(world, bob)).status_code == 401
    assert "disabled_at" not in await ada.ask("user.enable", {"user_id": user_id})
    assert (await login(world, bob)).status_code == 200
    own = {"user_id": await user_of(ada)}
    assert await refused(world, ada.ask("user.disable", own)) == "conflict"
    again = await world.colleague(ada, "admin")
    assert await refused(world, again.ask("user.disable", own)) == "permission_denied"


async def test_users_are_listed_a_page_at_a_time(world: World) -> None:
    ada = await world.owner()
    people = [ada, *[await world.colleague(ada, "viewer") for _ in range(3)]]
    seen: list[dict[str, Any]] = []
    page = await ada.ask("user.list", {"limit": 3})
    seen += page["items"]
    page = await ada.ask("user.list", {"limit": 3, "cursor": page["next_cursor"]})
    seen += page["items"]
    assert "next_cursor" not in page
    assert {item["email"] for item in seen} == {person.email for person in people}
    assert [item["roles"] for item in seen].count(["viewer"]) == 3
    (found,) = (await ada.ask("user.list", {"email": people[1].email}))["items"]
    assert found["email"] == people[1].email
    assert await refused(world, people[1].ask("user.list")) == "permission_denied"


async def talk(person: Person, text: str) -> str:
    """Say something in a new conversation, and have it answered."""
    conversation = await person.conversation()
    sent = await person.ask(
        "message.send",
        {"conversation_id": conversation, "client_message_id": "1", "content": text},
    )

    async def answered() -> bool:
        run = await person.ask("run.get", {"run_id": sent["run_id"]})
        return bool(run["status"] == "succeeded")

    await eventually(answered)
    return conversation


async def _runs(world: World, run_id: str, status: str) -> bool:
    async with world.hub.hub.services.database.read(EVERY_TENANT) as session:
        run = await session.get(Run, run_id)
    return run is not None and run.status == status


async def _erased(world: World, user_id: str) -> bool:
    """Whether nothing of the user is left but an id, and what was used by it."""
    async with world.hub.hub.services.database.read(EVERY_TENANT) as session:
        user = await session.get(User, user_id)
        assert user is not None
        assert user.deleted_at is not None
        for owned in (
            select(Conversation.id).where(col(Conversation.owner_id) == user_id),
            select(Message.id).where(col(Message.author_id) == user_id),
            select(Run.id).where(col(Run.user_id) == user_id),
        ):
            if (await session.exec(owned.limit(1))).first() is not None:
                return False
    return True
