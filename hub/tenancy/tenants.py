"""Tenants, from the first to the last of them: made, settled, suspended, deleted and restored.

A tenant that is deleted is closed at once, as by suspending, and can be restored until its grace is
over; then ``hub.tenancy.purge`` takes it away for good. The tenant that the hub began with is the
operator's own: it administers the others, and is neither suspended nor deleted.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal

from sqlalchemy import or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import Origin, acting, current
from hub.audit.trail import Detail, record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.owners import lock
from hub.identity.accounts import invitations
from hub.ids import is_id, new_id
from hub.rbac.actor import Actor
from hub.rbac.roles import OWNER
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Tenant, now
from hub.storage.tenant_settings import TenantSettings, parsed

State = Literal["active", "suspended", "deleted"]

NAME_PATTERN: Final = r"^[A-Za-z0-9]+([ .-][A-Za-z0-9]+)*$"
"""What operators may call a tenant. Names with an @ are of those who registered, and one that began
with ``t_`` could be an id.
"""


def is_name(text: str) -> bool:
    """Whether operators may call a tenant so."""
    return len(text) <= 100 and re.fullmatch(NAME_PATTERN, text) is not None


def state_of(tenant: Tenant) -> State:
    """Whether its members can come in, and if not, why."""
    if tenant.deleted_at is not None:
        return "deleted"
    return "active" if tenant.suspended_at is None else "suspended"


async def founder(session: AsyncSession) -> str | None:
    """The tenant that the hub began with: the operator's. None before the first start."""
    oldest = select(Tenant.id).order_by(col(Tenant.created_at), col(Tenant.id)).limit(1)
    return (await session.exec(oldest)).first()


async def locked(session: AsyncSession, tenant_id: str) -> Tenant:
    """The tenant, changed by no one else meanwhile. Raises Fault("not_found")."""
    await lock(session, tenant_id)
    tenant = await session.get(Tenant, tenant_id)
    assert tenant is not None, "it is locked"
    return tenant


