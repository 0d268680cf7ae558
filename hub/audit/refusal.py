"""A refusal, what the trail says of it, and whose trail that is.

A sign-in that failed belongs to the tenant that it would have entered. That of an address which
has no account belongs to nobody's: it goes to the operator's tenant, the oldest, with the SHA-256
of the address if it looks like one, since people type other secrets there by mistake.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlmodel import col, select

from hub.audit.origin import Origin
from hub.audit.trail import Detail, Outcome
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, Tenant, User

Sort = Literal["sensitive", "sign-in", "everyday"]

_ADDRESS: Final = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@.]+")
"""What has the look of an address: of anything else, a password for one, no hash is kept, either,
from which it could be guessed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was refused; ``reason`` is of the fault table.

    Without a ``tenant_id`` it was a sign-in, by the ``email`` that was given, if any, into the
    ``tenant`` (id or name) that was asked for, if any. ``everyday``: of no sensitive operation.
    """

    action: str
    outcome: Outcome
    reason: str
    origin: Origin
    tenant_id: str | None = None
    resource: tuple[str, str] | None = None
    email: str | None = None
    tenant: str | None = None
    everyday: bool = False

    @property
    def sort(self) -> Sort:
        """Whose budget it is of. Who is not known to be anybody can only sign in."""
        if self.origin.actor_id is None:
            return "sign-in"
        return "everyday" if self.everyday else "sensitive"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the trail says of something that was not done."""

    action: str
    outcome: Outcome
    origin: Origin
    resource: tuple[str, str] | None
    details: dict[str, Detail]


class Places:
    """Finds out whose refusals are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._operators: str | None = None

    async def of(self, refusals: Iterable[Refusal]) -> list[tuple[str | None, Entry]]:
        """The entry of each, and the tenant that it belongs to; None while there is no tenant."""
        accounts = await self._accounts(
            {address for one in refusals if (address := _address(one)) is not None}
        )
        places: list[tuple[str | None, Entry]] = []
        for one in refusals:
            details: dict[str, Detail] = {"reason": one.reason}
            resource, tenant_id, address = one.resource, one.tenant_id, _address(one)
            if address is not None:
                user_id, tenants = accounts.get(address, (None, []))
                if user_id is not None:
                    resource = ("user", user_id)
                elif _ADDRESS.fullmatch(address):
                    details["email_sha256"] = hashlib.sha256(address.encode()).hexdigest()
                tenant_id = _entered(tenants, one.tenant)
            entry = Entry(one.action, one.outcome, one.origin, resource, details)
            places.append((tenant_id or await self.operators(), entry))
        return places

    async def _accounts(self, addresses: set[str]) -> dict[str, tuple[str, list[tuple[str, str]]]]:
        """The user of each address that has one, and the tenants (id, name) that they are of."""
        if not addresses:
            return {}
        statement: Any = (
            select(User.email, User.id, Membership.tenant_id, Tenant.name)
            .join(Membership, col(Membership.user_id) == User.id, isouter=True)
            .join(Tenant, col(Tenant.id) == Membership.tenant_id, isouter=True)
            .where(col(User.email).in_(addresses))
            .order_by(col(Membership.created_at), col(Membership.id))
        )
        async with self._database.read(EVERY_TENANT) as session:
            rows = (await session.exec(statement)).all()
        found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
        for email, user_id, tenant_id, name in rows:
            _, tenants = found.setdefault(email, (user_id, []))
            if tenant_id is not None:
                tenants.append((tenant_id, name))
        return found

    async def operators(self) -> str | None:
        """The operator's tenant; None while there is none."""
        if self._operators is None:
            oldest = select(Tenant.id).order_by(col(Tenant.created_at), col(Tenant.id)).limit(1)
            async with self._database.read(EVERY_TENANT) as session:
                self._operators = (await session.exec(oldest)).first()
        return self._operators


def _address(refusal: Refusal) -> str | None:
    if refusal.tenant_id is not None or refusal.email is None:
        return None
    return refusal.email.strip().lower()[:320]


def _entered(tenants: list[tuple[str, str]], wanted: str | None) -> str | None:
    """The tenant that was asked for, if the user is of it, or the one that they are of longest."""
    named = [id for id, name in tenants if wanted in (id, name)]
    return next(iter(named or [id for id, _ in tenants]), None)
