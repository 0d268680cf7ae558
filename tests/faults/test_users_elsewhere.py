"""What is done about a user, a key or a service on one node acts on another within a second, on an
open socket.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pyotp
import pytest

from hub.ids import new_id
from tests.agents.client import Client, Refused, opened
from tests.interaction.drivers import RestCaller
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.redis import RedisProcess

EMAIL, NEW = "bob@hub.example", "a better horse and battery"
WITHIN_S: Final = 1.0
SCOPES: Final = ["channel:subscribe", "conversation:create", "conversation:read"]


@pytest.fixture
async def nodes(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> AsyncIterator[tuple[ServedHub, ServedHub]]:
    shared = {"HUB_REDIS_URL": redis_server.url}
    async with serve_hub(worker=False, **shared) as here, serve_hub(**shared) as there:
        yield here, there


@dataclass
class Bob:
    """A member of Ada's tenant, or a service there: on a socket of one node by a login session or a
    key of theirs, and asked about on another, where Ada and Bob himself ask over REST.
    """

    here: ServedHub
    ada: RestCaller
    himself: RestCaller
    socket: Client
    user: dict[str, str]
    key: dict[str, str]
    session: dict[str, str]

    async def told(self, notice: str) -> str:
        """The reason of a notice that comes within a second; nothing is asked meanwhile."""

        def reasons() -> list[str]:
            return [params["reason"] for name, params in self.socket.notices if name == notice]

        await self.socket.until(reasons, WITHIN_S)
        return reasons()[0]


@dataclass
class House:
    """Ada's tenant, on both nodes."""

    here: ServedHub
    there: ServedHub
    client: httpx.AsyncClient
    tenant_id: str
    ada: RestCaller

    @asynccontextmanager
    async def bob(self, by: str = "session") -> AsyncIterator[Bob]:
        """Another one, who comes ``by`` a login session, a "key", or as a "service"."""
        accounts, email = self.here.hub.services.accounts, f"{new_id('u')}@hub.example".lower()
        user, _ = await accounts.create_user(email, PASSWORD, self.tenant_id, "member")
        on_socket, other = [await accounts.login(email, PASSWORD) for _ in range(2)]
        himself = RestCaller(self.client, other.access_token)
        user_id, key_id, token = user.id, "", on_socket.access_token
        if by != "session":
            wanted: dict[str, Any] = {"name": "a key", "scopes": SCOPES}
            if by == "service":
                service = await self.ada.ask("service.create", {"name": "a service"})
                wanted["service_id"] = user_id = service["id"]
            key = await (himself if by == "key" else self.ada).ask("apikey.create", wanted)
            key_id, token = key["id"], key["key"]
        async with opened(self.there.url, token) as socket:
            session = {"session_id": on_socket.session_id}
            names = ({"user_id": user_id}, {"api_key_id": key_id}, session)
            yield Bob(self.here, self.ada, himself, socket, *names)


@pytest.fixture
async def house(nodes: tuple[ServedHub, ServedHub]) -> AsyncIterator[House]:
    here, there = nodes
    token = (await here.sign_up("ada@hub.example"))["access_token"]
    tenant_id = here.hub.services.tokens.read(token).tenant_id
    async with httpx.AsyncClient(base_url=here.url, trust_env=False) as client:
        yield House(here, there, client, tenant_id, RestCaller(client, token))


def _service(it: Bob) -> dict[str, str]:
    return {"service_id": it.user["user_id"]}


