"""Who belongs to a tenant: its members, the invitations that wait, and how one comes and goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import col, select

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.definitions import role_named
from hub.identity.access.holdings import hand_of, held_by, is_known, lives
from hub.identity.access.names import name_in
from hub.identity.access.owners import keep_an_owner
from hub.identity.access.shares import forget_shares
from hub.identity.accounts import invitations
from hub.identity.accounts.joining import join
from hub.rbac.actor import Actor
from hub.rbac.ranks import why_not_give, why_not_touch
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    ClientSession,
    GroupMember,
    Invitation,
    MemberName,
    Membership,
    Role,
    Tenant,
    User,
    now,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a tenant. ``name``: what they are called there; ``roles`` are the names of those
    they have now, none for who was a member for a while that is over; ``disabled``: the user can
    sign in nowhere.
    """

    user_id: str
    email: str
    name: str | None
    roles: tuple[str, ...]
    since: datetime
    disabled: bool


@dataclass(frozen=True, slots=True)
class Belonging:
    """A tenant that a user may enter, and the names of their roles there."""

    tenant: Tenant
    roles: tuple[str, ...]


class Members:
    """The members of tenants. ``changed(kind, id)`` is told of what must act at once."""

    def __init__(self, database: Database, *, changed: Changed | None = None) -> None:
        self._database = database
        self._changed = changed

    async def listed(self, tenant_id: str, after: str | None, limit: int) -> list[Member]:
        """Up to ``limit`` members in the order of their ids, those after the id ``after``."""
        ids = select(Membership.user_id).distinct().order_by(col(Membership.user_id)).limit(limit)
        if after is not None:
            ids = ids.where(col(Membership.user_id) > after)
        async with self._database.read(tenant_id) as session:
            user_ids = (await session.exec(ids)).all()
            rows = await session.exec(
                select(User, name_in(tenant_id), Membership, Role.name)
                .join(Membership, col(Membership.user_id) == User.id)
                .join(Role, col(Role.id) == Membership.role_id)
                .where(col(User.id).in_(user_ids))
                .order_by(col(User.id), col(Role.rank).desc(), col(Role.name))
            )
            found = rows.all()
        moment = now()
        users = {user.id: (user, name) for user, name, *_ in found}
        held = [
            (row.user_id, role)
            for _, _, row, role in found
            if row.expires_at is None or row.expires_at > moment
        ]
        return [
            Member(
                user.id,
                user.email,
                name,
                tuple(role for user_id, role in held if user_id == user.id),
                min(row.created_at for _, _, row, _ in found if row.user_id == user.id),
                user.disabled_at is not None,
            )
            for user, name in users.values()
        ]

    async def remove(self, tenant_id: str, user_id: str, *, by: Actor | None) -> None:
        """End a membership: the user's sessions, streams and runs in the tenant, and the
        invitations that rest on their rank. The user, and what they said there, stay.

        Raises Fault: "not_found" for who is no member; "permission_denied" for who ranks above
        ``by``; "conflict" for the last owner.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, "member:remove")
            if not await is_known(session, tenant_id, user_id):
                raise Fault("not_found")
            theirs = await held_by(session, tenant_id, user_id)
            if (why := why_not_touch(hand, theirs.role_ids, definitions)) is not None:
                raise Fault("permission_denied", why)
            for table, whose in (
                (Membership, col(Membership.user_id)),
                (GroupMember, col(GroupMember.user_id)),
                (ClientSession, col(ClientSession.user_id)),
                (MemberName, col(MemberName.user_id)),
                (Invitation, col(Invitation.invited_by)),
            ):
                await session.exec(delete(table).where(whose == user_id))
            await forget_shares(session, user_id, tenant_id)
            await keep_an_owner(session, tenant_id)
            await record(session, tenant_id, "member.remove", resource=("user", user_id))
        await announce(self._changed, ("user", user_id))

    async def of(self, user_id: str, after: str | None, limit: int) -> list[Belonging]:
        """Up to ``limit`` tenants that a user may enter, in the order of their ids, those after the
        id ``after``.
        """
        mine = (
            select(Membership.tenant_id)
            .join(Tenant, col(Tenant.id) == Membership.tenant_id)
            .where(Membership.user_id == user_id, lives(now()), col(Tenant.suspended_at).is_(None))
            .distinct()
            .order_by(col(Membership.tenant_id))
            .limit(limit)
        )
        if after is not None:
            mine = mine.where(col(Membership.tenant_id) > after)
        async with self._database.read(EVERY_TENANT) as session:
            tenant_ids = (await session.exec(mine)).all()
            rows = await session.exec(
                select(Tenant, Role.name)
                .join(Membership, col(Membership.tenant_id) == Tenant.id)
                .join(Role, col(Role.id) == Membership.role_id)
                .where(Membership.user_id == user_id, col(Tenant.id).in_(tenant_ids), lives(now()))
                .order_by(col(Tenant.id), col(Role.rank).desc(), col(Role.name))
            )
            found = rows.all()
        tenants = {tenant.id: tenant for tenant, _ in found}
        return [
            Belonging(tenant, tuple(role for one, role in found if one.id == tenant.id))
            for tenant in tenants.values()
        ]

    # --- invitations ---

    async def invite(
        self, tenant_id: str, role: str, email: str | None, *, by: Actor | None
    ) -> tuple[Invitation, str]:
        """A new invitation into a role (by id or name), and its code. ``email``, in its normal
        form: for this person alone. ``by`` None: it rests on nobody's rank.

        Raises Fault: "not_found" for a role that the tenant does not have; "permission_denied" for
        one above the inviter's own rank, or that may do what they may not; "conflict" for an
        address of a domain that the tenant does not take.
        """
        async with self._database.write(tenant_id) as session:
            hand, definitions = await hand_of(session, tenant_id, by, invitations.PERMISSION)
            role_id = role_named(role, definitions)
            if (why := why_not_give(hand, (role_id,), definitions)) is not None:
                raise Fault("permission_denied", why)
            if email is not None:
                await invitations.check_address(session, tenant_id, email)
            made, code = invitations.make(session, tenant_id, role_id, hand.user_id, email)
            await session.flush()
            await record(
                session,
                tenant_id,
                "invitation.create",
                resource=("invitation", made.id),
                details={"role": role_id, "addressed": email is not None},
            )
        return made, code

    async def invited(self, tenant_id: str, after: str | None, limit: int) -> Sequence[Invitation]:
        """Up to ``limit`` invitations that can still be accepted, in the order of their ids, those
        after the id ``after``.
        """
        statement = (
            select(Invitation)
            .where(col(Invitation.used_at).is_(None), col(Invitation.expires_at) > now())
            .order_by(col(Invitation.id))
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(col(Invitation.id) > after)
        async with self._database.read(tenant_id) as session:
            return (await session.exec(statement)).all()

    async def revoke_invitation(self, tenant_id: str, invitation_id: str) -> None:
        """Make an invitation void. Raises Fault("not_found") for one that does not wait."""
        async with self._database.write(tenant_id) as session:
            gone = await session.exec(
                delete(Invitation).where(
                    col(Invitation.id) == invitation_id, col(Invitation.used_at).is_(None)
                )
            )
            if gone.rowcount == 0:
                raise Fault("not_found")
            resource = ("invitation", invitation_id)
            await record(session, tenant_id, "invitation.revoke", resource=resource)

    async def join(self, user_id: str, code: str) -> Belonging:
        """Let a user that there is already into another tenant, by an invitation.

        Raises Fault: "permission_denied" for an invitation that is not valid, or not for them;
        "conflict" for who is a member already: it is not used up then.
        """
        async with self._database.write(EVERY_TENANT) as session:
            tenant, role_id = await join(session, user_id, code)
            role = await session.get(Role, role_id)
            assert role is not None, "a foreign key holds it"
        await announce(self._changed, ("user", user_id))
        return Belonging(tenant, (role.name,))
