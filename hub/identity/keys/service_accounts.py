"""Service accounts: actors that are programs. They have no password, and come in by API keys."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.holdings import hand_of, held_by, lives
from hub.identity.access.owners import keep_an_owner
from hub.identity.access.shares import forget_shares
from hub.identity.access.ways_in import revoke_keys
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.permissions import ANY
from hub.rbac.ranks import why_not_give, why_not_touch
from hub.rbac.roles import OWNER
from hub.storage.database import Database
from hub.storage.tables import GroupMember, Membership, Role, User, now

ROLE: Final = "service"
"""The role of an account that is given none."""
NOWHERE: Final = "service.invalid"
"""The domain of their addresses: no mail can be sent there (RFC 2606), nobody signs in by one."""


class Account(NamedTuple):
    """A service account, and the roles that it has in its tenant."""

    user: User
    roles: tuple[str, ...]


class ServiceAccounts:
    """The service accounts. ``changed("user", id)`` is told of what must act at once.

    ``by`` is None for the operator at the machine; others make and change no account that ranks
    above them, by roles of its own or of its groups. Whether they may is decided in the transaction
    that changes it.
    """

    def __init__(self, database: Database, changed: Changed | None = None) -> None:
        self._database = database
        self._changed = changed

    async def create(
        self, by: Actor | None, tenant_id: str, name: str, role: str | None = None
    ) -> Account:
        """A new account. Raises Fault: "not_found" for a role that is not there;
        "permission_denied" for one that is not for ``by`` to give.
        """
        role, user_id = role or ROLE, new_id("u")
        user = User(id=user_id, kind="service", email=f"{user_id.lower()}@{NOWHERE}", name=name)
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, "service:create")
            if role not in definitions:
                raise Fault("not_found", f"There is no role {role!r} here.")
            if (why := why_not_give(hand, [role], definitions)) is not None:
                raise Fault("permission_denied", why)
            session.add(user)
            await session.flush()
            session.add(
                Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=user_id, role_id=role)
            )
            await record(
                session,
                tenant_id,
                "service.create",
                resource=("service", user_id),
                details={"name": name, "role": role},
            )
        return Account(user, (definitions[role].name,))

    async def page(
        self, tenant_id: str, only: str | None, after: str | None, limit: int
    ) -> list[Account]:
        """The accounts of the tenant, the newest first. ``only``: no other than this one."""
        wanted = _of(tenant_id).order_by(col(User.id).desc()).limit(limit)
        if only is not None:
            wanted = wanted.where(User.id == only)
        if after is not None:
            wanted = wanted.where(User.id < after)
        async with self._database.read(tenant_id) as session:
            users = (await session.exec(wanted)).all()
            return await _with_roles(session, tenant_id, users)

    async def get(self, tenant_id: str, service_id: str) -> Account:
        """An account. Raises Fault("not_found")."""
        async with self._database.read(tenant_id) as session:
            user = await _found(session, tenant_id, service_id)
            return (await _with_roles(session, tenant_id, [user]))[0]

    async def named(self, tenant_id: str, name: str) -> Account | None:
        """The oldest account of this name, if there is one."""
        wanted = _of(tenant_id).where(User.name == name).order_by(col(User.id)).limit(1)
        async with self._database.read(tenant_id) as session:
            accounts = await _with_roles(session, tenant_id, (await session.exec(wanted)).all())
        return accounts[0] if accounts else None

    async def rename(self, by: Actor | None, tenant_id: str, service_id: str, name: str) -> Account:
        """Give it another name. Raises Fault: "not_found", "permission_denied"."""

        async def act(session: AsyncSession, user: User) -> None:
            user.name = name

        await self._change(by, tenant_id, service_id, "update", act, renamed=name)
        return await self.get(tenant_id, service_id)

    async def disable(self, by: Actor | None, tenant_id: str, service_id: str) -> None:
        """Let it in no more, until it is enabled; its sockets and runs end. Idempotent.

        Raises Fault: "not_found", "permission_denied"; "conflict" for the last owner.
        """

        async def act(session: AsyncSession, user: User) -> None:
            user.disabled_at = user.disabled_at or now()

        await self._change(by, tenant_id, service_id, "disable", act)

    async def enable(self, by: Actor | None, tenant_id: str, service_id: str) -> None:
        """Let it in again. Idempotent. Raises Fault: "not_found", "permission_denied"."""

        async def act(session: AsyncSession, user: User) -> None:
            user.disabled_at = None

        await self._change(by, tenant_id, service_id, "enable", act)

    async def delete(self, by: Actor | None, tenant_id: str, service_id: str) -> None:
        """Take it out of the tenant for good, with its keys, its groups and what was shared with
        it. What it has written stays. Raises Fault as ``disable`` does.
        """

        async def act(session: AsyncSession, user: User) -> None:
            user.disabled_at = user.disabled_at or now()
            await revoke_keys(session, user.id)
            for table in (GroupMember, Membership):
                await session.exec(delete(table).where(col(table.user_id) == user.id))
            # After the membership: what is being shared with a member holds it until that is seen.
            await forget_shares(session, user.id, tenant_id)

        await self._change(by, tenant_id, service_id, "delete", act)

    async def _change(
        self,
        by: Actor | None,
        tenant_id: str,
        service_id: str,
        verb: str,
        act: Callable[[AsyncSession, User], Awaitable[None]],
        **details: str,
    ) -> None:
        permission = f"service:{'delete' if verb == 'delete' else 'write'}"
        if by is None or by.user_id != service_id:
            permission += ANY
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, permission)
            user = await _found(session, tenant_id, service_id, lock=True)
            theirs = (await held_by(session, tenant_id, service_id)).role_ids
            if (why := why_not_touch(hand, theirs, definitions)) is not None:
                raise Fault("permission_denied", why)
            known = {"name": user.name or "", **details}
            await act(session, user)
            user.updated_at = now()
            session.add(user)
            if OWNER in theirs and user.disabled_at is not None:
                await keep_an_owner(session, tenant_id)
            await record(
                session,
                tenant_id,
                f"service.{verb}",
                resource=("service", service_id),
                details=known,
            )
        await announce(self._changed, ("user", service_id))


def _of(tenant_id: str) -> Any:
    members = select(Membership.user_id).where(Membership.tenant_id == tenant_id)
    return select(User).where(User.kind == "service", col(User.id).in_(members))


async def _found(
    session: AsyncSession, tenant_id: str, service_id: str, *, lock: bool = False
) -> User:
    wanted = _of(tenant_id).where(User.id == service_id)
    user: User | None = (
        await session.exec(wanted.with_for_update() if lock else wanted)
    ).one_or_none()
    if user is None:
        raise Fault("not_found")
    return user


async def _with_roles(session: AsyncSession, tenant_id: str, users: Any) -> list[Account]:
    held: dict[str, list[str]] = {user.id: [] for user in users}
    rows = await session.exec(
        select(Membership.user_id, Role.name)
        .join(Role, col(Role.id) == Membership.role_id)
        .where(
            Membership.tenant_id == tenant_id,
            col(Membership.user_id).in_(list(held)),
            lives(now()),
        )
        .order_by(Role.name)
    )
    for user_id, name in rows.all():
        held[user_id].append(name)
    return [Account(user, tuple(held[user.id])) for user in users]
