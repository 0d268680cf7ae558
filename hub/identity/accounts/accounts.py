"""Accounts: registering, signing in and out, and the first administrator."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sqlalchemy import or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.refusal import Refusal
from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.accounts import addresses, invitations
from hub.identity.accounts.addresses import address_or_nobodys, own_parts, user_of
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.registration import Registration, join
from hub.identity.accounts.sign_in import SignIn, choose_tenant
from hub.identity.sessions.login_sessions import LoginSessions, TokenPair
from hub.identity.sessions.throttle import Throttle
from hub.identity.tokens.access_tokens import Tokens
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, Role, Tenant, User, now

ADMINISTRATOR: Final = "admin@hub.example"
"""The first administrator; the domain is reserved (RFC 2606), no mail can go astray."""
DEFAULT_TENANT: Final = "default"


class Accounts:
    """Users, as they come and go. ``changed(kind, id)`` is told of what must act at once.

    ``throttle`` slows guesses, ``mailing`` sends letters, and ``denied`` is told of who registers
    with an address that has an account; without them there is nothing of it.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        tokens: Tokens,
        settings: Settings,
        *,
        changed: Callable[[str, str], Awaitable[None]] | None = None,
        throttle: Throttle | None = None,
        mailing: Mailing | None = None,
        denied: Callable[[Refusal], None] | None = None,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens
        self._registration = Registration(
            database, passwords, settings, throttle=throttle, mailing=mailing, denied=denied
        )
        self.login_sessions = self._sessions = LoginSessions(
            database,
            tokens,
            refresh_days=settings.refresh_token_days,
            max_days=settings.session_max_days,
            changed=changed,
        )
        self._sign_in = SignIn(
            database,
            passwords,
            self._sessions,
            throttle,
            require_verified=bool(settings.require_verified),
        )

    async def register(
        self,
        email: str,
        password: str,
        name: str | None = None,
        invitation: str | None = None,
        *,
        address: str | None = None,
    ) -> tuple[User, Tenant]:
        """A new user: in the tenant of the invitation, or as the owner of a tenant of their own,
        which is called after their e-mail address. They are sent a letter to verify it.

        ``address``: where it is asked from. Where an e-mail address must be verified, one that has
        an account gives the same answer, with ids of nothing, and no fault: a letter tells its
        owner. Raises Fault: "permission_denied" when registration is off, or by invitation and
        there is no valid one; "conflict" when the address has an account, where it need not be
        verified; "invalid_params" for an address or a password that cannot be; "rate_limited".
        """
        return await self._registration.register(email, password, name, invitation, address)

    async def login(
        self,
        email: str,
        password: str,
        tenant: str | None = None,
        device: str | None = None,
        address: str | None = None,
        *,
        invitation: str | None = None,
    ) -> TokenPair:
        """Sign in. ``tenant`` (id or name) chooses among several memberships; by default the
        oldest. An ``invitation`` is accepted instead, and its tenant entered. ``device`` and
        ``address`` are what the user will see in their list of sessions.

        Raises Fault: "unauthenticated", the same and after the same time, for an unknown address,
        a wrong password, a disabled user, an address that is not verified where it must be, and a
        tenant one cannot enter; "rate_limited", before anything is hashed; after the right password
        of somebody with a second factor "second_factor_required": see ``hub.identity.factors``;
        "permission_denied" for an invitation that is not valid, whoever shows it, and after the
        right password "conflict" for a member.
        """
        return await self._sign_in.login(
            email, password, tenant, invitation=invitation, device=device, address=address
        )

    async def refresh(self, refresh_token: str) -> TokenPair:
        """The next tokens of a session; see ``hub.identity.sessions.login_sessions``.

        Raises Fault("unauthenticated").
        """
        return await self._sessions.refresh(refresh_token)

    async def logout(self, session_id: str) -> None:
        """End a login session, on every node. Idempotent."""
        await self._sessions.revoke(session_id, "account.logout")

    async def logout_everywhere(self, user_id: str, *, keys: bool = False) -> None:
        """End all login sessions of the user, in every tenant, on every node, and what waits to
        become one; ``keys``: their API keys too. Idempotent.
        """
        await self._sessions.revoke_all(user_id, keys=keys)

    async def sessions(
        self, tenant_id: str, user_id: str, *, after: str | None, limit: int
    ) -> Sequence[LoginSession]:
        """Up to ``limit`` of the user's login sessions in the tenant that are not over, the newest
        first, from the one ``after`` on.
        """
        async with self._database.read(tenant_id) as session:
            return await self._sessions.alive(session, user_id, after=after, limit=limit)

    async def revoke_session(self, session_id: str, by: Actor) -> None:
        """End a login session, and note it in the trail of its tenant. Idempotent. Raises
        Fault("permission_denied") where its user ranks above ``by``.
        """
        await self._sessions.revoke(session_id, by=by)

    async def login_link(self, user_id: str, tenant_id: str) -> str:
        """A code that signs the user in once, within ten minutes."""
        return await self._sessions.link(user_id, tenant_id)

    async def redeem(
        self, code: str, device: str | None = None, address: str | None = None
    ) -> TokenPair:
        """Sign in with a login link's code. Raises Fault("unauthenticated")."""
        return await self._sessions.redeem(code, device, address)

    async def invite(
        self, tenant_id: str, role: str, invited_by: str | None = None, email: str | None = None
    ) -> str:
        """A code that lets one person (``email``: only that one) register into the tenant.

        Valid for seven days. Raises Fault("invalid_params") for a role the tenant does not have.
        """
        async with self._database.write(EVERY_TENANT) as session:
            await _check_role(session, tenant_id, role)
            address = addresses.normal(email) if email is not None else None
            code = invitations.make(session, tenant_id, role, invited_by, address)[1]
            await record(session, tenant_id, "invitation.create", details={"role": role})
            return code

    async def create_user(
        self, email: str, password: str, tenant: str, role: str, name: str | None = None
    ) -> tuple[User, Tenant]:
        """A new user in a tenant, for the operator: ``tenant`` is its id, or the name of one that
        ``create_user`` made, or makes now.

        Raises Fault: "conflict"; "not_found" for an id without a tenant; "invalid_params", also
        for a name with an @, as tenants have that somebody made by registering.
        """
        address = addresses.normal(email)
        hashed = await self._passwords.hash(password, own_parts(address))
        # The operator says whose address it is.
        user = User(
            id=new_id("u"), email=address, name=name, password_hash=hashed, verified_at=now()
        )
        try:
            async with self._database.write(EVERY_TENANT) as session:
                place = await _operators_tenant(session, tenant)
                await _check_role(session, place.id, role)
                await join(session, user, place, role)
                await record(
                    session,
                    place.id,
                    "user.create",
                    resource=("user", user.id),
                    details={"role": role},
                )
        except IntegrityError:
            raise Fault("conflict", "This address has an account already.") from None
        return user, place

    async def ensure_administrator(self) -> tuple[str, str] | None:
        """On the first start: an owner of the tenant "default", as (address, password).

        None when there are users, or when another node was first.
        """
        async with self._database.read(EVERY_TENANT) as session:
            if (await session.exec(select(User.id).limit(1))).first() is not None:
                return None
        password = secrets.token_urlsafe(15)
        try:
            await self.create_user(ADMINISTRATOR, password, DEFAULT_TENANT, "owner")
        except Fault as fault:
            if fault.reason == "conflict":
                return None
            raise
        return ADMINISTRATOR, password

    async def access_token_for(self, email: str) -> str:
        """An access token of a new login session, for an operator at the machine.

        Raises Fault("not_found") for an address without an account, or one that cannot enter.
        """
        async with self._database.write(EVERY_TENANT) as session:
            user_id, tenant_id = await self._entrance(session, email)
            # Whoever is at the machine could take a second factor away: no less may do here.
            pair = await self._sessions.open(
                session, user_id, tenant_id, "hub token", second_factor="operator"
            )
            resource = ("session", pair.session_id)
            await record(
                session, tenant_id, "account.token", resource=resource, details={"user": user_id}
            )
        return pair.access_token

    async def login_code_for(self, email: str = ADMINISTRATOR) -> str:
        """A code that signs a user in once, for an operator at the machine.

        Raises Fault("not_found") for an address without an account, or one that cannot enter.
        """
        async with self._database.read(EVERY_TENANT) as session:
            user_id, tenant_id = await self._entrance(session, email)
        return await self.login_link(user_id, tenant_id)

    async def _entrance(self, session: AsyncSession, email: str) -> tuple[str, str]:
        user = await user_of(session, address_or_nobodys(email))
        tenant_id = await choose_tenant(session, user.id, None) if user else None
        if (
            user is None
            or tenant_id is None
            or not await self._sessions.may_enter(session, user.id, tenant_id)
        ):
            raise Fault("not_found", f"There is no active account {email}.")
        return user.id, tenant_id


async def _operators_tenant(session: AsyncSession, wanted: str) -> Tenant:
    if wanted.startswith("t_"):
        place = await session.get(Tenant, wanted)
        if place is None:
            raise Fault("not_found", f"There is no tenant {wanted}.")
        return place
    if not wanted.strip() or "@" in wanted:
        raise Fault(
            "invalid_params",
            "A tenant's name is not empty and has no @. Name a tenant that somebody made by "
            "registering by its id, t_….",
        )
    found = await session.exec(
        select(Tenant).where(Tenant.name == wanted).order_by(col(Tenant.id)).limit(1)
    )
    place = found.first()
    if place is None:
        place = Tenant(id=new_id("t"), name=wanted)
        session.add(place)
        await session.flush()
    return place


async def _check_role(session: AsyncSession, tenant_id: str, role: str) -> None:
    roles = select(Role.id).where(
        or_(col(Role.tenant_id).is_(None), col(Role.tenant_id) == tenant_id)
    )
    found = (await session.exec(roles.order_by(col(Role.rank), col(Role.id)))).all()
    if role not in found:
        there = ", ".join(found)
        raise Fault("invalid_params", f"There is no role {role!r} here. There are: {there}.")