class Tenants:
    """The tenants of a hub. ``changed(kind, id)`` is told of what must act at once. ``by`` is who
    asks: a member of the tenant or of the operator's; None for the operator at the machine. No
    tenant settles to keep its audit trail for less than ``least_trail_days``.
    """

    def __init__(
        self,
        database: Database,
        *,
        grace_days: int,
        least_trail_days: int = 30,
        changed: Changed | None = None,
    ) -> None:
        self._database = database
        self._grace = timedelta(days=grace_days)
        self._least_trail_days = least_trail_days
        self._changed = changed
        self._founder: str | None = None

    async def create(
        self,
        name: str,
        *,
        by: Actor | None,
        owner: str | None = None,
        settings: TenantSettings | None = None,
    ) -> tuple[Tenant, str | None]:
        """A new tenant, and the code by which ``owner`` (an address in its normal form) comes into
        it as its owner, if one is named.

        Raises Fault: "conflict" when another tenant has the name; "invalid_params" as ``update``.
        """
        tenant = Tenant(id=new_id("t"), name=name)
        if settings is not None:
            self._check(settings)
            tenant.settings = settings.document()
        code = None
        async with self._database.write(EVERY_TENANT) as session:
            await self._take_name(session, name)
            session.add(tenant)
            await session.flush()
            if owner is not None:
                _, code = invitations.make(session, tenant.id, OWNER, None, owner)
            await self._record(session, tenant.id, "tenant.create", by, {"name": name})
        return tenant, code

    async def find(self, wanted: str) -> Tenant:
        """The tenant of this id, or of this name. Raises Fault("not_found")."""
        async with self._database.read(EVERY_TENANT) as session:
            named = or_(col(Tenant.id) == wanted, col(Tenant.name) == wanted)
            rows = await session.exec(select(Tenant).where(named).order_by(col(Tenant.id)).limit(2))
            found = [t for t in rows.all() if not is_id(wanted, "t") or t.id == wanted]
        if not found:
            raise Fault("not_found", f"There is no tenant {wanted}.")
        if len(found) > 1:
            raise Fault("conflict", f"There are several tenants {wanted}: name it by its id, t_….")
        return found[0]

    async def get(self, tenant_id: str) -> Tenant:
        """A tenant. Raises Fault("not_found")."""
        async with self._database.read(EVERY_TENANT) as session:
            found = await session.get(Tenant, tenant_id)
        if found is None:
            raise Fault("not_found")
        return found

    async def listed(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Up to ``limit`` tenants in the order of their ids, those after the id ``after``."""
        statement = select(Tenant).order_by(col(Tenant.id)).limit(limit)
        if after is not None:
            statement = statement.where(col(Tenant.id) > after)
        async with self._database.read(EVERY_TENANT) as session:
            return (await session.exec(statement)).all()

    async def update(self, tenant_id: str, changes: TenantSettings, *, by: Actor | None) -> Tenant:
        """Settle what ``changes`` was given; what it was not stays.

        Raises Fault: "not_found"; "invalid_params" for a trail that is kept for less time than the
        hub demands.
        """
        self._check(changes)
        async with self._database.write(EVERY_TENANT) as session:
            tenant = await locked(session, tenant_id)
            before = parsed(tenant.settings)
            after = before.changed(changes)
            changed = after.other_than(before)
            if not changed:
                return tenant
            tenant.settings = after.document()
            session.add(tenant)
            details: Mapping[str, Detail] = {"changed": changed}
            await self._record(session, tenant_id, "tenant.update", by, details)
        await announce(self._changed, ("tenant", tenant_id))
        return tenant

    def _check(self, settings: TenantSettings) -> None:
        days, least = settings.audit_retention_days, self._least_trail_days
        if days is not None and days < least:
            raise Fault(
                "invalid_params",
                f"audit_retention_days: at least {least} here, so that nobody is rid of the trail "
                "before it was looked into. The operator sets HUB_AUDIT_RETENTION_LEAST_DAYS.",
            )

    async def suspend(self, tenant_id: str, *, by: Actor | None) -> Tenant:
        """Close a tenant to all its members: sessions, sockets, streams and runs end on every node.
        One that is suspended already stays so.

        Raises Fault: "not_found"; "conflict" for one that is deleted, and the operator's own.
        """
        async with self._database.write(EVERY_TENANT) as session:
            tenant = await locked(session, tenant_id)
            await self._not_the_founder(session, tenant_id)
            _not_deleted(tenant)
            if tenant.suspended_at is not None:
                return tenant
            tenant.suspended_at = now()
            session.add(tenant)
            await self._record(session, tenant_id, "tenant.suspend", by)
        await announce(self._changed, ("tenant", tenant_id))
        return tenant

    async def resume(self, tenant_id: str, *, by: Actor | None) -> Tenant:
        """Open a suspended tenant again. One that is open stays so.

        Raises Fault: "not_found"; "conflict" for one that is deleted (see ``restore``).
        """
        async with self._database.write(EVERY_TENANT) as session:
            tenant = await locked(session, tenant_id)
            _not_deleted(tenant)
            if tenant.suspended_at is None:
                return tenant
            tenant.suspended_at = None
            session.add(tenant)
            await self._record(session, tenant_id, "tenant.resume", by)
        await announce(self._changed, ("tenant", tenant_id))
        return tenant

    async def delete(self, tenant_id: str, confirm: str, *, by: Actor | None) -> Tenant:
        """Close a tenant and mark it for its end, when the grace is over; ``confirm`` is its name.
        One that is deleted already stays as it is.

        Raises Fault: "not_found"; "invalid_params" for another name; "conflict" for the operator's
        own tenant.
        """
        async with self._database.write(EVERY_TENANT) as session:
            tenant = await locked(session, tenant_id)
            await self._not_the_founder(session, tenant_id)
            if confirm != tenant.name:
                raise Fault("invalid_params", "confirm: write the name of the tenant.")
            if tenant.deleted_at is not None:
                return tenant
            moment = now()
            tenant.deleted_at = moment
            tenant.suspended_at = tenant.suspended_at or moment
            tenant.purge_at = moment + self._grace
            session.add(tenant)
            details = {"purge_at": tenant.purge_at.isoformat()}
            await self._record(session, tenant_id, "tenant.delete", by, details)
        await announce(self._changed, ("tenant", tenant_id))
        return tenant

    async def restore(self, tenant_id: str, *, by: Actor | None) -> Tenant:
        """Take a deletion back within the grace. A tenant that was suspended before it is so again.

        Raises Fault: "not_found"; "conflict" when the grace is over. One that is not deleted stays
        as it is.
        """
        async with self._database.write(EVERY_TENANT) as session:
            tenant = await locked(session, tenant_id)
            if tenant.deleted_at is None:
                return tenant
            over = tenant.purge_at is None or tenant.purge_at <= now()
            if over or tenant.purge_began_at is not None:
                raise Fault("conflict", "The grace is over: the tenant cannot be restored.")
            if tenant.suspended_at == tenant.deleted_at:
                tenant.suspended_at = None
            tenant.deleted_at = tenant.purge_at = None
            session.add(tenant)
            await self._record(session, tenant_id, "tenant.restore", by)
        await announce(self._changed, ("tenant", tenant_id))
        return tenant

    async def _take_name(self, session: AsyncSession, name: str) -> None:
        # One at a time: names are unique by this alone, since those of people who registered are
        # not asked for.
        first = await self._founder_in(session)
        if first is not None:
            await lock(session, first)
        there = await session.exec(select(Tenant.id).where(Tenant.name == name).limit(1))
        if there.first() is not None:
            raise Fault("conflict", "There is a tenant of this name.")

    async def _not_the_founder(self, session: AsyncSession, tenant_id: str) -> None:
        if tenant_id == await self._founder_in(session):
            raise Fault(
                "conflict",
                "The hub began with this tenant: from here it is operated, so it stays open.",
            )

    async def _founder_in(self, session: AsyncSession) -> str | None:
        if self._founder is None:
            self._founder = await founder(session)
        return self._founder

    async def _record(
        self,
        session: AsyncSession,
        tenant_id: str,
        action: str,
        by: Actor | None,
        details: Mapping[str, Detail] | None = None,
    ) -> None:
        """In the tenant's trail. What an operator does is in the operators' own as well, and the
        tenant's does not say who it was: somebody of another tenant.
        """
        what: dict[str, Any] = {"resource": ("tenant", tenant_id), "details": details}
        operators = await self._founder_in(session)
        if operators in (None, tenant_id) or (by is not None and by.tenant_id == tenant_id):
            await record(session, tenant_id, action, **what)
            return
        with acting(Origin(transport=current().transport)):
            await record(session, tenant_id, action, **what)
        assert operators is not None
        await record(session, operators, action, **what)


def _not_deleted(tenant: Tenant) -> None:
    if tenant.deleted_at is not None:
        raise Fault("conflict", "The tenant is deleted; restore it first.")
