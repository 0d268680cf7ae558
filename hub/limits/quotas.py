"""The quotas that apply to whoever asks: known without a question, reserved in a transaction.

Which accounts have a limit is kept for a while, as an actor is (``hub.identity.access.authority``):
a change is published, and every node forgets what it knew of that tenant; one that is not told
looks again within ``KNOWN_S``. What the limit is, and what is left of it, is read in the
transaction that takes of it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.ids import is_id, new_id
from hub.limits import book
from hub.limits.book import Claim
from hub.limits.ledger import NAMES, SUBJECT_KINDS, Account, Line, SubjectKind, thing_of
from hub.limits.terms import terms_of
from hub.rbac.actor import Actor
from hub.rbac.permissions import holds
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import prebuilt
from hub.storage.tables import Quota
from hub.telemetry.metrics import Metrics

TOPIC: Final = "quotas"
KNOWN_S: Final = 5.0
KNOWN: Final = 20_000
"""Tenants whose quotas a node keeps in mind."""

KEY_PREFIX: Final = "ak"
"""Of the ids of API keys."""

_SET: Final = prebuilt(
    select(Quota.subject_kind, Quota.subject_id, Quota.name, Quota.amount).where(
        col(Quota.amount).is_not(None)
    )
)

Limits = Mapping[tuple[str, str], Mapping[str, int]]
"""What is set in a tenant: by kind and id of the subject, the limit of each quota."""


class _Known(NamedTuple):
    limits: Limits
    until: float  # of time.monotonic()


@dataclass(frozen=True, slots=True)
class Allowance:
    """The accounts of an actor that have a limit; there is at least one."""

    accounts: tuple[Account, ...]
    sees_all: bool

    def claims(self, demand: Mapping[str, int]) -> tuple[Claim, ...]:
        """What a demand (of requests, runs, tokens, budget) claims of them."""
        wanted = ((account, demand.get(thing_of(account.name), 0)) for account in self.accounts)
        return tuple((account, amount) for account, amount in wanted if amount > 0)

    @property
    def in_money(self) -> bool:
        """Whether it matters what a run will cost."""
        return any(thing_of(account.name) == "budget" for account in self.accounts)


class Quotas:
    """The quotas of all tenants. ``await start()`` before use."""

    def __init__(
        self, database: Database, backplane: Backplane, settings: Settings, metrics: Metrics
    ) -> None:
        """Raises BadSettings for defaults and prices that cannot be."""
        self.terms: Final = terms_of(settings)
        self._database = database
        self._backplane = backplane
        self._metrics = metrics
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Limits]] = {}
        # Of questions that are under way, by tenant: whether its quotas have changed since.
        self._changed_since: dict[str, bool] = {}
        self._self = new_id("n")

    async def start(self) -> None:
        """Listen to changes. Raises Fault("backend_unavailable")."""
        await self._backplane.listen(TOPIC, self._heard)

    async def allowance(self, actor: Actor) -> Allowance | None:
        """What applies to the actor; None, as a rule, if nothing does.

        Raises Fault("backend_unavailable") if that cannot be known.
        """
        limits = await self._limits(actor.tenant_id)
        if not limits and not any(self.terms.defaults.values()):
            return None
        accounts = []
        for kind, id in subjects_of(actor):
            own = limits.get((kind, id), {})
            accounts += [
                Account(actor.tenant_id, kind, id, name)
                for name in NAMES
                if own.get(name, self.terms.default(kind, name))
            ]
        if not accounts:
            return None
        return Allowance(tuple(accounts), holds(actor.permissions, "quota:read:any"))

    async def post(
        self,
        session: AsyncSession,
        claims: Sequence[Claim],
        ended: Iterable[tuple[Line, int]] = (),
        *,
        sees_all: bool = False,
    ) -> tuple[Line, ...]:
        """``hub.limits.book.post``, on the terms of this hub."""
        return await book.post(session, self.terms, claims, ended, sees_all=sees_all)

    def refused(self, fault: Fault) -> None:
        """Count a refusal."""
        details = fault.details
        self._metrics.quota_refusals.labels(details["subject"], details["quota"]).inc()

    async def changed(self, tenant_id: str) -> None:
        """Say that a tenant's quotas have changed, after that was committed.

        This node acts on it before this awaits anything. Raises Fault("backend_unavailable") when
        other nodes could not be told; they find out within ``KNOWN_S``.
        """
        self._forget(tenant_id)
        message = {"tenant": tenant_id, "from": self._self}
        await self._backplane.publish(TOPIC, orjson.dumps(message))

    def _heard(self, message: bytes) -> None:
        change = orjson.loads(message)
        if change["from"] != self._self:
            self._forget(change["tenant"])

    def _forget(self, tenant_id: str) -> None:
        if tenant_id in self._changed_since:
            self._changed_since[tenant_id] = True
        self._known.pop(tenant_id, None)

    async def _limits(self, tenant_id: str) -> Limits:
        known = self._known.get(tenant_id)
        if known is not None and known.until > time.monotonic():
            return known.limits
        # One question for all who ask at once; one of them may be cancelled.
        asking = self._asking.get(tenant_id)
        if asking is None:
            asking = self._asking[tenant_id] = asyncio.create_task(self._look_up(tenant_id))
            asking.add_done_callback(lambda _: self._asking.pop(tenant_id, None))
        return await asyncio.shield(asking)

    async def _look_up(self, tenant_id: str) -> Limits:
        changed = self._changed_since
        changed[tenant_id] = True
        try:
            while changed[tenant_id]:
                changed[tenant_id] = False  # of others it does not matter: some always change
                began = time.monotonic()
                async with self._database.read(tenant_id) as session:
                    rows = (await session.exec(_SET)).all()
        finally:
            del changed[tenant_id]
        limits: dict[tuple[str, str], dict[str, int]] = {}
        for kind, id, name, amount in rows:
            limits.setdefault((kind, id), {})[name] = amount or 0
        self._known[tenant_id] = _Known(limits, began + KNOWN_S)
        self._known.move_to_end(tenant_id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return limits


def subjects_of(actor: Actor) -> Iterable[tuple[SubjectKind, str]]:
    """Whose quotas apply to what an actor does, the nearest first."""
    by_key = is_id(actor.session_id, KEY_PREFIX)  # what was signed in with, if it was no key
    ids = {
        "user": actor.user_id,
        "key": actor.session_id if by_key else "",
        "tenant": actor.tenant_id,
    }
    return [(kind, id) for kind in SUBJECT_KINDS if (id := ids[kind])]
