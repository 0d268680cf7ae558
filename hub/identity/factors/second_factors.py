"""Second factors: an authenticator's codes (``totp``), and recovery codes beside them.

Guessing a code is bounded twice: a challenge takes five wrong ones, and a user's attempts since the
last right one come from a bucket on the backplane, five at once and then one in ten minutes. Of a
million codes three are good at a time, so who has the password gets in by chance in one of some
two thousand days. Recovery codes (80 bits) have a bucket of their own: whoever uses up the first
does not lock the owner out.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import delete, func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import acting, current
from hub.audit.trail import record
from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.owners import lock
from hub.identity.access.refusal import NotAdmitted
from hub.identity.accounts import account_tokens
from hub.identity.accounts.joining import join
from hub.identity.accounts.passwords import Passwords
from hub.identity.factors import totp
from hub.identity.sessions.login_sessions import LoginSessions, TokenPair, digest, signed_in
from hub.identity.tokens.seal import Seal, Unreadable
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    LoginChallenge,
    LoginSession,
    RecoveryCode,
    TotpFactor,
    User,
    now,
)
from hub.telemetry.logs import log

RECOVERY_CODES: Final = 10
MOST_FAILURES: Final = 5
"""Wrong codes that one challenge takes."""
BURST: Final = 5
RATE: Final = 1 / 600

Shown = Literal["totp", "recovery"]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an authenticator needs: ``secret`` to be typed, ``uri`` as a QR code."""

    secret: str
    uri: str


@dataclass(frozen=True, slots=True)
class State:
    """``confirmed_at`` None: there is no second factor in force."""

    confirmed_at: datetime | None
    recovery_codes_left: int


