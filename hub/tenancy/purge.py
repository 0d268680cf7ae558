"""The end of deleted tenants: when their grace is over, all that was theirs is deleted.

It goes in small transactions, so that nobody waits for it long, and can stop anywhere and go on on
another node: the tenant's own row and the memberships, by which the users are known who belong to
no tenant any more, go last.
"""

import asyncio
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.backplane.chore import Chore, Keep
from hub.backplane.interface import LOG_TTL_S, Backplane
from hub.faults import Fault
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    ClientSession,
    Conversation,
    LoginLink,
    LoginSession,
    MemberName,
    Membership,
    RefreshToken,
    Tenant,
    User,
    now,
)
from hub.telemetry.logs import log
from hub.tenancy.belongings import Part, of_tenant, of_user
from hub.tenancy.tenants import founder, locked

SWEEP_S: Final = 60.0
CHORE: Final = "tenants:purge"
BATCH: Final = 500
"""Rows that one transaction deletes."""
PAUSE_S: Final = 0.01
"""Between two of them."""

# What a user has in tenants that is not what they said there: it goes with them anywhere.
_THEIRS: Final[tuple[Any, ...]] = (LoginSession, LoginLink, ClientSession, MemberName)


class Purge:
    """Looks for tenants whose grace is over. ``start``, then ``close``."""

    def __init__(
        self, database: Database, backplane: Backplane, *, sweep_s: float = SWEEP_S
    ) -> None:
        self._database = database
        self._backplane = backplane
        self._chore = Chore(backplane, CHORE, self._purge_due, every_s=sweep_s)

    async def start(self) -> None:
        """Begin."""
        await self._chore.start()

    async def close(self) -> None:
        """Stop. Idempotent."""
        await self._chore.close()

    async def once(self) -> list[str]:
        """Purge the tenants that are due, unless another node does; the ids of those purged here.

        Raises Fault("backend_unavailable").
        """
        return await self._chore.once() or []

    async def _purge_due(self, keep: Keep) -> list[str]:
        due = select(Tenant.id).where(col(Tenant.purge_at) <= now()).order_by(col(Tenant.purge_at))
        async with self._database.read(EVERY_TENANT) as session:
            waiting = (await session.exec(due)).all()
        return [id for id in waiting if await self._purge(id, keep)]

    async def _purge(self, tenant_id: str, keep: Keep) -> bool:
        if not await self._begin(tenant_id):
            return False
        await self._discard_logs(tenant_id, keep)
        rows = 0
        for part in of_tenant(tenant_id):
            if part.kind is not Membership:
                rows += await self._empty(tenant_id, part, keep)
        users = await self._let_go(tenant_id, keep)
        async with self._database.write(EVERY_TENANT) as session:
            # Of the members that came back to it by hand, or of a trail that went on, nothing is
            # left either: the row goes with its references, or not at all.
            for part in of_tenant(tenant_id):
                await session.exec(_deleting(part.kind, part.condition))
            await session.exec(_deleting(Tenant, col(Tenant.id) == tenant_id))
            operators = await founder(session)
            if operators is not None:
                await record(
                    session,
                    operators,
                    "tenant.purge",
                    resource=("tenant", tenant_id),
                    details={"rows": rows, "users": users},
                )
        log.info("a deleted tenant was purged", rows=rows, users=users)
        return True

    async def _begin(self, tenant_id: str) -> bool:
        """From here on there is no way back; whether it is due all the same."""
        try:
            async with self._database.write(EVERY_TENANT) as session:
                tenant = await locked(session, tenant_id)
                if tenant.purge_at is None or tenant.purge_at > now():
                    return False  # it was restored meanwhile
                if tenant_id == await founder(session):
                    log.error("the tenant that the hub began with is marked as deleted; it stays")
                    return False
                if tenant.purge_began_at is None:
                    tenant.purge_began_at = now()
                    session.add(tenant)
        except Fault as fault:
            if fault.reason != "not_found":
                raise
            return False  # another node was faster
        return True

    async def _discard_logs(self, tenant_id: str, keep: Keep) -> None:
        """Have the backplane forget what was said, unless it must have by itself."""
        async with self._database.read(tenant_id) as session:
            since = select(Tenant.id).where(
                col(Tenant.id) == tenant_id,
                col(Tenant.deleted_at) < now() - timedelta(seconds=LOG_TTL_S),
            )
            if (await session.exec(since)).first() is not None:
                return
        after = ""
        page = select(Conversation.id).order_by(col(Conversation.id)).limit(BATCH)
        while True:
            await keep()
            async with self._database.read(tenant_id) as session:
                ids = (await session.exec(page.where(col(Conversation.id) > after))).all()
            for id in ids:
                await self._backplane.discard(f"conversation:{id}")
            if len(ids) < BATCH:
                return
            after = ids[-1]

    async def _empty(self, tenant_id: str, part: Part, keep: Keep) -> int:
        """Delete what the tenant has in one table; how many rows that were."""
        rows = 0
        for column in part.loops():
            async with self._database.write(tenant_id) as session:
                await session.exec(
                    update(part.kind)
                    .where(part.condition)
                    .values({column: None})
                    .execution_options(synchronize_session=False)
                )
        while True:
            await keep()
            # In the tenant's own scope: what is another's could not go, whatever the condition.
            async with self._database.write(tenant_id) as session:
                deleted = await session.exec(_deleting(part.kind, part.some(BATCH)))
                gone: int = deleted.rowcount
            rows += gone
            if gone < BATCH:
                return rows
            await asyncio.sleep(PAUSE_S)

    async def _let_go(self, tenant_id: str, keep: Keep) -> int:
        """End the memberships, and with them the users who have no other; how many these were."""
        some = (
            select(Membership.user_id)
            .where(Membership.tenant_id == tenant_id)
            .distinct()
            .limit(BATCH // 10)
        )
        users = 0
        while True:
            await keep()
            async with self._database.write(EVERY_TENANT) as session:
                user_ids = (await session.exec(some)).all()
                here = col(Membership.tenant_id) == tenant_id
                await session.exec(
                    _deleting(Membership, here & col(Membership.user_id).in_(user_ids))
                )
                for user_id in user_ids:
                    users += await _end_without_a_tenant(session, user_id)
            if not user_ids:
                return users
            await asyncio.sleep(PAUSE_S)


async def _end_without_a_tenant(session: AsyncSession, user_id: str) -> bool:
    """Delete a user who belongs to no tenant. One whose words are in a tenant that they left stays
    as their nameless author, and can never sign in.
    """
    member = select(Membership.id).where(Membership.user_id == user_id).limit(1)
    user = await session.get(User, user_id, with_for_update=True)
    if user is None or (await session.exec(member)).first() is not None:
        return False
    for kind in _THEIRS:
        theirs = kind.user_id == user_id
        if kind is LoginSession:
            of_theirs = select(LoginSession.id).where(theirs)
            await session.exec(_deleting(RefreshToken, col(RefreshToken.session_id).in_(of_theirs)))
        await session.exec(_deleting(kind, theirs))
    for part in of_user(user_id):
        await session.exec(_deleting(part.kind, part.condition))
    try:
        async with session.begin_nested():
            await session.exec(_deleting(User, col(User.id) == user_id))
    except IntegrityError:
        user.email = f"{user_id.lower()}@deleted.invalid"
        user.name = user.password_hash = None
        user.disabled_at = user.disabled_at or now()
        session.add(user)
    return True


def _deleting(kind: Any, condition: Any) -> Any:
    return delete(kind).where(condition).execution_options(synchronize_session=False)
