"""Signing in with a password: who it is, where they may enter, and nothing that tells a stranger.

The answer and its time are the same for an unknown address, a wrong password, a disabled user, an
address that is not verified, and a tenant one cannot enter. So all that is asked of the database is
asked before the hash, for everybody alike, and nothing is written for who is refused.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import place_of
from hub.faults import Fault
from hub.identity.access.factor_policy import has_factor
from hub.identity.access.holdings import admitted
from hub.identity.access.owners import lock
from hub.identity.accounts import invitations
from hub.identity.accounts.addresses import address_or_nobodys
from hub.identity.accounts.joining import join
from hub.identity.accounts.passwords import Passwords
from hub.identity.sessions.login_sessions import (
    Challenge,
    LoginSessions,
    TokenPair,
    granted,
    signed_in,
)
from hub.identity.sessions.throttle import NOTHING, Taken, Throttle, beginnings_of
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT, prebuilt
from hub.storage.tables import LoginSession, Membership, Tenant, User, now

PLACES: Final = 200
"""Addresses that are looked at of those which begin as that of who signs in does."""


_KNOWN: Final[Any] = prebuilt(
    select(User.id, User.password_hash, User.verified_at, User.disabled_at).where(
        User.email == bindparam("account")
    )
)
_HELD: Final[Any] = prebuilt(
    select(User.password_hash).where(User.id == bindparam("user")).with_for_update(key_share=True)
)


class _Known(NamedTuple):
    """What is known of a user before they have shown a password."""

    id: str
    password_hash: str | None
    verified_at: datetime | None
    disabled_at: datetime | None


class _Candidate(NamedTuple):
    """Who may be signing in, and where, as far as it is known before the password is looked at."""

    user: _Known | None
    tenant_id: str | None  # where they may enter, if they may
    at_home: bool  # they have signed in from this address before


class SignIn:
    """Takes passwords. ``throttle``: None where guesses are not slowed."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        sessions: LoginSessions,
        throttle: Throttle | None,
        *,
        require_verified: bool,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle
        self._require_verified = require_verified

    async def login(
        self,
        email: str,
        password: str,
        tenant: str | None,
        *,
        invitation: str | None,
        device: str | None,
        address: str | None,
    ) -> TokenPair:
        """See ``Accounts.login``."""
        self._passwords.expect_room()
        account = address_or_nobodys(email)
        taken = await self._throttle.sign_in(account, address) if self._throttle else NOTHING
        candidate = await self._candidate(account, tenant, address, invitation)
        if self._throttle is not None and not candidate.at_home:
            taken = await self._throttle.unknown_place(account, address, taken)
        try:
            entered = None
            while entered is None:
                renewed = await self._verified(candidate, password)
                entered = await self._enter(candidate, renewed, device, address, invitation)
                if entered is None:
                    candidate = await self._candidate(account, tenant, address, invitation)
        except Fault as fault:
            if fault.reason != "unauthenticated":
                await self._give_back(taken)
            raise
        await self._give_back(taken)
        if invitation is not None:
            assert candidate.user is not None
            await self._sessions.announce("user", candidate.user.id)
        return granted(entered)

    async def _give_back(self, taken: Taken) -> None:
        if self._throttle is not None:
            await self._throttle.give_back(taken)

    async def _candidate(
        self, account: str, tenant: str | None, address: str | None, invitation: str | None
    ) -> _Candidate:
        async with self._database.read(EVERY_TENANT) as session:
            found = (await session.exec(_KNOWN, params={"account": account})).one_or_none()
            user = _Known(*found) if found is not None else None
            user_id = user.id if user is not None else ""
            if invitation is None:
                tenant_id = await choose_tenant(session, user_id, tenant)
            else:
                tenant_id = (await invitations.check(session, invitation, account)).tenant_id
            at_home = await _at_home(session, user_id, address)
        unproven = self._require_verified and user is not None and user.verified_at is None
        barred = unproven or (user is not None and user.disabled_at is not None)
        return _Candidate(user, None if barred else tenant_id, at_home)

    async def _verified(self, candidate: _Candidate, password: str) -> str | None:
        """A hash at today's cost, if the one that is kept is not. Raises Fault("unauthenticated")
        for who may not enter.
        """
        stored = candidate.user.password_hash if candidate.user is not None else None
        verified = await self._passwords.verify(password, stored)
        if candidate.tenant_id is None or not verified.right:
            raise refused()
        return await self._passwords.rehash(password) if verified.stale else None

    async def _enter(
        self, candidate: _Candidate, renewed: str | None, device: str | None,
        address: str | None, invitation: str | None,
    ) -> TokenPair | Challenge | None:  # fmt: skip
        """Open a session, or ask for a second factor; None if the password is not what was verified
        any more.
        """
        user, tenant_id = candidate.user, candidate.tenant_id
        assert user is not None
        assert tenant_id is not None
        async with self._database.write(EVERY_TENANT) as session:
            if invitation is not None:
                await lock(session, tenant_id)  # tenants before users, as everywhere
            # Held, so that a password that is changed now ends this session too.
            stored = await session.exec(_HELD, params={"user": user.id})
            if stored.first() != user.password_hash:
                return None
            # Whoever has a second factor joins when it was shown.
            if invitation is None or not await has_factor(session, user.id):
                if invitation is not None:
                    await join(session, user.id, invitation)
                if not await self._sessions.may_enter(session, user.id, tenant_id):
                    raise refused()
            if renewed is not None:
                await session.exec(
                    update(User).where(col(User.id) == user.id).values(password_hash=renewed)
                )
            entered = await self._sessions.enter(session, user.id, tenant_id, device, address)
            if isinstance(entered, TokenPair):
                await signed_in(session, tenant_id, "account.login", user.id, entered.session_id)
            return entered


