"""What an administrator takes on one node ends what it allowed on another, on an open socket; what
is given on one is allowed on the other.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest

from hub.ids import new_id
from hub.storage.tables import now
from tests.agents.client import Client, Refused, opened
from tests.interaction.drivers import eventually
from tests.parts.hub import PASSWORD, ServedHub, ServeHub, sign_up

WITHIN_S: Final = 1.0
READS: Final = ["channel:subscribe", "channel:subscribe:any", "conversation:read:any"]


@pytest.fixture
async def nodes(
    postgres_url: str, redis_server: Any, serve_hub: ServeHub
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    """Where roles are administered, and where somebody follows what they allow."""
    shared = {"HUB_DATABASE_URL": postgres_url, "HUB_REDIS_URL": redis_server.url}
    async with serve_hub(worker=False, **shared) as here, serve_hub(**shared) as there:
        yield here, there


class Followed:
    """Ada administers on one node; Bob follows her conversation on another, by the role ``reader``
    that he has of himself, by a group, or by an ``heir``: a role that inherits from it.
    """

    def __init__(self, ada: Client, bob: Client, bob_id: str, role_id: str, group_id: str) -> None:
        self.ada, self.bob, self.bob_id = ada, bob, bob_id
        self.role, self.group = {"role_id": role_id}, {"group_id": group_id}
        self.heir: dict[str, str] = {}
        self.user = {"user_id": bob_id}
        self.conversation = ""

    async def follow(self) -> None:
        """Bob follows a new conversation of Ada's."""
        self.bob.notices.clear()
        self.conversation = await self.ada.conversation(follow=False)
        await self.bob.subscribe(self.conversation)

    async def may_not(self) -> None:
        """Bob tries to follow a new conversation of Ada's, which is not there for him."""
        self.conversation = await self.ada.conversation(follow=False)
        with pytest.raises(Refused) as refusal:
            await self.bob.subscribe(self.conversation)
        assert refusal.value.reason == "not_found"

    async def may(self) -> None:
        """Bob tries until he follows it, on the same socket."""

        async def follows() -> bool:
            with contextlib.suppress(Refused):
                await self.bob.subscribe(self.conversation)
                return True
            return False

        await eventually(follows, WITHIN_S)

    async def ends(self) -> float:
        """Seconds until Bob is told that he follows it no more."""
        began = time.perf_counter()

        def told() -> list[str]:
            return [
                params["reason"]
                for method, params in self.bob.notices
                if method == "subscription.ended"
            ]

        await self.bob.until(told, WITHIN_S)
        assert told() == ["not_found"]
        return time.perf_counter() - began


@asynccontextmanager
async def followed(here: ServedHub, there: ServedHub) -> AsyncIterator[Followed]:
    signed_up = await sign_up(here.url, f"{new_id('u')}@hub.example".lower())
    accounts = here.hub.services.accounts
    tenant_id = here.hub.services.tokens.read(signed_up["access_token"]).tenant_id
    email = f"{new_id('u')}@hub.example".lower()
    user, _ = await accounts.create_user(email, PASSWORD, tenant_id, "viewer")
    token = (await accounts.login(email, PASSWORD)).access_token
    async with (
        opened(here.url, signed_up["access_token"]) as ada,
        opened(there.url, token) as bob,
    ):
        role = await ada.call("role.create", name="reader", permissions=READS)
        group = await ada.call("group.create", name="readers")
        yield Followed(ada, bob, user.id, role["id"], group["id"])


Deed = Callable[[Followed], Awaitable[Any]]


async def _directly(it: Followed) -> None:
    await it.ada.call("role.assign", **it.role, **it.user)


async def _by_group(it: Followed) -> None:
    await it.ada.call("role.assign", **it.role, **it.group)
    await it.ada.call("group.add", **it.group, **it.user)


async def _by_inheritance(it: Followed) -> None:
    heir = await it.ada.call("role.create", name="heir", inherits=it.role["role_id"])
    it.heir = {"role_id": heir["id"]}
    await it.ada.call("role.assign", **it.heir, **it.user)


WAYS: Final[list[tuple[Deed, Deed]]] = [
    (_directly, lambda it: it.ada.call("role.revoke", **it.role, **it.user)),
    (_directly, lambda it: it.ada.call("role.update", **it.role, permissions=[])),
    (_directly, lambda it: it.ada.call("role.delete", **it.role, reassign_to="viewer")),
    (_by_group, lambda it: it.ada.call("role.revoke", **it.role, **it.group)),
    (_by_group, lambda it: it.ada.call("group.remove", **it.group, **it.user)),
    (_by_group, lambda it: it.ada.call("group.delete", **it.group)),
    (_by_inheritance, lambda it: it.ada.call("role.update", **it.heir, inherits="viewer")),
    (_by_inheritance, lambda it: it.ada.call("role.update", **it.role, permissions=[])),
]
"""How it is given, and how it is taken."""


async def test_what_is_taken_on_one_node_ends_within_a_second_on_another(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    for give, take in WAYS:
        async with followed(*nodes) as it:
            await give(it)
            await it.follow()
            await take(it)
            assert await it.ends() < WITHIN_S


async def _of_none(it: Followed) -> None:
    await it.ada.call("role.update", **it.role, permissions=[])
    await _directly(it)


async def _in_an_empty_group(it: Followed) -> None:
    await it.ada.call("role.assign", **it.role, **it.group)


async def _in_the_group(it: Followed) -> None:
    await it.ada.call("group.add", **it.group, **it.user)


async def _nothing(_: Followed) -> None:
    """Bob is a viewer, and that is all."""


async def _share(it: Followed, whom: dict[str, str]) -> None:
    share = {"conversation_id": it.conversation, "access": "reader"}
    await it.ada.call("conversation.share", **share, **whom)


GIVEN: Final[list[tuple[Deed, Deed]]] = [
    (_nothing, _directly),
    (_nothing, _by_inheritance),
    (_of_none, lambda it: it.ada.call("role.update", **it.role, permissions=READS)),
    (_in_an_empty_group, lambda it: it.ada.call("group.add", **it.group, **it.user)),
    (_nothing, lambda it: _share(it, it.user)),
    (_in_the_group, lambda it: _share(it, it.group)),
]
"""What there is, and how it is given."""


async def test_what_is_given_on_one_node_is_allowed_within_a_second_on_another(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    for there_is, give in GIVEN:
        async with followed(*nodes) as it:
            await there_is(it)
            await it.may_not()
            await give(it)
            await it.may()


async def test_what_was_given_for_a_while_ends_at_its_instant_without_a_word(
    nodes: tuple[ServedHub, ServedHub],
) -> None:
    async with followed(*nodes) as it:
        for target in (it.user, it.group):
            until = now() + timedelta(seconds=1.0)
            await it.ada.call("role.assign", **it.role, **target, expires_at=until.isoformat())
            if target is it.group:
                await it.ada.call("group.add", **it.group, **it.user)
            await it.follow()
            left_s = (until - now()).total_seconds()
            await it.bob.until(lambda: it.bob.notices, left_s + WITHIN_S)
            assert now() >= until
            await it.ends()