class Factors:
    """The second factors of users. ``changed(kind, id)`` is told when one comes or goes."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        seal: Seal,
        backplane: Backplane,
        sessions: LoginSessions,
        *,
        changed: Changed,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._seal = seal
        self._backplane = backplane
        self._sessions = sessions
        self._changed = changed
        self._clock = clock

    async def state(self, user_id: str) -> State:
        """What the user has."""
        async with self._database.read(EVERY_TENANT) as session:
            factor = await session.get(TotpFactor, user_id)
            if factor is None or factor.confirmed_at is None:
                return State(None, 0)
            return State(factor.confirmed_at, await _left(session, user_id))

    async def enrol(self, user_id: str, tenant_id: str) -> Enrolment:
        """A new secret, which is told this once; it is in force when ``confirm`` has had a code.

        Raises Fault("conflict") when there is one in force.
        """
        secret = totp.new_secret()
        sealed = self._seal.seal(secret.encode(), _purpose(user_id))
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id, with_for_update=True)
            factor = await session.get(TotpFactor, user_id, with_for_update=True)
            if user is None:
                raise Fault("unauthenticated")
            if factor is None:
                session.add(TotpFactor(user_id=user_id, secret=sealed))
            elif factor.confirmed_at is None:
                factor.secret = sealed
            else:
                raise Fault("conflict", "You have a second factor. Disable it first.")
            await record(session, tenant_id, "factor.enrol", resource=("user", user_id))
            return Enrolment(secret, totp.uri(secret, user.email))

    async def confirm(
        self, user_id: str, tenant_id: str, code: str, session_id: str = ""
    ) -> list[str]:
        """Put what was enrolled into force by its first code, shown in the login session
        ``session_id``; recovery codes, told this once.

        Raises Fault("conflict") when nothing waits for it, "permission_denied" for a wrong code.
        """
        async with self._database.write(EVERY_TENANT) as session:
            # A letter takes away what was lost, and not what is enrolled after it was sent.
            await session.get(User, user_id, with_for_update={"key_share": True})
            await account_tokens.void(session, user_id, "factor")
            factor = await session.get(TotpFactor, user_id, with_for_update=True)
            if factor is None or factor.confirmed_at is not None:
                raise Fault("conflict", "There is no enrolment to confirm. Enrol first.")
            step = self._step(factor, code)
            if step is None:
                raise Fault("permission_denied", "The code is not right. Check the device's clock.")
            factor.confirmed_at, factor.last_step = now(), step
            await _shown_in(session, user_id, session_id, "totp")
            codes = await _renew(session, user_id)
            await record(session, tenant_id, "factor.confirm", resource=("user", user_id))
        await announce(self._changed, ("user", user_id))
        return codes

    async def prove(self, user_id: str, tenant_id: str, session_id: str, code: str) -> None:
        """Show the second factor in a login session that began without it.

        Raises Fault("conflict") without a second factor, "permission_denied", "rate_limited".
        """
        await self._attempt(user_id, code)
        async with self._database.write(EVERY_TENANT) as session:
            shown = await self._use(session, user_id, code)
            if shown is None:
                raise Fault("permission_denied", "The code is not right.")
            await _shown_in(session, user_id, session_id, shown)
            resource = ("session", session_id)
            await record(session, tenant_id, "factor.prove", resource=resource)
            if shown == "recovery":
                await _tell_recovery(session, user_id, tenant_id)
        await announce(self._changed, ("session", session_id))

    async def renew(self, user_id: str, tenant_id: str, code: str) -> list[str]:
        """New recovery codes in place of the old, told this once.

        Raises Fault("conflict") without a second factor, "permission_denied", "rate_limited".
        """
        await self._attempt(user_id, code)
        async with self._database.write(EVERY_TENANT) as session:
            if await self._use(session, user_id, code) is None:
                raise Fault("permission_denied", "The code is not right.")
            codes = await _renew(session, user_id)
            await record(session, tenant_id, "factor.renew", resource=("user", user_id))
        return codes

    async def disable(self, user_id: str, tenant_id: str, password: str | None, code: str) -> None:
        """Do without. ``password`` may be None for who has none, and signs in by a provider.

        Raises Fault("conflict") without a second factor, "permission_denied", "rate_limited".
        """
        await self._attempt(user_id, code)
        async with self._database.read(EVERY_TENANT) as session:
            user = await session.get(User, user_id)
        stored = user.password_hash if user else None
        if stored is not None and not (await self._passwords.verify(password or "", stored)).right:
            raise Fault("permission_denied", "The password or the code is not right.")
        async with self._database.write(EVERY_TENANT) as session:
            if await self._use(session, user_id, code) is None:
                raise Fault("permission_denied", "The password or the code is not right.")
            await forget(session, user_id)
            await record(session, tenant_id, "factor.disable", resource=("user", user_id))
        await announce(self._changed, ("user", user_id))

    async def continue_login(
        self,
        challenge: str,
        code: str,
        device: str | None = None,
        address: str | None = None,
        *,
        invitation: str | None = None,
    ) -> TokenPair:
        """The tokens of a sign-in that was told "second_factor_required". ``invitation``: the one
        that it began with, which is accepted now.

        Raises Fault("unauthenticated") for a wrong code, and for a challenge that was used, is too
        old or has had five wrong codes; "rate_limited"; for the invitation as ``Accounts.login``.
        NotAdmitted, once it is known whose sign-in it is.
        """
        async with self._database.read(EVERY_TENANT) as session:
            waiting = await session.get(LoginChallenge, digest(challenge))
        if waiting is None or not _is_open(waiting):
            raise _over()
        try:
            return await self._let_in(
                waiting, challenge, code, device, address=address, invitation=invitation
            )
        except Fault as fault:
            raise NotAdmitted(fault, waiting.tenant_id, waiting.user_id) from fault

    async def _let_in(
        self, waiting: LoginChallenge, challenge: str, code: str, device: str | None,
        *, address: str | None, invitation: str | None,
    ) -> TokenPair:  # fmt: skip
        await self._attempt(waiting.user_id, code)
        with acting(replace(current(), actor_id=waiting.user_id)):
            async with self._database.write(EVERY_TENANT) as session:
                if invitation is not None:
                    await lock(session, waiting.tenant_id)  # tenants before users, as everywhere
                outcome = await self._continue(
                    session, challenge, code, device, address, invitation=invitation
                )
        # Raised outside the transaction: that it has failed once more must stay.
        if isinstance(outcome, Fault):
            raise outcome
        if invitation is not None:
            await announce(self._changed, ("user", waiting.user_id))
        return outcome

    async def _continue(
        self, session: AsyncSession, challenge: str, code: str, device: str | None,
        address: str | None, *, invitation: str | None,
    ) -> TokenPair | Fault:  # fmt: skip
        waiting = await session.get(LoginChallenge, digest(challenge), with_for_update=True)
        if waiting is None or not _is_open(waiting):
            return _over()
        user_id, tenant_id = waiting.user_id, waiting.tenant_id
        shown = await self._use(session, user_id, code)
        if shown is None:
            waiting.failures += 1
            return Fault("unauthenticated", "The code is not right, or was used before.")
        waiting.used_at = now()
        if invitation is not None and (await join(session, user_id, invitation))[0].id != tenant_id:
            raise Fault("permission_denied", "The sign-in did not begin with this invitation.")
        if not await self._sessions.may_enter(session, user_id, tenant_id):
            return _over()
        pair = await self._sessions.open(
            session, user_id, tenant_id, device, address, second_factor=shown
        )
        await signed_in(session, tenant_id, "account.second_factor", user_id, pair.session_id)
        if shown == "recovery":
            await _tell_recovery(session, user_id, tenant_id)
        return pair

    async def _attempt(self, user_id: str, code: str) -> None:
        """Take one from the user's attempts. Raises Fault conflict, rate_limited."""
        async with self._database.read(EVERY_TENANT) as session:
            factor = await session.get(TotpFactor, user_id)
        if factor is None or factor.confirmed_at is None:
            raise Fault("conflict", "You have no second factor.")
        # After a right code the name is another, and all attempts are there again.
        kind = f"totp:{factor.last_step}" if totp.is_code(_plain(code)) else "recovery"
        bucket = f"second factor:{user_id}:{kind}"
        wait_ms = await self._backplane.take(bucket, 1, rate=RATE, burst=BURST)
        if wait_ms:
            raise Fault(
                "rate_limited", "Too many wrong codes.", details={"retry_after_ms": wait_ms}
            )

    async def _use(self, session: AsyncSession, user_id: str, code: str) -> Shown | None:
        """What the code shows, used up by this; None: nothing. In a write of every tenant."""
        factor = await session.get(TotpFactor, user_id, with_for_update=True)
        if factor is None or factor.confirmed_at is None:
            return None
        if totp.is_code(_plain(code)):
            step = self._step(factor, code)
            if step is None:
                return None
            factor.last_step = step
            return "totp"
        used: Any = await session.exec(
            update(RecoveryCode)
            .where(
                col(RecoveryCode.code_hash) == _hash(user_id, code),
                col(RecoveryCode.user_id) == user_id,
                col(RecoveryCode.used_at).is_(None),
            )
            .values(used_at=now())
            .execution_options(synchronize_session=False)
        )
        return "recovery" if used.rowcount == 1 else None

    def _step(self, factor: TotpFactor, code: str) -> int | None:
        """The step whose code it is; the secret is sealed anew when its key is not the first."""
        purpose = _purpose(factor.user_id)
        try:
            opened = self._seal.open(factor.secret, purpose)
        except Unreadable:
            log.error("a second factor cannot be read; see HUB_ENCRYPTION_KEY", user=factor.user_id)
            return None
        step = totp.step_of(
            opened.plain.decode(), _plain(code), self._clock(), after=factor.last_step
        )
        if step is not None and opened.stale:
            factor.secret = self._seal.seal(opened.plain, purpose)
        return step