_ADDRESS: Final = col(LoginSession.address)
_BEFORE: Final = (
    select(_ADDRESS).where(LoginSession.user_id == bindparam("user")).distinct().limit(PLACES)
)
_HERE: Final[Any] = prebuilt(_BEFORE.where(_ADDRESS.is_not_distinct_from(bindparam("address"))))
_NEAR: Final[Any] = prebuilt(
    _BEFORE.where(or_(*(_ADDRESS.startswith(bindparam(f"beginning{at}")) for at in range(3))))
)


async def _at_home(session: AsyncSession, user_id: str, address: str | None) -> bool:
    """Whether the user has signed in from this place before. Of IPv6 that is a network, in which
    people have another address every day (RFC 8981). What is of other places is not looked at:
    how much that is would tell of an account.
    """
    if address is not None and ":" in address:
        beginnings = beginnings_of(address)
        params = {f"beginning{at}": (beginnings * 3)[at] for at in range(3)}
        before = await session.exec(_NEAR, params={"user": user_id, **params})
    else:
        before = await session.exec(_HERE, params={"user": user_id, "address": address})
    place = place_of(address)
    return any(place_of(each) == place for each in before.all())


_OLDEST: Final[Any] = (
    select(Membership.tenant_id)
    .join(Tenant, col(Tenant.id) == Membership.tenant_id)
    .join(User, col(User.id) == Membership.user_id)
    .where(Membership.user_id == bindparam("user"), admitted(bindparam("moment")))
    .order_by(func.min(col(Membership.created_at)), func.min(col(Membership.id)))
    .group_by(col(Membership.tenant_id))
    .limit(1)
)
_ANY: Final[Any] = prebuilt(_OLDEST)
_WANTED: Final[Any] = prebuilt(
    _OLDEST.where(
        or_(col(Tenant.id) == bindparam("wanted"), col(Tenant.name) == bindparam("wanted"))
    )
)


async def choose_tenant(session: AsyncSession, user_id: str, wanted: str | None) -> str | None:
    """The tenant (by id or name; else the oldest membership) that the user may enter."""
    params = {"user": user_id, "moment": now()}
    if wanted is None:
        found = await session.exec(_ANY, params=params)
    else:
        found = await session.exec(_WANTED, params={**params, "wanted": wanted})
    tenant_id: str | None = found.first()
    return tenant_id


def refused() -> Fault:
    """What everybody is told who may not enter."""
    return Fault("unauthenticated", "Wrong e-mail address or password.")
