"""Service accounts: actors that are programs. They have no password, and come in by API keys."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, func, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.api_keys import revoke_all
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, Role, User, now

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
    above them.
    """

    def __init__(
        self,
        database: Database,
        changed: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._changed = changed

    async def create(
        self, by: Actor | None, tenant_id: str, name: str, role: str | None = None
    ) -> Account:
        """A new account. Raises Fault: "not_found" for a role that is not there;
        "permission_denied" for one above that of ``by``.
        """
        role, user_id = role or ROLE, new_id("u")
        user = User(id=user_id, kind="service", email=f"{user_id.lower()}@{NOWHERE}", name=name)
        async with self._database.write(EVERY_TENANT) as session:
            found = await session.get(Role, role)
            if found is None or found.tenant_id not in (None, tenant_id):
                raise Fault("not_found", f"There is no role {role!r} here.")
            if by is not None and found.rank > await _rank(session, by.user_id, tenant_id):
                raise _above()
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
        return Account(user, (role,))

    async def page(
        self, tenant_id: str, only: str | None, after: str | None, limit: int
    ) -> list[Account]:
        """The accounts of the tenant, the newest first. ``only``: no other than this one."""
        wanted = _of(tenant_id).order_by(col(User.id).desc()).limit(limit)
        if only is not None:
            wanted = wanted.where(User.id == only)
        if after is not None:
            wanted = wanted.where(User.id < after)
        async with self._database.read(EVERY_TENANT) as session:
            users = (await session.exec(wanted)).all()
            return await _with_roles(session, tenant_id, users)

    async def get(self, tenant_id: str, service_id: str) -> Account:
        """An account. Raises Fault("not_found")."""
        async with self._database.read(EVERY_TENANT) as session:
            user = await _found(session, tenant_id, service_id)
            return (await _with_roles(session, tenant_id, [user]))[0]

    async def named(self, tenant_id: str, name: str) -> Account | None:
        """The oldest account of this name, if there is one."""
        wanted = _of(tenant_id).where(User.name == name).order_by(col(User.id)).limit(1)
        async with self._database.read(EVERY_TENANT) as session:
            accounts = await _with_roles(session, tenant_id, (await session.exec(wanted)).all())
        return accounts[0] if accounts else None

    async def rename(self, by: Actor, tenant_id: str, service_id: str, name: str) -> Account:
        """Give it another name. Raises Fault: "not_found", "permission_denied"."""

        async def act(session: AsyncSession, user: User) -> None:
            user.name = name

        await self._change(by, tenant_id, service_id, "service.update", act, renamed=name)
        return await self.get(tenant_id, service_id)

    async def disable(self, by: Actor, tenant_id: str, service_id: str) -> None:
        """Let it in no more, until it is enabled; its sockets and runs end. Idempotent.

        Raises Fault: "not_found", "permission_denied".
        """

        async def act(session: AsyncSession, user: User) -> None:
            user.disabled_at = user.disabled_at or now()

        await self._change(by, tenant_id, service_id, "service.disable", act)

    async def enable(self, by: Actor, tenant_id: str, service_id: str) -> None:
        """Let it in again. Idempotent. Raises Fault: "not_found", "permission_denied"."""

        async def act(session: AsyncSession, user: User) -> None:
            user.disabled_at = None

        await self._change(by, tenant_id, service_id, "service.enable", act)

    async def delete(self, by: Actor, tenant_id: str, service_id: str) -> None:
        """Take it out of the tenant for good, and end its keys. What it has written stays.

        Raises Fault: "not_found", "permission_denied".
        """

        async def act(session: AsyncSession, user: User) -> None:
            user.disabled_at = user.disabled_at or now()
            await revoke_all(session, user.id)
            await session.exec(delete(Membership).where(col(Membership.user_id) == user.id))

        await self._change(by, tenant_id, service_id, "service.delete", act)

    async def _change(
        self,
        by: Actor,
        tenant_id: str,
        service_id: str,
        action: str,
        act: Callable[[AsyncSession, User], Awaitable[None]],
        **details: str,
    ) -> None:
        async with self._database.write(EVERY_TENANT) as session:
            user = await _found(session, tenant_id, service_id, lock=True)
            theirs = await _rank(session, service_id, tenant_id)
            if theirs > await _rank(session, by.user_id, tenant_id):
                raise _above()
            known = {"name": user.name or "", **details}
            await act(session, user)
            user.updated_at = now()
            session.add(user)
            await record(
                session, tenant_id, action, resource=("service", service_id), details=known
            )
        await self._announce(service_id)

    async def _announce(self, user_id: str) -> None:
        if self._changed is None:
            return
        try:
            await self._changed("user", user_id)
        except Fault:
            # It is in the database, and every node looks there within seconds anyway.
            return


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
        .where(Membership.tenant_id == tenant_id, col(Membership.user_id).in_(list(held)))
        .order_by(Role.name)
    )
    for user_id, name in rows.all():
        held[user_id].append(name)
    return [Account(user, tuple(held[user.id])) for user in users]


async def _rank(session: AsyncSession, user_id: str, tenant_id: str) -> int:
    """The highest rank of somebody's roles in the tenant; 0 without any."""
    found = await session.exec(
        select(func.max(Role.rank))
        .join(Membership, col(Membership.role_id) == Role.id)
        .where(
            Membership.user_id == user_id,
            Membership.tenant_id == tenant_id,
            or_(col(Role.tenant_id).is_(None), col(Role.tenant_id) == tenant_id),
        )
    )
    return found.one() or 0


def _above() -> Fault:
    return Fault("permission_denied", "Nobody gives, or takes from, a rank above their own.")
