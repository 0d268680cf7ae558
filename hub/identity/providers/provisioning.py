"""Users as an identity provider knows them: found, linked or made, with the roles that its claims
give at this sign-in and no others of its giving.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import acting, current
from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.definitions import definitions_of
from hub.identity.access.holdings import held_by
from hub.identity.access.owners import has_owner, lock
from hub.identity.access.refusal import NotAdmitted
from hub.identity.access.remains import forget_remains
from hub.identity.access.ways_in import end_sessions, revoke_keys, void_letters, void_sign_ins
from hub.identity.accounts.addresses import normal
from hub.identity.accounts.sign_in import choose_tenant
from hub.identity.factors.second_factors import forget
from hub.identity.providers.mapping import Given, admits, capped, given
from hub.identity.sessions.login_sessions import LoginSessions
from hub.ids import new_id
from hub.rbac.inheritance import rank_of
from hub.rbac.roles import OWNER
from hub.settings.providers import ProviderSettings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    LoginSession,
    Membership,
    ProvidedRole,
    ProviderIdentity,
    Tenant,
    User,
    now,
)
from hub.telemetry.logs import log

CODE_LIFE: Final = timedelta(minutes=1)
"""How long the code is good that the browser takes to the web client."""

_NO_WAY_IN: Final = "Your account at the provider gives you no access here. Ask an administrator."


class Provisioning:
    """Lets in who comes from a provider. ``changed(kind, id)`` is told of changed roles."""

    def __init__(
        self,
        database: Database,
        sessions: LoginSessions,
        *,
        changed: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._changed = changed

    async def admit(
        self, provider: ProviderSettings, claims: Mapping[str, Any], tenant: str | None
    ) -> str:
        """A code that signs in, once, the user whom these claims are of; see ``ProviderSettings``.

        ``tenant`` (id or name) chooses among those that the claims lead to. Raises NotAdmitted:
        "permission_denied", "conflict" for an address whose account is not linked.
        """
        try:
            admission = await self._admitted(provider, claims, tenant)
        except IntegrityError:  # the same user's first sign-in, elsewhere at this moment
            admission = await self._admitted(provider, claims, tenant)
        if admission.altered:
            await self._announce(admission.altered)
        # Raised outside the transaction: the roles that it took away stay away.
        if isinstance(admission.outcome, Fault):
            raise NotAdmitted(admission.outcome, admission.tenant_id, admission.user_id)
        return admission.outcome

    async def _admitted(
        self, provider: ProviderSettings, claims: Mapping[str, Any], tenant: str | None
    ) -> "_Admission":
        async with self._database.write(EVERY_TENANT) as session:
            admission = _Admission(session, self._sessions, provider, claims)
            await admission.decide(tenant)
            if isinstance(admission.outcome, Fault):
                await admission.place(tenant)
            return admission

    async def _announce(self, user_id: str) -> None:
        try:
            await self._changed("user", user_id)
        except Fault:
            # It is in the database, and every node looks there within seconds anyway.
            return


class _Admission:
    """One sign-in, in one transaction. ``outcome`` is a code or a fault; ``altered`` the user whose
    roles are others now; ``user_id`` whose account it is about, and ``tenant_id`` where a fault is
    noted, if that is known.
    """

    def __init__(
        self,
        session: AsyncSession,
        sessions: LoginSessions,
        provider: ProviderSettings,
        claims: Mapping[str, Any],
    ) -> None:
        self._session = session
        self._sessions = sessions
        self._provider = provider
        self._claims = claims
        self._address = _address(provider, claims)
        self.outcome: str | Fault = Fault("permission_denied", _NO_WAY_IN)
        self.altered = ""
        self.user_id: str | None = None
        self.tenant_id: str | None = None

    async def decide(self, tenant: str | None) -> None:
        """Raises IntegrityError when somebody else is doing the same."""
        provider = self._provider
        places = await self._places(given(provider, self._claims))
        if not admits(provider, self._address):
            places = []
        await self._hold(places)
        identity = await self._identity()
        if identity is not None:
            self.user_id = identity.user_id
        if identity is None and not places:
            return
        user = await self._user(identity, places)
        if user is None:
            return
        self.user_id = user.id
        with acting(replace(current(), actor_id=user.id)):
            await self._give(user, places)
            await self._enter(user, places, tenant)

    async def place(self, wanted: str | None) -> None:
        """Find out where it is noted that they do not come in."""
        theirs = await choose_tenant(self._session, self.user_id or "", wanted)
        self.tenant_id = theirs or await self._tenant(self._provider.tenant)

    async def _hold(self, places: list[tuple[str, str]]) -> None:
        """Lock the tenants where something is given or may be taken; before the identity and its
        user, as everywhere: whoever deletes the user comes to these after the tenants.
        """
        given_before = (
            select(ProvidedRole.tenant_id)
            .join(ProviderIdentity, col(ProviderIdentity.user_id) == ProvidedRole.user_id)
            .where(
                ProvidedRole.issuer == self._provider.issuer,
                ProviderIdentity.issuer == self._provider.issuer,
                ProviderIdentity.subject == self._claims["sub"],
            )
        )
        before = (await self._session.exec(given_before)).all()
        for tenant_id in sorted({*before, *(tenant_id for tenant_id, _ in places)}):
            await lock(self._session, tenant_id)

    # --- who it is ---

    async def _identity(self) -> ProviderIdentity | None:
        statement = select(ProviderIdentity).where(
            ProviderIdentity.issuer == self._provider.issuer,
            ProviderIdentity.subject == self._claims["sub"],
        )
        return (await self._session.exec(statement.with_for_update())).first()

    async def _user(
        self, identity: ProviderIdentity | None, places: list[tuple[str, str]]
    ) -> User | None:
        """The user, linked or made if need be; None when ``outcome`` says why not."""
        session, provider = self._session, self._provider
        if identity is not None:
            identity.updated_at = now()
            return await session.get(User, identity.user_id)
        if self._address is None:
            self.outcome = Fault(
                "permission_denied", "The provider does not vouch for your e-mail address."
            )
            return None
        statement = select(User).where(User.email == self._address).with_for_update()
        user = (await session.exec(statement)).first()
        made = user is None
        if user is None:
            if not provider.create:
                self.outcome = Fault("permission_denied", "You have no account here.")
                return None
            name = self._claims.get("name")
            user = User(
                id=new_id("u"),
                email=self._address,
                verified_at=now(),
                name=name[:200].replace("\0", "") if isinstance(name, str) else None,
            )
            session.add(user)
            await session.flush()
        elif not provider.link:
            self.user_id = user.id
            self.outcome = Fault(
                "conflict", "Your address has an account here. Sign in with its password."
            )
            return None
        else:
            await self._take_over(user)
        session.add(
            ProviderIdentity(
                id=new_id("pi"),
                user_id=user.id,
                issuer=provider.issuer,
                subject=self._claims["sub"],
            )
        )
        with acting(replace(current(), actor_id=user.id)):
            await record(
                session,
                places[0][0],
                "user.create" if made else "provider.link",
                resource=("user", user.id),
                details={"provider": provider.name},
            )
        return user

    async def _take_over(self, user: User) -> None:
        """Whoever registered with this address may never have shown that it is theirs: their
        password, second factor, sessions, what waits to become one, and API keys end, or they
        would be in the account of who it belongs to.
        """
        if user.verified_at is not None or user.password_hash is None:
            user.verified_at = user.verified_at or now()
            return
        user.password_hash, user.verified_at = None, now()
        await forget(self._session, user.id)
        self.altered = user.id
        await void_letters(self._session, user.id)
        await void_sign_ins(self._session, user.id)
        await end_sessions(self._session, col(LoginSession.user_id) == user.id)
        revoked = await revoke_keys(self._session, user.id)
        with acting(replace(current(), actor_id=user.id)):
            for tenant_id, keys in sorted(revoked.items()):
                await record(
                    self._session, tenant_id, "provider.take_over",
                    resource=("user", user.id), details={"keys": keys},
                )  # fmt: skip

    # --- what they get ---

    async def _places(self, wanted: tuple[Given, ...]) -> list[tuple[str, str]]:
        """The tenants' and roles' ids of what is given, each once, none above the ceiling."""
        found: list[tuple[str, str]] = []
        for one in wanted:
            tenant_id = await self._tenant(one.tenant)
            role = tenant_id and await self._role(tenant_id, one.role)
            if tenant_id and role:
                found.append((tenant_id, role))
            else:
                log.error(
                    "a rule of HUB_OIDC_PROVIDERS gives what is not there",
                    provider=self._provider.name, tenant=one.tenant, role=one.role,
                )  # fmt: skip
        return list(dict.fromkeys(found))

    async def _tenant(self, wanted: str) -> str | None:
        # A name with an @ is one that somebody chose, by registering.
        named = or_(col(Tenant.id) == wanted, col(Tenant.name) == ("" if "@" in wanted else wanted))
        statement = select(Tenant.id).where(named).order_by(col(Tenant.id)).limit(1)
        return (await self._session.exec(statement)).first()

    async def _role(self, tenant_id: str, wanted: str) -> str | None:
        definitions = await definitions_of(self._session, [tenant_id])
        ids = {name: one.id for one in definitions.values() for name in (one.name, one.id)}
        ranks = {name: rank_of((id,), definitions) for name, id in ids.items()}
        role = capped(wanted, self._provider.ceiling, ranks)
        return ids[role] if role is not None else None

    async def _give(self, user: User, places: list[tuple[str, str]]) -> None:
        """Make what the provider gives what it gave; what others gave is left alone."""
        session, issuer = self._session, self._provider.issuer
        rows = await session.exec(
            select(ProvidedRole).where(
                ProvidedRole.user_id == user.id, ProvidedRole.issuer == issuer
            )
        )
        before = {(row.tenant_id, row.role_id): row for row in rows.all()}
        members: set[str] = set()  # the ids of tenants
        for tenant_id in sorted({tenant_id for tenant_id, _ in (*before, *places)}):
            await lock(session, tenant_id)  # what was given since they were held is locked now
            if (await held_by(session, tenant_id, user.id)).member:
                members.add(tenant_id)
        for place, row in before.items():
            if place not in places and await self._take(user.id, *place):
                await session.delete(row)
        held = await session.exec(select(Membership).where(Membership.user_id == user.id))
        there = {(row.tenant_id, row.role_id): row for row in held.all()}
        for tenant_id, role in places:
            known = there.get((tenant_id, role))
            if known is None:
                session.add(
                    Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=user.id, role_id=role)
                )
            elif known.expires_at is None:
                continue
            else:
                known.expires_at = None
            if tenant_id not in members:
                await forget_remains(session, tenant_id, user.id)
                members.add(tenant_id)
            if (tenant_id, role) not in before:
                session.add(
                    ProvidedRole(
                        id=new_id("pr"),
                        tenant_id=tenant_id,
                        user_id=user.id,
                        role_id=role,
                        issuer=issuer,
                    )
                )
            await self._note(tenant_id, "provider.grant", user.id, role)

    async def _take(self, user_id: str, tenant_id: str, role: str) -> bool:
        """Take a role away that the provider gave; False for the last owner's, which stays."""
        session = self._session
        if role == OWNER and not await has_owner(session, tenant_id, besides=user_id):
            log.warning("a tenant's last owner stays one", tenant=tenant_id)
            return False
        await session.exec(
            delete(Membership).where(
                col(Membership.tenant_id) == tenant_id,
                col(Membership.user_id) == user_id,
                col(Membership.role_id) == role,
            )
        )
        await self._note(tenant_id, "provider.revoke", user_id, role)
        return True

    async def _note(self, tenant_id: str, action: str, user_id: str, role: str) -> None:
        self.altered = user_id
        await record(
            self._session, tenant_id, action, resource=("user", user_id),
            details={"provider": self._provider.name, "role": role},
        )  # fmt: skip

    # --- the way in ---

    async def _enter(self, user: User, places: list[tuple[str, str]], wanted: str | None) -> None:
        if not places:
            return
        chosen = await self._chosen(user.id, places, wanted)
        await self._session.flush()
        if chosen is None or not await self._sessions.may_enter(self._session, user.id, chosen):
            return
        await record(
            self._session, chosen, "provider.sign_in", resource=("user", user.id),
            details={"provider": self._provider.name},
        )  # fmt: skip
        shown = "provider" if self._provider.second_factor == "provider" else None
        self.outcome = self._sessions.linked(self._session, user.id, chosen, CODE_LIFE, shown)

    async def _chosen(
        self, user_id: str, places: list[tuple[str, str]], wanted: str | None
    ) -> str | None:
        """The tenant to sign into: the one that is wanted, of those that the provider leads to."""
        if wanted is None:
            return places[0][0]
        statement = (
            select(Tenant.id)
            .where(
                or_(col(Tenant.id) == wanted, col(Tenant.name) == wanted),
                col(Tenant.id).in_([tenant_id for tenant_id, _ in places]),
            )
            .limit(1)
        )
        return (await self._session.exec(statement)).first()


def _address(provider: ProviderSettings, claims: Mapping[str, Any]) -> str | None:
    """The address that the provider vouches for, as accounts have it."""
    email = claims.get("email")
    vouched = provider.trust_email or claims.get("email_verified") in (True, "true")
    if not isinstance(email, str) or not vouched:
        return None
    try:
        return normal(email)
    except Fault:
        return None
