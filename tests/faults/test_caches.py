"""What nodes remember: what one keeps another gives, what one changes another forgets; all of it is
counted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx
import pytest

from hub.ids import new_id
from tests.agents.client import Client, Refused, opened
from tests.agents.conftest import someone
from tests.agents.test_answers import answered, asked, looked_up, opted_in
from tests.interaction.drivers import eventually
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.redis import RedisProcess
from tests.parts.scripted import ScriptedModel, scripted_server

WITHIN_S: Final = 1.0


@pytest.fixture
async def nodes(
    serve_hub: ServeHub, redis_server: RedisProcess, sqlite_url: str
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    """Two hubs that share a database and a backplane."""
    shared = {"HUB_REDIS_URL": redis_server.url, "HUB_DATABASE_URL": sqlite_url}
    async with serve_hub(**shared) as one, serve_hub(worker=False, **shared) as two:
        yield one, two


@asynccontextmanager
async def two_of_a_tenant(
    nodes: tuple[ServedHub, ServedHub], role: str
) -> AsyncIterator[tuple[Client, Client, str]]:
    """The owner on one node, and somebody with a role, whose id is told, on the other."""
    one, two = nodes
    token = await someone(one)
    services = one.hub.services
    tenant_id = services.tokens.read(token).tenant_id
    email = f"{new_id('u')}@hub.example".lower()
    user, _ = await services.accounts.create_user(email, PASSWORD, tenant_id, role)
    bobs = (await services.accounts.login(email, PASSWORD)).access_token
    async with opened(one.url, token) as ada, opened(two.url, bobs) as bob:
        yield ada, bob, user.id


async def refused_soon(client: Client, method: str, reason: str, **params: Any) -> None:
    """Ask until it is refused, which takes no longer than word of a change."""

    async def allowed() -> None:
        while True:
            await client.call(method, **params)

    with pytest.raises(Refused) as refusal:
        await asyncio.wait_for(allowed(), WITHIN_S)
    assert refusal.value.reason == reason


async def test_who_may_do_what_is_remembered_and_forgotten_on_every_node(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    async with two_of_a_tenant(nodes, "viewer") as (ada, bob, bob_id):
        role = await ada.call("role.create", name="reader", permissions=["user:read"])
        await ada.call("role.assign", role_id=role["id"], user_id=bob_id)
        await bob.call("user.list")
        hits, misses = (looked_up(nodes[1], "permissions", kind) for kind in ("hit", "miss"))
        for _ in range(10):
            await bob.call("user.list")
        assert looked_up(nodes[1], "permissions", "hit") >= hits + 9
        assert looked_up(nodes[1], "permissions", "miss") <= misses + 1
        await ada.call("role.update", role_id=role["id"], permissions=[])
        await refused_soon(bob, "user.list", "permission_denied")
        # And so it is with whose something is, and shared with whom.
        conversation = {"conversation_id": await ada.conversation(follow=False)}
        await ada.call("conversation.share", **conversation, user_id=bob_id, access="reader")
        await bob.call("conversation.get", **conversation)
        hits = looked_up(nodes[1], "resources", "hit")
        for _ in range(10):
            await bob.call("conversation.get", **conversation)
        assert looked_up(nodes[1], "resources", "hit") >= hits + 9
        await ada.call("conversation.unshare", **conversation, user_id=bob_id)
        await refused_soon(bob, "conversation.get", "not_found", **conversation)


async def test_what_roles_give_one_node_reads_for_all_and_reads_again_when_they_give_another_thing(
    nodes: tuple[ServedHub, ServedHub],
    redis_server: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub.identity.access.shared_roles.WAIT_S", 10.0)  # on a busy machine
    one, two = nodes

    async def shared(role_id: str) -> bool:
        with redis_server.client() as client:
            return any(client.scan_iter(f"hub:*cache:permissions:*:{role_id}"))

    def found(hub: ServedHub) -> tuple[float, float]:
        hits, misses = (looked_up(hub, "roles_shared", kind) for kind in ("hit", "miss"))
        return hits, misses

    token = await someone(one)
    services = one.hub.services
    tenant_id = services.tokens.read(token).tenant_id
    email = f"{new_id('u')}@hub.example".lower()
    bob, _ = await services.accounts.create_user(email, PASSWORD, tenant_id, "viewer")
    bobs = (await services.accounts.login(email, PASSWORD)).access_token
    async with opened(one.url, token) as ada:
        role = await ada.call("role.create", name="reader", permissions=["user:read"])
        await ada.call("role.assign", role_id=role["id"], user_id=bob.id)
        await ada.call("user.list")
        await eventually(partial(shared, "owner"))
        async with opened(two.url, token) as ada_there:
            await ada_there.call("user.list")
        assert found(two) == (1, 0)
        async with opened(two.url, bobs) as there:
            await there.call("user.list")
            await eventually(partial(shared, role["id"]))
            async with opened(one.url, bobs) as here:
                await here.call("user.list")
                assert found(one) == (2, 1)
                hits = looked_up(one, "roles", "hit")
                await ada.call("role.update", role_id=role["id"], permissions=["group:read"])
                for bob_on_a_node in (here, there):
                    await refused_soon(bob_on_a_node, "user.list", "permission_denied")
                    await bob_on_a_node.call("group.list")
                assert looked_up(one, "roles", "hit") > hits, "what did not change is known"


async def test_the_answer_to_an_idempotency_key_is_every_nodes(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    one, two = nodes
    headers = {"Authorization": f"Bearer {await someone(one)}", "Idempotency-Key": "one"}
    async with (
        httpx.AsyncClient(base_url=one.url, headers=headers, trust_env=False) as here,
        httpx.AsyncClient(base_url=two.url, headers=headers, trust_env=False) as there,
    ):
        path, title = "/v1/conversations", {"title": "Once"}
        # What failed is not kept: another node does it.
        assert (await here.post(path, json={"title": ["Once"]})).status_code == 422
        done = await there.post(path, json=title)
        assert done.status_code == 201
        again = [await node.post(path, json=title) for node in (here, there)]
        assert [answer.content for answer in again] == [done.content] * 2
        assert (await here.post(path, json={"title": "Other"})).status_code == 409
        assert len((await here.get(path)).json()["items"]) == 1
    assert looked_up(one, "replies", "hit") == 1
    assert (looked_up(two, "replies", "hit"), looked_up(two, "replies", "miss")) == (1, 1)


async def _other_settings(ada: Client, _: ScriptedModel) -> None:
    await opted_in(ada, wanted=False)
    await opted_in(ada)


async def _another_model(ada: Client, model: ScriptedModel) -> None:
    model.pulled += 1


@pytest.mark.parametrize("change", [_other_settings, _another_model])
async def test_answers_of_before_a_change_are_given_again_by_no_node(
    serve_hub: ServeHub,
    redis_server: RedisProcess,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Client, ScriptedModel], Any],
) -> None:
    monkeypatch.setattr("hub.inference.catalogue.FRESH_S", 0.0)
    with scripted_server() as model:
        shared = {
            "HUB_REDIS_URL": redis_server.url,
            "HUB_DATABASE_URL": sqlite_url,
            "OLLAMA_HOST": model.host,
        }
        async with serve_hub(**shared) as one:
            token = await someone(one)
            async with opened(one.url, token) as ada:
                await opted_in(ada)
                await answered(ada, "how is it")
        # Another node answers from here on, and it is not the one on which something is changed.
        async with (
            serve_hub(**shared) as two,
            serve_hub(worker=False, **shared) as three,
            opened(two.url, token) as ada,
            opened(three.url, token) as changing,
        ):
            await answered(ada, "how is it")
            assert asked(model) == 1
            assert looked_up(two, "answers", "hit") == 1
            await change(changing, model)
            await answered(ada, "how is it")
            assert asked(model) == 2
            assert looked_up(two, "answers", "miss") == 1


async def test_what_the_model_server_has_one_node_asks_and_all_know_and_so_what_is_new(
    serve_hub: ServeHub,
    redis_server: RedisProcess,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing grows old while the test runs, but who misses a model asks at once.
    monkeypatch.setattr("hub.inference.shared_catalogue.KEPT_S", 600.0)
    monkeypatch.setattr("hub.inference.catalogue.KEPT_S", 600.0)
    monkeypatch.setattr("hub.inference.catalogue.FRESH_S", 1_200.0)
    monkeypatch.setattr("hub.inference.catalogue.MISSED_S", 0.0)
    with scripted_server() as model:
        shared = {
            "HUB_REDIS_URL": redis_server.url,
            "HUB_DATABASE_URL": sqlite_url,
            "OLLAMA_HOST": model.host,
        }
        async with serve_hub(**shared) as one, opened(one.url, await someone(one)) as here:
            await names(here)
            async with serve_hub(worker=False, **shared) as two:
                async with opened(two.url, await someone(two)) as there:
                    assert await names(there) == set(model.models)
                    model.models["newer"] = model.models["echo"]
                    assert "newer" not in await names(there)
                    # Who asks for it by its name on one node has it known on the other.
                    text, _ = await answered(here, "are you there", model="newer")
                    assert text == "are you there"
                    await eventually(partial(offers, there, "newer"), WITHIN_S)
                    # And so it is with one that is gone, once one node asks for whatever reason.
                    del model.models["newer"]
                    assert "newer" in await names(there)
                    _, end = await answered(here, "are you there", model="another")
                    assert end["code"] == "model_unavailable"
                    await eventually(partial(offers, there, "newer", so=False), WITHIN_S)
                assert looked_up(two, "models", "miss") == 0
                assert looked_up(two, "models", "hit") >= 6
            assert looked_up(one, "models", "miss") == 3


async def test_a_model_that_is_gone_no_node_offers_for_longer_than_it_remembers(
    serve_hub: ServeHub,
    redis_server: RedisProcess,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh_s = 0.6
    monkeypatch.setattr("hub.inference.shared_catalogue.KEPT_S", fresh_s / 2)
    monkeypatch.setattr("hub.inference.catalogue.KEPT_S", fresh_s / 2)
    monkeypatch.setattr("hub.inference.catalogue.FRESH_S", fresh_s)
    with scripted_server() as model:
        shared = {
            "HUB_REDIS_URL": redis_server.url,
            "HUB_DATABASE_URL": sqlite_url,
            "OLLAMA_HOST": model.host,
        }
        async with (
            serve_hub(worker=False, **shared) as one,
            serve_hub(worker=False, **shared) as two,
            opened(one.url, await someone(one)) as here,
            opened(two.url, await someone(two)) as there,
        ):
            for client in (here, there):
                assert "echo" in await names(client)
            del model.models["echo"]
            for client in (there, here):
                await eventually(partial(offers, client, "echo", so=False), fresh_s + WITHIN_S)


async def offers(client: Client, name: str, *, so: bool = True) -> bool:
    """Whether a node offers a model, or, with ``so`` false, whether it does not."""
    return (name in await names(client)) == so


async def names(client: Client) -> set[str]:
    """Of the models that a node offers."""
    return {model["name"] for model in (await client.call("model.list"))["items"]}
