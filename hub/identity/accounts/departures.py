"""Departures: how an account, or a membership with all that is the member's, comes to its end.

What is the person's goes in one transaction: address, name and password, memberships, sessions,
tokens, and whatever else refers to the user. The row stays, empty but for its id, for the messages
in others' conversations and for the audit trail, which speak of nobody by it. The conversations
follow after that (``hub.agents.erasure``), and a note of them is in the same transaction.
"""

from collections.abc import Callable
from typing import Final

from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.holdings import held_by, may_change
from hub.identity.access.owners import keep_an_owner
from hub.identity.access.shares import forget_shares
from hub.identity.accounts import invitations
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.roles import OWNER
from hub.storage.database import Database
from hub.storage.erasing import forget
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    Conversation,
    Erasure,
    Membership,
    Message,
    Run,
    Tenant,
    Usage,
    User,
    now,
)

STAYS: Final[tuple[type[SQLModel], ...]] = (Conversation, Message, Run, Usage, Erasure)
"""What goes on referring to a user who is no more, by an id that says nothing: a conversation until
it is deleted too, messages and runs in the conversations of others, and what was used.
"""


class Departures:
    """Ends accounts. ``changed(kind, id)`` is told of each, and ``erase()`` that conversations
    wait to be deleted.
    """

    def __init__(
        self,
        database: Database,
        changed: Changed,
        erase: Callable[[], None],
    ) -> None:
        self._database = database
        self._changed = changed
        self._erase = erase

    async def leave(self, user_id: str) -> None:
        """Delete the user's own account, everywhere.

        A tenant that they were alone in is suspended, and called by its id alone. Raises
        Fault("conflict") for the last owner of a tenant that others are in.
        """
        async with self._database.write(EVERY_TENANT) as session:
            tenants = await _tenants_of(session, user_id)
            owned = []
            for each in tenants:
                if not await _left_alone(session, user_id, each):
                    held = await held_by(session, each, user_id)
                    owned += [each] if OWNER in held.role_ids else []
            # The tenants before the user: whoever removes them takes the locks in this order.
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found")
            if await _tenants_of(session, user_id) != tenants:
                raise Fault("conflict", "Your memberships are being changed now; try again.")
            await _bury(session, user, "account.delete")
            for tenant_id in owned:
                await keep_an_owner(session, tenant_id)
        await self._announce(user_id)

    async def remove(self, tenant_id: str, by: Actor | None, user_id: str) -> None:
        """Delete a user from a tenant with all that is theirs there; and the account, if they are a
        member of no other. ``by`` None: the operator does.

        Raises Fault: "not_found", "permission_denied" (they rank above ``by``), "conflict" (``by``
        themself, or the last owner).
        """
        async with self._database.write(EVERY_TENANT) as session:
            owns = await may_change(session, tenant_id, by, user_id, "user:delete")
            user = await session.get(User, user_id, with_for_update=True)
            if user is None:
                raise Fault("not_found")
            if await _tenants_of(session, user_id) == [tenant_id]:
                await _bury(session, user, "user.delete")
            else:
                await record(session, tenant_id, "user.delete", resource=("user", user_id))
                await _forget_all(session, user_id, tenant_id)
                session.add(Erasure(id=new_id("er"), user_id=user_id, tenant_id=tenant_id))
            if owns:
                await keep_an_owner(session, tenant_id)
        await self._announce(user_id)

    async def erase(self, user_id: str) -> None:
        """Delete the account, everywhere, for an operator at the machine; also of a last owner.

        Raises Fault("not_found").
        """
        async with self._database.write(EVERY_TENANT) as session:
            for tenant_id in await _tenants_of(session, user_id):
                await _left_alone(session, user_id, tenant_id)
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            await _bury(session, user, "user.delete")
        await self._announce(user_id)

    async def _announce(self, user_id: str) -> None:
        self._erase()
        await announce(self._changed, ("user", user_id))


async def _left_alone(session: AsyncSession, user_id: str, tenant_id: str) -> bool:
    """Whether nobody else is in the tenant, which is abandoned then."""
    held = select(Tenant.id).where(Tenant.id == tenant_id)
    await session.exec(held.with_for_update())  # nobody joins meanwhile
    others = select(Membership.id).where(
        Membership.tenant_id == tenant_id, Membership.user_id != user_id
    )
    if (await session.exec(others.limit(1))).first() is not None:
        return False
    await _abandon(session, tenant_id)
    return True


async def _abandon(session: AsyncSession, tenant_id: str) -> None:
    """Nobody is left there. A tenant that somebody registered is called after their address."""
    tenant = await session.get(Tenant, tenant_id, with_for_update=True)
    if tenant is not None:
        tenant.suspended_at = tenant.suspended_at or now()
        if "@" in tenant.name:
            tenant.name = tenant.id
        session.add(tenant)


async def _bury(session: AsyncSession, user: User, action: str) -> None:
    for tenant_id in await _tenants_of(session, user.id):
        await record(session, tenant_id, action, resource=("user", user.id))
    # .invalid is nobody's domain (RFC 2606); an address is kept by one user only.
    user.email = f"{user.id.lower()}@deleted.invalid"
    user.name = user.password_hash = user.verified_at = None
    user.disabled_at = user.deleted_at = now()
    session.add(user)
    await session.flush()
    await _forget_all(session, user.id)
    session.add(Erasure(id=new_id("er"), user_id=user.id))


async def _forget_all(session: AsyncSession, user_id: str, tenant_id: str | None = None) -> None:
    """Delete what refers to a user, in one tenant or (None) in all."""
    await invitations.void(session, user_id, tenant_id)
    await forget(session, User, [user_id], keep=STAYS, tenant_id=tenant_id)
    # After the membership: what is being shared with a member holds it until that is seen here.
    await forget_shares(session, user_id, tenant_id)


async def _tenants_of(session: AsyncSession, user_id: str) -> list[str]:
    """In one order, in which they are locked."""
    found = await session.exec(
        select(Membership.tenant_id)
        .where(Membership.user_id == user_id)
        .distinct()
        .order_by(col(Membership.tenant_id))
    )
    return list(found.all())
