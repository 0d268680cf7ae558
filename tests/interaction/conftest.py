"""One hub for all behaviours of a module, and people on every transport."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.interaction.drivers import TRANSPORTS, Caller, Transport
from tests.parts.hub import PASSWORD, ServedHub, serving
from tests.parts.scripted import ScriptedModel

_NUMBERS = count(1)


@dataclass
class Person:
    """A user who is signed in, and asks on the transport of the test."""

    email: str
    session: dict[str, Any]
    ask: Callable[..., Awaitable[dict[str, Any]]]

    @property
    def token(self) -> str:
        return str(self.session["access_token"])

    async def conversation(self, **params: Any) -> str:
        """Begin a conversation: its id."""
        return str((await self.ask("conversation.create", {"model": "echo", **params}))["id"])


@dataclass
class World:
    """A hub that serves, and one way to ask it."""

    hub: ServedHub
    transport: Transport
    name: str
    people: list[Person] = field(default_factory=list)

    async def owner(self) -> Person:
        """Somebody new, in a tenant of their own."""
        email = f"owner-{next(_NUMBERS)}@hub.example"
        return await self._person(email, await self.hub.sign_up(email))

    async def colleague(self, owner: Person, role: str) -> Person:
        """Somebody new, in the tenant of ``owner``."""
        email = f"{role}-{next(_NUMBERS)}@hub.example"
        services = self.hub.hub.services
        tenant_id = services.tokens.read(owner.session["access_token"]).tenant_id
        await services.accounts.create_user(email, PASSWORD, tenant_id, role)
        return await self.login(email)

    async def login(self, email: str, tenant: str | None = None) -> Person:
        """Somebody who is there already, signed in anew."""
        account = {"email": email, "password": PASSWORD}
        if tenant is not None:
            account["tenant"] = tenant
        async with httpx.AsyncClient(base_url=self.hub.url, trust_env=False) as client:
            answer = await client.post("/v1/auth/login", json=account)
        return await self._person(email, answer.raise_for_status().json())

    async def nobody(self) -> Caller:
        """Somebody without credentials."""
        return await self.transport.caller(None)

    async def _person(self, email: str, session: dict[str, Any]) -> Person:
        caller = await self.transport.caller(session["access_token"])
        return Person(email, session, caller.ask)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> AsyncIterator[ServedHub]:
    """A hub for all tests of a module, which keep to people of their own."""
    folder = tmp_path_factory.mktemp("hub")
    async with serving(folder / ".hub", OLLAMA_HOST=scripted_model.host) as hub:
        yield hub


@pytest_asyncio.fixture(params=TRANSPORTS, loop_scope="module")
async def world(request: pytest.FixtureRequest, shared_hub: ServedHub) -> AsyncIterator[World]:
    """The hub, through each transport."""
    async with AsyncExitStack() as stack:
        transport = TRANSPORTS[request.param](shared_hub.url, stack)
        yield World(shared_hub, transport, request.param)