async def forget(session: AsyncSession, user_id: str) -> bool:
    """Take the user's second factor away, in the transaction of ``session`` (of every tenant);
    whether there was one. That it was shown in a login session is worth nothing from then on.
    """
    # First, and so after who is showing it, in a session that is to be seen here.
    gone: Any = await session.exec(delete(TotpFactor).where(col(TotpFactor.user_id) == user_id))
    await session.exec(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    await session.exec(
        update(LoginSession)
        .where(
            col(LoginSession.user_id) == user_id,
            col(LoginSession.second_factor).in_(get_args(Shown)),
        )
        .values(second_factor=None)
        .execution_options(synchronize_session=False)
    )
    return bool(gone.rowcount)


async def _shown_in(session: AsyncSession, user_id: str, session_id: str, shown: Shown) -> None:
    await session.exec(
        update(LoginSession)
        .where(col(LoginSession.id) == session_id, col(LoginSession.user_id) == user_id)
        .values(second_factor=shown)
        .execution_options(synchronize_session=False)
    )


async def _tell_recovery(session: AsyncSession, user_id: str, tenant_id: str) -> None:
    left = await _left(session, user_id)
    await record(
        session, tenant_id, "factor.recover", resource=("user", user_id), details={"left": left}
    )


async def _renew(session: AsyncSession, user_id: str) -> list[str]:
    await session.exec(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
    session.add_all(RecoveryCode(code_hash=_hash(user_id, code), user_id=user_id) for code in codes)
    return codes


async def _left(session: AsyncSession, user_id: str) -> int:
    statement = select(func.count()).where(
        RecoveryCode.user_id == user_id, col(RecoveryCode.used_at).is_(None)
    )
    return (await session.exec(statement)).one()


def _recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, 16, 4))


def _plain(code: str) -> str:
    """As people type it: in groups, in capitals."""
    return code.replace(" ", "").replace("-", "").lower()


def _hash(user_id: str, code: str) -> str:
    raw = f"{user_id}\0{_plain(code)}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(raw).hexdigest()


def _purpose(user_id: str) -> str:
    return f"totp {user_id}"


def _is_open(waiting: LoginChallenge) -> bool:
    return (
        waiting.used_at is None and waiting.expires_at > now() and waiting.failures < MOST_FAILURES
    )


def _over() -> Fault:
    return Fault("unauthenticated", "This sign-in is over. Begin again with the password.")
