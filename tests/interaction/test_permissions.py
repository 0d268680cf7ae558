"""Who may ask what, through every transport; what is not yours is as if it were not there."""

from typing import Any, Final

import pytest

from hub.ids import new_id
from hub.operations.operation import PUBLIC, AnyOperation
from hub.operations.table import OPERATIONS
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALSO_NEEDED: Final[dict[str, dict[str, Any]]] = {
    "channel.subscribe": {},
    "channel.history": {},
    "channel.presence": {},
    "channel.typing": {"typing": True},
    "conversation.get": {},
    "conversation.update": {"title": "mine now"},
    "conversation.delete": {},
    "conversation.share": {"email": "colleague@hub.example", "access": "reader"},
    "conversation.unshare": {"user_id": new_id("u")},
    "conversation.shares": {},
    "message.send": {"client_message_id": "1", "content": "Hello"},
    "message.list": {},
    "run.get": {},
    "run.list": {},
    "run.cancel": {},
    "role.get": {},
    "role.update": {"description": "mine now"},
    "role.delete": {},
    "role.assign": {"user_id": new_id("u")},
    "role.revoke": {"user_id": new_id("u")},
    "group.get": {},
    "group.update": {"description": "mine now"},
    "group.delete": {},
    "group.members": {},
    "group.add": {"user_id": new_id("u")},
    "group.remove": {"user_id": new_id("u")},
    "apikey.create": {"name": "a key"},
    "apikey.get": {},
    "apikey.update": {"name": "mine now"},
    "apikey.rotate": {},
    "apikey.revoke": {},
    "service.get": {},
    "service.update": {"name": "mine now"},
    "service.disable": {},
    "service.enable": {},
    "service.delete": {},
    "quota.get": {},
    "quota.set": {"quota": "runs", "limit": 5},
    "usage.get": {},
    "tenant.create": {"name": "acme"},
    "tenant.list": {},
    "tenant.get": {},
    "tenant.update": {"settings": {"display_name": "mine now"}},
    "tenant.suspend": {},
    "tenant.resume": {},
    "tenant.delete": {"confirm": "acme"},
    "tenant.restore": {},
    "session.revoke": {},
    "user.get": {},
    "user.disable": {},
    "user.enable": {},
    "user.delete": {},
    "user.export": {},
    "user.sessions": {},
}
"""What a guarded operation needs besides the id of what it acts on."""

UNGUARDED: Final[dict[str, str]] = {
    "channel.unsubscribe": "ends a subscription of one's own; without one it does nothing",
    "role.assignments": "lists what the tenant has; the ids only choose among that",
    "role.explain": "looks for the user among the tenant's, and is not found otherwise",
    "member.remove": "looks for the member in the tenant's own scope, in the transaction that acts",
    "invitation.revoke": "looks for it in the tenant's own scope, in the transaction that acts",
    "factor.reset": "finds the user among the tenant's members, in the transaction that resets",
}
"""Operations that take an id and guard nothing, and why."""

SUBJECTS: Final = ("quota", "usage", "limited")
"""Kinds whose ids are the names of subjects."""

GUARDED: Final = [operation for operation in OPERATIONS.values() if operation.guards is not None]


async def test_every_operation_that_takes_an_id_is_guarded_or_says_why_not() -> None:
    for operation in OPERATIONS.values():
        names = set(operation.params.model_fields) - {"client_message_id"}
        takes_id = any(name in ("channel", "subject") or name.endswith("_id") for name in names)
        guarded = operation.guards is not None and operation.guards[1] != ""
        assert takes_id == (guarded or operation.name in UNGUARDED), (
            f"{operation.name}: an operation that takes an id needs guards=(kind, parameter)"
        )


async def test_the_matrix_below_knows_every_guarded_operation() -> None:
    """An operation that is added has to say here how it is called."""
    assert set(ALSO_NEEDED) == {operation.name for operation in GUARDED}


def params_of(operation: AnyOperation, identifier: str) -> dict[str, Any]:
    assert operation.guards is not None
    named = {operation.guards[1]: identifier} if operation.guards[1] else {}
    return {**named, **ALSO_NEEDED[operation.name]}


async def _things(person: Person) -> dict[str, list[str]]:
    """What somebody has, by kind."""
    conversation = await person.conversation()
    sent = await person.ask(
        "message.send",
        {"conversation_id": conversation, "client_message_id": "1", "content": "Private."},
    )
    told = await person.ask("session.info")
    user = told["user_id"]
    group = await person.ask("group.create", {"name": f"group of {user}"})
    role = await person.ask("role.create", {"name": f"role-{user[-8:].lower()}"})
    return {
        "group": [group["id"]],
        "role": [role["id"]],
        "user": [user],
        "account": [user],
        "session": [told["session_id"]],
        "conversation": [conversation],
        "run": [sent["run_id"]],
        "channel": [f"conversation:{conversation}", f"user:{user}"],
        "apikey": [(await person.ask("apikey.create", {"name": "a key"}))["id"]],
        "service": [(await person.ask("service.create", {"name": "a service"}))["id"]],
        **{kind: [f"user:{user}"] for kind in SUBJECTS},
    }


def _houses(tenant_id: str) -> dict[str, list[str]]:
    """A tenant, as what is acted on; and the hub, of which there is one."""
    return {"tenant": [tenant_id], "operated": [tenant_id], "hub": [""]}


