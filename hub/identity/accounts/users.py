"""Users, as their tenant's administrators see them: who they are, and whether they may come in.

An administrator acts in one tenant. Who is disabled there may be a member of others, and goes on
there; nobody learns of it here. An operator at the machine disables a user everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.holdings import may_change
from hub.identity.access.names import name_in
from hub.identity.access.owners import keep_an_owner
from hub.identity.access.ways_in import end_sessions, void_sign_ins
from hub.identity.accounts.addresses import address_or_nobodys, user_of
from hub.identity.accounts.joining import join_as_promised
from hub.identity.accounts.trails import tell
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    DisabledMember,
    LoginSession,
    MemberName,
    Membership,
    Role,
    Tenant,
    User,
    now,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A user in a tenant. ``name``: what they are called there; ``roles``: the names of those they
    have of themselves now; ``disabled_at``: there, or everywhere.
    """

    id: str
    email: str
    name: str | None
    roles: tuple[str, ...]
    joined_at: datetime
    last_seen_at: datetime | None
    verified_at: datetime | None
    disabled_at: datetime | None


class Users:
    """The members of tenants. ``changed(kind, id)`` is told of what must act at once."""

    def __init__(self, database: Database, changed: Changed) -> None:
        self._database = database
        self._changed = changed

    async def page(
        self, tenant_id: str, *, after: str | None, limit: int, email: str | None = None
    ) -> Sequence[Profile]:
        """Up to ``limit`` members, in the order of their ids, after the user ``after``."""
        members = (
            select(Membership.user_id).distinct().order_by(col(Membership.user_id)).limit(limit)
        )
        if after is not None:
            members = members.where(col(Membership.user_id) > after)
        if email is not None:
            members = members.join(User, col(User.id) == Membership.user_id).where(
                User.email == address_or_nobodys(email)
            )
        async with self._database.read(tenant_id) as session:
            ids = (await session.exec(members)).all()
            return await _profiles(session, tenant_id, ids)

    async def get(self, tenant_id: str, user_id: str) -> Profile:
        """A member. Raises Fault("not_found")."""
        async with self._database.read(tenant_id) as session:
            return await _profile(session, tenant_id, user_id)

    async def disable(self, tenant_id: str, by: Actor | None, user_id: str) -> Profile:
        """Let a member do nothing in the tenant any more, from now on.

        Raises Fault: "not_found", "permission_denied" (they rank above ``by``), "conflict" (``by``
        themself, or the last owner). One who is disabled already is left as they are.
        """
        async with self._database.write(tenant_id) as session:
            owns = await may_change(session, tenant_id, by, user_id, "user:disable")
            row = await session.get(DisabledMember, {"tenant_id": tenant_id, "user_id": user_id})
            if row is None:
                session.add(DisabledMember(tenant_id=tenant_id, user_id=user_id))
                await record(session, tenant_id, "user.disable", resource=("user", user_id))
                if owns:
                    await keep_an_owner(session, tenant_id)
            profile = await _profile(session, tenant_id, user_id)
        await announce(self._changed, ("user", user_id))
        return profile

    async def enable(self, tenant_id: str, by: Actor | None, user_id: str) -> Profile:
        """Let a member come in again. Who was disabled everywhere stays so.

        Raises Fault: "not_found", "permission_denied".
        """
        async with self._database.write(tenant_id) as session:
            await may_change(session, tenant_id, by, user_id, "user:disable")
            row = await session.get(DisabledMember, {"tenant_id": tenant_id, "user_id": user_id})
            if row is not None:
                await session.delete(row)
                await record(session, tenant_id, "user.enable", resource=("user", user_id))
                await session.flush()
            profile = await _profile(session, tenant_id, user_id)
        await announce(self._changed, ("user", user_id))
        return profile

    async def rename(
        self, tenant_id: str, by: Actor | None, user_id: str, name: str | None
    ) -> Profile:
        """Call a member something else in the tenant; None: by the name of their account again.

        Raises Fault: "not_found", "permission_denied" (they rank above ``by``), "conflict" (``by``
        themself, or a service account).
        """
        async with self._database.write(tenant_id) as session:
            await may_change(session, tenant_id, by, user_id, "user:disable")
            user = await session.get(User, user_id)
            assert user is not None, "a membership refers to it"
            if user.kind == "service":
                raise Fault("conflict", "A service account is renamed by service.update.")
            row = await session.get(MemberName, {"tenant_id": tenant_id, "user_id": user_id})
            if name is None and row is not None:
                await session.delete(row)
            elif name is not None:
                row = row or MemberName(tenant_id=tenant_id, user_id=user_id, name=name)
                row.name = name
                session.add(row)
            await record(session, tenant_id, "user.update", resource=("user", user_id))
            await session.flush()
            return await _profile(session, tenant_id, user_id)

    async def set_name(self, user_id: str, name: str | None, action: str) -> User:
        """Give an account another name, or none: its user does (``account.update``), or the
        operator (``user.update``). Raises Fault("not_found").
        """
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            user.name, user.updated_at = name, now()
            session.add(user)
            await tell(session, user_id, action)
        return user

    async def sign_out(self, tenant_id: str, by: Actor | None, user_id: str) -> None:
        """End all login sessions of a member in the tenant, and what waits to become one.
        Idempotent. Raises Fault as ``enable`` does, and "conflict" for ``by`` themself.
        """
        async with self._database.write(tenant_id) as session:
            await may_change(session, tenant_id, by, user_id, "session:revoke:any")
            await void_sign_ins(session, user_id)
            await end_sessions(session, col(LoginSession.user_id) == user_id)
            await record(session, tenant_id, "user.sign_out", resource=("user", user_id))
        await announce(self._changed, ("user", user_id))

    async def account(self, user_id: str) -> User:
        """A user, whichever tenant. Raises Fault("not_found")."""
        async with self._database.read(EVERY_TENANT) as session:
            user = await session.get(User, user_id)
        if user is None or user.deleted_at is not None:
            raise Fault("not_found")
        return user

    # --- for the operator, in every tenant ---

    async def everyone(
        self, tenant: str | None, *, after: str | None, limit: int
    ) -> Sequence[tuple[User, Sequence[str]]]:
        """Up to ``limit`` users of a tenant (by id or name) or of all, in the order of their ids,
        after the user ``after``; each with ``tenant:role`` of their memberships.
        """
        wanted = select(User).where(col(User.deleted_at).is_(None), col(User.id) > (after or ""))
        if tenant is not None:
            there = (
                select(Membership.user_id)
                .join(Tenant, col(Tenant.id) == Membership.tenant_id)
                .where(or_(col(Tenant.id) == tenant, col(Tenant.name) == tenant))
            )
            wanted = wanted.where(col(User.id).in_(there))
        async with self._database.read(EVERY_TENANT) as session:
            users = (await session.exec(wanted.order_by(col(User.id)).limit(limit))).all()
            places = await session.exec(
                select(Membership.user_id, Tenant.name, Role.name)
                .join(Tenant, col(Tenant.id) == Membership.tenant_id)
                .join(Role, col(Role.id) == Membership.role_id)
                .where(col(Membership.user_id).in_([user.id for user in users]))
                .order_by(col(Tenant.name), col(Role.rank))
            )
            held: dict[str, list[str]] = {}
            for user_id, name, role in places.all():
                held.setdefault(user_id, []).append(f"{name}:{role}")
        return [(user, held.get(user.id, [])) for user in users]

    async def find(self, email: str) -> User:
        """Whose address it is. Raises Fault("not_found")."""
        async with self._database.read(EVERY_TENANT) as session:
            user = await user_of(session, address_or_nobodys(email))
        if user is None:
            raise Fault("not_found", f"There is no account {email}.")
        return user

    async def set_disabled(self, user_id: str, disabled: bool) -> None:
        """Whether the user may come in anywhere. To enable them also takes back what tenants'
        administrators said.
        """
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            user.disabled_at = (user.disabled_at or now()) if disabled else None
            session.add(user)
            if not disabled:
                await session.exec(
                    delete(DisabledMember)
                    .where(col(DisabledMember.user_id) == user_id)
                    .execution_options(synchronize_session=False)
                )
            await tell(session, user_id, "user.disable" if disabled else "user.enable")
        await announce(self._changed, ("user", user_id))

    async def set_verified(self, user_id: str) -> None:
        """The operator says that the address is the user's."""
        async with self._database.write(EVERY_TENANT) as session:
            if (guest := await session.get(User, user_id)) is not None:
                await join_as_promised(session, guest)
            user = await session.get(User, user_id, with_for_update=True, populate_existing=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            user.verified_at = user.verified_at or now()
            session.add(user)
            await tell(session, user_id, "account.verify")


async def _profile(session: AsyncSession, tenant_id: str, user_id: str) -> Profile:
    found = await _profiles(session, tenant_id, [user_id])
    if not found:
        raise Fault("not_found")
    return found[0]


async def _profiles(session: AsyncSession, tenant_id: str, ids: Sequence[str]) -> Sequence[Profile]:
    """In the tenant, which is that of the session."""
    memberships = await session.exec(
        select(Membership, Role.name)
        .join(Role, col(Role.id) == Membership.role_id)
        .where(col(Membership.user_id).in_(ids))
    )
    roles: dict[str, set[str]] = {}
    joined: dict[str, datetime] = {}
    moment = now()
    for membership, name in memberships.all():
        held = roles.setdefault(membership.user_id, set())
        if membership.expires_at is None or membership.expires_at > moment:
            held.add(name)
        at = joined.setdefault(membership.user_id, membership.created_at)
        joined[membership.user_id] = min(at, membership.created_at)
    users = await session.exec(
        select(User, name_in(tenant_id)).where(col(User.id).in_(list(roles))).order_by(col(User.id))
    )
    disabled = await session.exec(
        select(DisabledMember.user_id, DisabledMember.disabled_at).where(
            col(DisabledMember.user_id).in_(list(roles))
        )
    )
    disabled_here = dict(disabled.all())
    seen = await session.exec(
        select(LoginSession.user_id, func.max(LoginSession.last_seen_at))
        .where(col(LoginSession.user_id).in_(list(roles)))
        .group_by(col(LoginSession.user_id))
    )
    last_seen = dict(seen.all())
    return [
        Profile(
            id=user.id,
            email=user.email,
            name=name,
            roles=tuple(sorted(roles[user.id])),
            joined_at=joined[user.id],
            last_seen_at=last_seen.get(user.id),
            verified_at=user.verified_at,
            disabled_at=user.disabled_at or disabled_here.get(user.id),
        )
        for user, name in users.all()
    ]