Deed = Callable[[Bob], Awaitable[object]]
WAYS: Final[dict[str, tuple[str, Deed, str]]] = {
    "user.disable": ("session", lambda it: it.ada.ask("user.disable", it.user), "user_disabled"),
    "user.delete": ("session", lambda it: it.ada.ask("user.delete", it.user), "session_revoked"),
    "user.sign_out": (
        "session",
        lambda it: it.ada.ask("user.sign_out", it.user),
        "session_revoked",
    ),
    "member.remove": (
        "session",
        lambda it: it.ada.ask("member.remove", it.user),
        "membership_ended",
    ),
    "account.change_password": (
        "session",
        lambda it: it.himself.ask(
            "account.change_password", {"current": PASSWORD, "password": NEW}
        ),
        "session_revoked",
    ),
    "account.logout, everywhere": (
        "session",
        lambda it: it.himself.ask("account.logout", {"everywhere": True}),
        "session_revoked",
    ),
    "session.revoke": (
        "session",
        lambda it: it.himself.ask("session.revoke", it.session),
        "session_revoked",
    ),
    "what an operator does at the machine": (
        "session",
        lambda it: it.here.hub.services.users.set_disabled(it.user["user_id"], True),
        "user_disabled",
    ),
    "apikey.revoke": ("key", lambda it: it.ada.ask("apikey.revoke", it.key), "key_revoked"),
    "apikey.rotate, without an overlap": (
        "key",
        lambda it: it.himself.ask("apikey.rotate", {**it.key, "overlap_s": 0}),
        "key_revoked",
    ),
    "user.disable, by a key": (
        "key",
        lambda it: it.ada.ask("user.disable", it.user),
        "user_disabled",
    ),
    "service.disable": (
        "service",
        lambda it: it.ada.ask("service.disable", _service(it)),
        "user_disabled",
    ),
    "service.delete": (
        "service",
        lambda it: it.ada.ask("service.delete", _service(it)),
        "key_revoked",
    ),
}
"""What whoever is there comes by, what is done about them elsewhere, and what they are told."""


async def test_a_socket_on_another_node_ends_within_a_second(
    house: House, figures: Figures
) -> None:
    for name, (by, deed, reason) in WAYS.items():
        async with house.bob(by) as bob:
            await bob.socket.call("session.ping")
            began = time.perf_counter()
            await deed(bob)
            assert (name, await bob.told("session.revoked")) == (name, reason)
            async with asyncio.timeout(WITHIN_S):
                await bob.socket.socket.wait_closed()
            took = time.perf_counter() - began
            assert (name, bob.socket.socket.close_code) == (name, 4503)
            assert took < WITHIN_S, name
            figures(f"{name} on another node: the socket ended after {took * 1e3:.0f} ms")


async def test_a_key_that_is_narrowed_may_less_on_another_node_within_a_second(
    house: House,
) -> None:
    async with house.bob("key") as bob:
        await bob.socket.conversation()
        await bob.himself.ask("apikey.update", {**bob.key, "scopes": ["conversation:create"]})
        assert await bob.told("subscription.ended") == "permission_denied"
        with pytest.raises(Refused) as refusal:
            await bob.socket.call("conversation.list")
        assert refusal.value.reason == "permission_denied"
        await bob.socket.conversation(follow=False)  # what is left to it goes on


async def test_a_second_factor_that_is_demanded_or_reset_is_missed_on_another_node_within_a_second(
    house: House,
) -> None:
    async with house.bob() as bob:

        async def must_enrol() -> None:
            assert await bob.told("subscription.ended") == "enrolment_required"
            with pytest.raises(Refused) as refusal:
                await bob.socket.call("conversation.list")
            assert refusal.value.reason == "enrolment_required"

        await bob.socket.conversation()
        await house.ada.ask("factor.require", {"role": "member"})
        await must_enrol()
        # Whoever demands it must have one as well.
        for each in (
            house.ada.ask,
            lambda name, params=None: bob.socket.call(name, **params or {}),
        ):
            secret = (await each("factor.enrol"))["secret"]
            await each("factor.confirm", {"code": pyotp.TOTP(secret).now()})
        bob.socket.notices.clear()
        await bob.socket.conversation()
        token = await house.here.letter(bob.user["user_id"], "factor")
        await house.here.hub.services.factor_resets.by_letter(token, None)
        await must_enrol()


async def test_wrong_guesses_count_on_every_node(nodes: tuple[ServedHub, ServedHub]) -> None:
    here, there = nodes
    await here.sign_up(EMAIL)
    said = []
    for number in range(26):
        node = (here, there)[number % 2]
        async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
            guess = {"email": EMAIL, "password": f"a wrong guess {number}"}
            answer = await client.post("/v1/auth/login", json=guess)
            said.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["data"]["details"]["retry_after_ms"] > 0
    assert said == [401] * 20 + [429] * 6