def _missing() -> dict[str, list[str]]:
    return {
        "user": [new_id("u"), new_id("c")],
        "account": [new_id("u"), new_id("c")],
        "session": [new_id("s"), new_id("u")],
        "conversation": [new_id("c"), new_id("r")],
        "run": [new_id("r"), new_id("c")],
        "group": [new_id("g"), new_id("c")],
        "role": [new_id("ro"), "nonsense"],
        "channel": [
            f"conversation:{new_id('c')}",
            f"user:{new_id('u')}",
            f"run:{new_id('r')}",
            f"audit:{new_id('t')}",
            "conversation:nonsense",
        ],
        "apikey": [new_id("ak"), new_id("c")],
        "service": [new_id("u"), new_id("c")],
        **{kind: [f"user:{new_id('u')}"] for kind in SUBJECTS},
    }


async def _refusals(
    asker: Person, world: World, things: dict[str, list[str]]
) -> dict[str, set[bytes]]:
    seen: dict[str, set[bytes]] = {}
    may = (await asker.ask("session.info"))["permissions"]
    for operation in GUARDED:
        if not world.transport.offers(operation):
            continue
        assert operation.guards is not None
        # Who may not do it at all is told that, whatever the id is, and learns nothing either.
        reason = "not_found" if operation.permission in may else "permission_denied"
        for identifier in things.get(operation.guards[0], ()):
            with pytest.raises(Refused) as refusal:
                await asker.ask(operation.name, params_of(operation, identifier))
            assert refusal.value.reason == reason, (operation.name, identifier)
            seen.setdefault(operation.name, set()).add(refusal.value.bytes)
    return seen


async def test_another_tenants_things_answer_as_what_is_not_there(world: World) -> None:
    """The owner of a tenant has every permission there is, and it ends at the tenant."""
    ada, eve = await world.owner(), await world.owner()
    house = (await ada.ask("session.info"))["tenant_id"]
    foreign = await _refusals(eve, world, {**await _things(ada), **_houses(house)})
    missing = await _refusals(eve, world, {**_missing(), **_houses(new_id("t"))})
    assert foreign == missing
    assert len(foreign) == sum(world.transport.offers(operation) for operation in GUARDED)
    assert all(len(answers) == 1 for answers in foreign.values())


async def test_a_colleagues_things_answer_a_member_as_what_is_not_there(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    foreign = await _refusals(bob, world, await _things(ada))
    missing = await _refusals(bob, world, _missing())
    assert foreign == missing


async def test_another_users_own_channel_is_closed_to_the_owner_of_the_tenant(
    world: World,
) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    his = (await bob.ask("session.info"))["user_id"]
    with pytest.raises(Refused) as refusal:
        await ada.ask("channel.history", {"channel": f"user:{his}"})
    assert refusal.value.reason == "not_found"
    assert (await bob.ask("channel.history", {"channel": f"user:{his}"}))["items"] == []


async def test_an_administrator_reads_what_a_colleague_has(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await bob.conversation(title="Bob's")
    found = await ada.ask("conversation.get", {"conversation_id": conversation})
    assert found["title"] == "Bob's"


@pytest.mark.parametrize("name", OPERATIONS)
async def test_without_credentials_nothing_is_answered(world: World, name: str) -> None:
    operation = OPERATIONS[name]
    if not world.transport.offers(operation):
        pytest.skip(f"not offered over {world.name}")
    if world.name == "rest" and operation.permission == PUBLIC:
        pytest.skip("it needs no credentials")
    if name == "session.authenticate":
        pytest.skip("it is what shows credentials")
    stranger = await world.nobody()
    http = operation.http
    params = {part: new_id("c") for part in (http.path_parameters if http else ())}
    with pytest.raises(Refused) as refusal:
        await stranger.ask(name, params)
    assert (refusal.value.reason, refusal.value.code) == ("unauthenticated", 4010)


async def test_a_viewer_may_not_send_and_learns_nothing_by_trying(world: World) -> None:
    ada = await world.owner()
    viewer = await world.colleague(ada, "viewer")
    answers = set()
    for conversation in (await ada.conversation(), new_id("c")):
        with pytest.raises(Refused) as refusal:
            await viewer.ask(
                "message.send",
                {"conversation_id": conversation, "client_message_id": "1", "content": "Hello"},
            )
        assert (refusal.value.reason, refusal.value.code) == ("permission_denied", 4030)
        answers.add(refusal.value.bytes)
    assert len(answers) == 1
    with pytest.raises(Refused, match="permission_denied"):
        await viewer.ask("conversation.create", {})


async def test_who_you_are_is_told_as_it_is_now(world: World) -> None:
    ada = await world.owner()
    told = await ada.ask("session.info")
    assert told["roles"] == ["owner"]
    assert "conversation:create" in told["permissions"]
    viewer = await world.colleague(ada, "viewer")
    less = await viewer.ask("session.info")
    assert less["tenant_id"] == told["tenant_id"]
    assert set(less["permissions"]) < set(told["permissions"])


async def test_a_session_that_was_ended_is_not_let_through(world: World) -> None:
    ada = await world.owner()
    await world.hub.hub.services.accounts.logout(ada.session["session_id"])
    with pytest.raises((Refused, ConnectionError)) as refusal:
        await ada.ask("conversation.list")
    if isinstance(refusal.value, Refused):
        assert refusal.value.reason == "unauthenticated"
