"""Recovery: whose an address is, and a new password, by the old one or by a letter; and the letters
that administrators have sent.
"""

from typing import Final

from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.changes import Changed, announce
from hub.identity.access.holdings import may_change
from hub.identity.access.ways_in import end_sessions, revoke_keys, void_letters, void_sign_ins
from hub.identity.accounts import account_tokens
from hub.identity.accounts.account_tokens import Purpose
from hub.identity.accounts.addresses import address_or_nobodys, own_parts
from hub.identity.accounts.joining import join_as_promised
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.moves import moved
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.trails import tell
from hub.identity.sessions.throttle import Throttle
from hub.rbac.actor import Actor
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession, User, now

WRONG: Final = "The password is wrong."
_HELP: Final[dict[Purpose, tuple[str, str]]] = {
    "verify": ("user.verify", "member:invite"),
    "reset": ("user.reset_password", "session:revoke:any"),
    "factor": ("factor.reset", "factor:reset"),
}
"""What an administrator has a letter sent for: its name in the audit trail, and by which right."""


class Recovery:
    """Verifies addresses and changes passwords. ``changed(kind, id)`` is told of what must act at
    once.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        throttle: Throttle,
        mailing: Mailing,
        changed: Changed,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._throttle = throttle
        self._mailing = mailing
        self._changed = changed

    async def ask(self, purpose: Purpose, email: str, address: str | None) -> None:
        """Have a letter sent to the user with this e-mail address, if there is one.

        The answer is the same if there is none, and comes before it is looked. Raises
        Fault("rate_limited").
        """
        account = address_or_nobodys(email)
        await self._throttle.letter(account, address)
        self._mailing.want(purpose, account)

    async def verify(self, token: str, address: str | None) -> None:
        """The address that the token was sent to is its user's, who comes into the tenant that they
        registered for; or has it in place of another, who asked for that (``Moves``). Who shows it
        may sign in from there, whatever others do.

        Raises Fault: "unauthenticated"; "conflict" for an address to move to that has an account.
        """
        taken = await self._throttle.token(address)
        async with self._database.write(EVERY_TENANT) as session:
            move = await moved(session, token)
            if move is None:
                guest = await account_tokens.holder(session, token, "verify")
                await join_as_promised(session, guest)
                user = await account_tokens.use(session, token, "verify")
                user.verified_at = user.verified_at or now()
                session.add(user)
                await tell(session, user.id, "account.verify")
            else:
                user = move[0]
        await self._throttle.give_back(taken)
        await self._throttle.at_home(user.email, address)
        if move is not None:
            self._mailing.notify("moved", move[1])

    async def reset(
        self, token: str, password: str, address: str | None, *, keys: bool = True
    ) -> None:
        """Set a password, by a token that was sent; all sessions of the user end, and what waits
        to become one. ``keys``: their API keys too.

        The e-mail address is verified by it, and its user may sign in from there, whatever others
        do. Raises Fault: "unauthenticated" for the token, "invalid_params" for the password, after
        which the token is as good as before.
        """
        taken = await self._throttle.token(address)
        async with self._database.read(EVERY_TENANT) as session:
            # Before the costly hash; the transaction below decides.
            user = await account_tokens.holder(session, token, "reset")
        await self._throttle.give_back(taken)
        hashed = await self._passwords.hash(password, own_parts(user.email))
        async with self._database.write(EVERY_TENANT) as session:
            await join_as_promised(session, await account_tokens.holder(session, token, "reset"))
            user = await account_tokens.use(session, token, "reset")
            user.verified_at = user.verified_at or now()
            await self._set(session, user, hashed)
            await end_sessions(session, col(LoginSession.user_id) == user.id)
            revoked = await revoke_keys(session, user.id) if keys else {}
            await tell(session, user.id, "account.reset", revoked)
        await announce(self._changed, ("user", user.id))
        await self._throttle.at_home(user.email, address)

    async def change(
        self, user_id: str, session_id: str, current: str, password: str, *, keys: bool = False
    ) -> None:
        """Set a password, by the one that it is; the user's other sessions end, and what waits to
        become one. ``keys``: their API keys too.

        Raises Fault: "permission_denied" for a wrong one, "invalid_params" for the new one,
        "rate_limited".
        """
        stored, email = await self.confirm(user_id, current)
        hashed = await self._passwords.hash(password, own_parts(email))
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.password_hash != stored:
                raise Fault("permission_denied", WRONG)  # it was changed meanwhile
            await self._set(session, user, hashed)
            others = col(LoginSession.id) != session_id
            await end_sessions(session, (col(LoginSession.user_id) == user_id) & others)
            revoked = await revoke_keys(session, user_id) if keys else {}
            await tell(session, user_id, "account.change_password", revoked)
        await announce(self._changed, ("user", user_id))

    async def set(self, user_id: str, password: str) -> None:
        """Set a password, for an operator at the machine; all sessions of the user end, what waits
        to become one, and their API keys.

        Raises Fault: "not_found", "invalid_params".
        """
        async with self._database.read(EVERY_TENANT) as session:
            known = await session.get(User, user_id)
        if known is None or known.deleted_at is not None:
            raise Fault("not_found", "There is no such user.")
        hashed = await self._passwords.hash(password, own_parts(known.email))
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id, with_for_update=True)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            await self._set(session, user, hashed)
            await end_sessions(session, col(LoginSession.user_id) == user_id)
            revoked = await revoke_keys(session, user_id)
            await tell(session, user_id, "account.reset", revoked)
        await announce(self._changed, ("user", user_id))

    async def reset_token(self, user_id: str) -> str:
        """A token with which the user chooses a password, for an operator at the machine to pass
        on. Raises Fault("not_found").
        """
        async with self._database.write(EVERY_TENANT) as session:
            user = await session.get(User, user_id)
            if user is None or user.deleted_at is not None:
                raise Fault("not_found", "There is no such user.")
            await tell(session, user_id, "account.recover")
            return account_tokens.make(session, user, "reset")

    async def help(self, purpose: Purpose, tenant_id: str, by: Actor, user_id: str) -> None:
        """Have a letter sent to a member of a tenant, for an administrator there. For a ``reset``
        their sessions in that tenant end, whatever becomes of the letter.

        The password and the second factor stay, and the address is verified by nobody but who reads
        the letter: they are of all the tenants that the user is in, or will be. Nothing tells
        whether they are in others, or have a second factor. Raises Fault: "not_found",
        "permission_denied" (they rank above ``by``), "conflict" (``by`` themself, or a service
        account), and "rate_limited" where no letter was sent.
        """
        action, permission = _HELP[purpose]
        async with self._database.read(tenant_id) as session:
            user = await session.get(User, user_id)
        if user is None:
            raise Fault("not_found")
        if user.kind == "service":
            raise Fault("conflict", "A service account reads no letters, and has no password.")
        taken = await self._throttle.letter_of_tenant(user.email, tenant_id)
        try:
            async with self._database.write(tenant_id) as session:
                await may_change(session, tenant_id, by, user_id, permission)
                if purpose == "reset":
                    await void_sign_ins(session, user_id)
                    await end_sessions(session, col(LoginSession.user_id) == user_id)
                await record(session, tenant_id, action, resource=("user", user_id))
        except Fault:
            await self._throttle.give_back(taken)
            raise
        if purpose == "reset":
            await announce(self._changed, ("user", user_id))
        self._mailing.want(purpose, user.email)

    async def confirm(self, user_id: str, password: str) -> tuple[str | None, str]:
        """That who is signed in knows the password too; its hash, and the e-mail address.

        Raises Fault: "permission_denied", "rate_limited".
        """
        taken = await self._throttle.current_password(user_id)
        async with self._database.read(EVERY_TENANT) as session:
            user = await session.get(User, user_id)
        stored = user.password_hash if user is not None else None
        verified = await self._passwords.verify(password, stored)
        if user is None or not verified.right:
            raise Fault("permission_denied", WRONG)
        await self._throttle.give_back(taken)
        return stored, user.email

    async def _set(self, session: AsyncSession, user: User, hashed: str) -> None:
        user.password_hash = hashed
        session.add(user)
        # What was asked for before is not to undo it.
        await account_tokens.void(session, user.id, "reset")
        await void_letters(session, user.id)
        await void_sign_ins(session, user.id)
