"""An orchestrator with quotas, and a user who asks it; on SQLite and on PostgreSQL."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hub.agents.generation import Generation, Output
from hub.agents.orchestrator import OnBusy, Orchestrator, Sent
from hub.agents.run_state import RunEvent
from hub.agents.tally import row_of
from hub.backplane.memory import MemoryBackplane
from hub.ids import new_id
from hub.inference.interface import ChatDone, ModelInfo
from hub.limits.ledger import QuotaName
from hub.limits.quotas import Quotas
from hub.limits.setting import Standing, Subject, set_quota, standings
from hub.rbac.actor import Actor
from hub.settings import read_settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, Membership, Run, Tenant, Usage, User
from hub.telemetry.metrics import Metrics


def used(run: Run, tokens: tuple[int, int], model: str = "echo") -> Usage | None:
    """What one answer of a run took, as its worker counts it."""
    generation = Generation(0, done=ChatDone("stop", *tokens))
    return row_of(run, ModelInfo(model, "ollama", 8_192), generation)


@dataclass
class Desk:
    """Quotas of settings, an orchestrator, and one user."""

    database: Database
    quotas: Quotas
    orchestrator: Orchestrator
    actor: Actor
    metrics: Metrics

    @property
    def me(self) -> Subject:
        return Subject(self.actor.tenant_id, "user", self.actor.user_id)

    def key(self, actor: Actor) -> Subject:
        """The API key by which an actor asks."""
        return Subject(actor.tenant_id, "key", actor.session_id)

    @property
    def tenant(self) -> Subject:
        return Subject(self.actor.tenant_id, "tenant", self.actor.tenant_id)

    async def set(self, name: QuotaName, limit: int | None, subject: Subject | None = None) -> None:
        """As the operator does."""
        async with self.database.write(self.actor.tenant_id) as session:
            await set_quota(session, self.quotas.terms, subject or self.me, name, limit, by=None)
        await self.quotas.changed(self.actor.tenant_id)

    async def conversation(self, model: str | None = None) -> str:
        row = Conversation(
            id=new_id("c"),
            tenant_id=self.actor.tenant_id,
            owner_id=self.actor.user_id,
            model=model,
        )
        async with self.database.write(self.actor.tenant_id) as session:
            session.add(row)
        return row.id

    async def send(
        self,
        conversation: str,
        content: str = "Hello",
        *,
        name: str | None = None,
        on_busy: OnBusy = "queue",
        model: str | None = None,
        actor: Actor | None = None,
    ) -> Sent:
        return await self.orchestrator.send(
            actor or self.actor,
            conversation,
            name or new_id("x"),
            content,
            model=model,
            on_busy=on_busy,
        )

    async def begin(self, conversation: str) -> Run:
        assignment = await self.orchestrator.next_assignment(self.actor.tenant_id, conversation)
        assert assignment is not None
        return assignment.run

    async def keep(self, run: Run, tokens: tuple[int, int], model: str = "echo") -> None:
        """Keep the first answer of a run that goes on to another."""
        output = Output(new_id("m"), "Well.", True, 0)
        await self.orchestrator.keep(run, output, used(run, tokens, model))

    async def finish(
        self,
        run: Run,
        tokens: tuple[int, int] = (0, 0),
        event: RunEvent = RunEvent.FINISHED,
        model: str = "echo",
        number: int = 0,
    ) -> bool:
        output = Output(new_id("m"), "So.", event is RunEvent.FINISHED, number)
        usage = used(run, tokens, model)
        return await self.orchestrator.finish(run, event, output=output, usage=usage, fault=None)

    async def standing(self, name: QuotaName, subject: Subject | None = None) -> Standing:
        async with self.database.read(self.actor.tenant_id) as session:
            found = await standings(session, self.quotas.terms, subject or self.me)
        return next(standing for standing in found if standing.name == name)

    async def stands(self, name: QuotaName, subject: Subject | None = None) -> tuple[int, int]:
        """What is used, and what is reserved."""
        found = await self.standing(name, subject)
        return found.used, found.reserved

    async def colleague(self) -> Actor:
        """Another user of the tenant."""
        actor = Actor(new_id("u"), self.actor.tenant_id, "", ("member",), frozenset())
        await _add(self.database, actor, "member")
        return actor


async def _add(database: Database, actor: Actor, role: str) -> None:
    async with database.write(EVERY_TENANT) as session:
        session.add(User(id=actor.user_id, email=f"{actor.user_id.lower()}@hub.example"))
        await session.flush()
        session.add(
            Membership(
                id=new_id("ms"), tenant_id=actor.tenant_id, user_id=actor.user_id, role_id=role
            )
        )


MakeDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def make_desk(database: Database) -> MakeDesk:
    """``await make_desk(**settings by environment name)``: a tenant of its own."""

    async def make(**environment: Any) -> Desk:
        actor = Actor(new_id("u"), new_id("t"), "", ("owner",), frozenset())
        async with database.write(EVERY_TENANT) as session:
            session.add(Tenant(id=actor.tenant_id, name="Ours"))
        await _add(database, actor, "owner")
        backplane, metrics = MemoryBackplane(), Metrics()
        quotas = Quotas(database, backplane, read_settings(**environment), metrics)
        await quotas.start()
        orchestrator = Orchestrator(database, backplane, quotas)
        return Desk(database, quotas, orchestrator, actor, metrics)

    return make


@pytest.fixture
async def desk(make_desk: MakeDesk) -> Desk:
    """Without defaults."""
    return await make_desk()
