"""Login sessions: how they begin, go on by refresh tokens, and end.

A refresh token is single-use. Redeeming it gives the next one, which is derived from it with the
key that signs then; so whoever redeems the same token again within the grace (two tabs at once, an
answer that was lost on the way) gets the very same next token, and a family never has two living
ones.
A token that comes back later, or whose child was used already, is in two hands: the session ends.
"""

import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import acting_as
from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.entry import may_enter
from hub.identity.access.factor_policy import has_factor
from hub.identity.access.holdings import may_change
from hub.identity.access.ways_in import end_sessions, revoke_keys, void_letters, void_sign_ins
from hub.identity.tokens.access_tokens import Tokens
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    LoginChallenge,
    LoginLink,
    LoginSession,
    RefreshToken,
    User,
    now,
)

CHALLENGE: Final = timedelta(minutes=5)
"""How long a sign-in waits for its second factor."""

GRACE: Final = timedelta(seconds=10)
"""How long a refresh token that was just used still answers, with the same next token."""
LINK: Final = timedelta(minutes=10)
"""How long a login link works."""

_PURPOSE: Final = "refresh token"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a sign-in answers. ``expires_in``: seconds the access token lives."""

    access_token: str
    refresh_token: str
    expires_in: int
    session_id: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """A sign-in that waits for its second factor: what continues it, for ``expires_in`` seconds."""

    code: str
    expires_in: int


def granted(entered: TokenPair | Challenge) -> TokenPair:
    """The tokens. Raises Fault("second_factor_required"), outside the transaction that began it:
    what that has done (a link used up, a hash renewed) stays.
    """
    if isinstance(entered, TokenPair):
        return entered
    details = {"challenge": entered.code, "expires_in": entered.expires_in}
    raise Fault(
        "second_factor_required",
        "Send the code of your authenticator, or a recovery code, with this challenge.",
        details=details,
    )


class LoginSessions:
    """Begins, continues and ends login sessions. ``changed(kind, id)`` is told of each end.

    One that is not refreshed for ``refresh_days`` is over; and any after ``max_days``, unless that
    is 0.
    """

    def __init__(
        self,
        database: Database,
        tokens: Tokens,
        *,
        refresh_days: int,
        max_days: int = 0,
        changed: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._life = timedelta(days=refresh_days)
        self._longest = timedelta(days=max_days) if max_days else None
        self._changed = changed

    async def open(
        self, session: AsyncSession, user_id: str, tenant_id: str, device: str | None = None,
        address: str | None = None, *, second_factor: str | None = None,
    ) -> TokenPair:  # fmt: skip
        """Begin a login session in the transaction of ``session`` (of every tenant), whatever
        second factor there is; ``second_factor`` is the one that was shown. See ``enter``.
        """
        moment = now()
        login = LoginSession(
            id=new_id("s"),
            tenant_id=tenant_id,
            user_id=user_id,
            device=device and device[:400],
            address=address and address[:64],
            created_at=moment,
            last_seen_at=moment,
            expires_at=self._end(moment, moment),
            second_factor=second_factor,
        )
        session.add(login)
        await session.flush()
        token = secrets.token_urlsafe(32)
        session.add(self._row(login, token, parent=None, moment=moment))
        return self._pair(login, token)

    async def enter(
        self, session: AsyncSession, user_id: str, tenant_id: str, device: str | None = None,
        address: str | None = None, *, second_factor: str | None = None,
    ) -> TokenPair | Challenge:  # fmt: skip
        """Let in whoever has shown who they are: begin a login session, unless the user has a
        second factor that was not shown yet. In the transaction of ``session``; see ``granted``.
        """
        if second_factor is None and await has_factor(session, user_id):
            return self._challenge(session, user_id, tenant_id)
        return await self.open(
            session, user_id, tenant_id, device, address, second_factor=second_factor
        )

    async def refresh(self, token: str) -> TokenPair:
        """The next pair. Raises Fault("unauthenticated") when the session is over, or ends it
        when the token was used before (see the module).
        """
        async with self._database.write(EVERY_TENANT) as session:
            outcome = await self._rotate(session, token)
        # Raised outside the transaction: the revocation in it must stay.
        if isinstance(outcome, TokenPair):
            return outcome
        if outcome is not None:
            await self.announce("session", outcome)
        raise Fault("unauthenticated", "The refresh token is not valid. Sign in again.")

    async def revoke(
        self, session_id: str, action: str = "session.revoke", *, by: Actor | None = None
    ) -> None:
        """End the session: its refresh tokens and, at once, its access tokens. Idempotent.

        ``action``: what the audit trail calls it. ``by``: who ends it, if that is not its user or
        the operator; raises Fault("permission_denied") where its user ranks above them.
        """
        async with self._database.write(EVERY_TENANT) as session:
            login = await session.get(LoginSession, session_id)
            if by is not None and login is not None and login.user_id != by.user_id:
                permission = "session:revoke:any"
                await may_change(session, login.tenant_id, by, login.user_id, permission)
            login = await session.get(
                LoginSession, session_id, with_for_update=True, populate_existing=True
            )
            if login is not None and login.revoked_at is None:
                await end_sessions(session, col(LoginSession.id) == session_id)
                resource = ("session", session_id)
                details = {"user": login.user_id}
                await record(session, login.tenant_id, action, resource=resource, details=details)
        await self.announce("session", session_id)

    async def revoke_all(self, user_id: str, *, keys: bool = False) -> None:
        """End all sessions of the user, in every tenant, and what waits to become one; ``keys``:
        their API keys too. Idempotent.
        """
        async with self._database.write(EVERY_TENANT) as session:
            await session.get(User, user_id, with_for_update=True)  # none comes in meanwhile
            await void_letters(session, user_id)
            await void_sign_ins(session, user_id)
            alive = select(LoginSession.tenant_id).where(
                LoginSession.user_id == user_id, col(LoginSession.revoked_at).is_(None)
            )
            tenants = (await session.exec(alive.distinct())).all()
            await end_sessions(session, col(LoginSession.user_id) == user_id)
            revoked = await revoke_keys(session, user_id) if keys else {}
            for tenant_id in sorted({*tenants, *revoked}):
                there = {"keys": revoked[tenant_id]} if tenant_id in revoked else {}
                await record(
                    session, tenant_id, "account.logout",
                    resource=("user", user_id), details={"everywhere": True, **there},
                )  # fmt: skip
        await self.announce("user", user_id)

    async def alive(
        self, session: AsyncSession, user_id: str, *, after: str | None, limit: int
    ) -> Sequence[LoginSession]:
        """A page of those that are not over, the newest first, in the scope of ``session``."""
        wanted = select(LoginSession).where(
            LoginSession.user_id == user_id,
            col(LoginSession.revoked_at).is_(None),
            col(LoginSession.expires_at) > now(),
        )
        if after is not None:
            wanted = wanted.where(col(LoginSession.id) < after)
        newest = wanted.order_by(col(LoginSession.id).desc()).limit(limit)
        return (await session.exec(newest)).all()

    async def link(self, user_id: str, tenant_id: str) -> str:
        """A code that signs this user in, once, within ``LINK``."""
        async with self._database.write(EVERY_TENANT) as session:
            await record(session, tenant_id, "account.link", resource=("user", user_id))
            return self.linked(session, user_id, tenant_id, LINK)

    def linked(
        self, session: AsyncSession, user_id: str, tenant_id: str, life: timedelta,
        second_factor: str | None = None,
    ) -> str:  # fmt: skip
        """A code as of ``link``, made in the transaction of ``session``; ``second_factor`` is what
        was shown already.
        """
        code = secrets.token_urlsafe(32)
        session.add(
            LoginLink(
                code_hash=digest(code),
                tenant_id=tenant_id,
                user_id=user_id,
                expires_at=now() + life,
                second_factor=second_factor,
            )
        )
        return code

    async def redeem(self, code: str, device: str | None, address: str | None) -> TokenPair:
        """Sign in with a code. Raises Fault("unauthenticated") unless it is unused and alive, and
        "second_factor_required".
        """
        moment = now()
        async with self._database.write(EVERY_TENANT) as session:
            used = await session.exec(
                update(LoginLink)
                .where(
                    col(LoginLink.code_hash) == digest(code),
                    col(LoginLink.used_at).is_(None),
                    col(LoginLink.expires_at) > moment,
                )
                .values(used_at=moment)
                .returning(
                    col(LoginLink.user_id),
                    col(LoginLink.tenant_id),
                    col(LoginLink.second_factor),
                )
            )
            row = used.one_or_none()
            if row is None or not await self.may_enter(session, row[0], row[1]):
                raise Fault("unauthenticated", "The login link was used, or is too old.")
            entered = await self.enter(
                session, row[0], row[1], device, address, second_factor=row[2]
            )
            if isinstance(entered, TokenPair):
                await signed_in(session, row[1], "account.redeem", row[0], entered.session_id)
        return granted(entered)

    async def may_enter(self, session: AsyncSession, user_id: str, tenant_id: str) -> bool:
        """See ``hub.identity.access.entry``."""
        return await may_enter(session, user_id, tenant_id)

    def _challenge(self, session: AsyncSession, user_id: str, tenant_id: str) -> Challenge:
        code = secrets.token_urlsafe(32)
        session.add(
            LoginChallenge(
                code_hash=digest(code),
                tenant_id=tenant_id,
                user_id=user_id,
                expires_at=now() + CHALLENGE,
            )
        )
        return Challenge(code, int(CHALLENGE.total_seconds()))

    async def _rotate(self, session: AsyncSession, token: str) -> TokenPair | str | None:
        """The next pair, or the id of the session that was revoked for it, or None."""
        moment = now()
        found = await session.exec(
            select(RefreshToken, LoginSession)
            .join(LoginSession, col(LoginSession.id) == RefreshToken.session_id)
            .where(RefreshToken.token_hash == digest(token))
            .with_for_update()
        )
        both = found.one_or_none()
        if both is None:
            return None
        row, login = both
        end = self._end(login.created_at, moment)
        if login.revoked_at is not None or min(login.expires_at, row.expires_at, end) <= moment:
            return None
        if not await self.may_enter(session, login.user_id, login.tenant_id):
            return None
        if row.used_at is None:
            child = _child(self._tokens.derive(_PURPOSE, token))
            row.used_at = moment
            login.last_seen_at = moment
            login.expires_at = end
            session.add(self._row(login, child, parent=row.token_hash, moment=moment))
            return self._pair(login, child)
        if moment - row.used_at <= GRACE and (living := await self._living(session, row)):
            return self._pair(login, self._again(token, living))
        await end_sessions(session, col(LoginSession.id) == login.id)
        await record(
            session,
            login.tenant_id,
            "account.refresh",
            resource=("session", login.id),
            outcome="denied",
            details={"reason": "reused", "user": login.user_id},
        )
        return login.id

    def _end(self, began: datetime, moment: datetime) -> datetime:
        """When a session that began then is over if it is not refreshed after ``moment``."""
        end = moment + self._life
        return end if self._longest is None else min(end, began + self._longest)

    async def _living(self, session: AsyncSession, parent: RefreshToken) -> str | None:
        """The hash of the child that was not used yet, if there is one."""
        found = await session.exec(
            select(RefreshToken.token_hash).where(
                RefreshToken.session_id == parent.session_id,
                RefreshToken.parent_hash == parent.token_hash,
                col(RefreshToken.used_at).is_(None),
            )
        )
        return found.first()

    def _again(self, token: str, living: str) -> str:
        """The child of this hash. It may have been derived before the keys were rotated."""
        for derived in self._tokens.derived(_PURPOSE, token):
            if digest(child := _child(derived)) == living:
                return child
        raise Fault("backend_unavailable", "The keys of this node are not the newest; try again.")

    async def announce(self, kind: str, id: str) -> None:
        """Say what must act at once, after it was committed."""
        if self._changed is None:
            return
        try:
            await self._changed(kind, id)
        except Fault:
            # It is in the database, and every node looks there within seconds anyway.
            return

    def _row(
        self, login: LoginSession, token: str, *, parent: str | None, moment: datetime
    ) -> RefreshToken:
        return RefreshToken(
            token_hash=digest(token),
            tenant_id=login.tenant_id,
            session_id=login.id,
            parent_hash=parent,
            created_at=moment,
            expires_at=login.expires_at,
        )

    def _pair(self, login: LoginSession, refresh_token: str) -> TokenPair:
        return TokenPair(
            access_token=self._tokens.issue(login.user_id, login.tenant_id, login.id),
            refresh_token=refresh_token,
            expires_in=self._tokens.life_s,
            session_id=login.id,
        )


def _child(derived: bytes) -> str:
    return base64.urlsafe_b64encode(derived).rstrip(b"=").decode()


async def signed_in(
    session: AsyncSession, tenant_id: str, action: str, user_id: str, session_id: str
) -> None:
    """Record that somebody has signed in, who is who acts from then on."""
    with acting_as(user_id, session_id):
        await record(session, tenant_id, action, resource=("session", session_id))


def digest(secret: str) -> str:
    """How a random secret is stored: SHA-256, in hex. Not for passwords."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
