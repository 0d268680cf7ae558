"""Registering: a new user in a tenant of their own, or in the one that an invitation is for.

Where an address must be verified before it signs in, whoever registers learns nothing of it: one
that has an account is answered as one that has none, after the same work and the same time, and its
owner gets a letter that says so. Nor does the tenant that invited learn it. In both cases the
invitation is used up, another for that address alone is there instead, and nobody has come in yet:
a new user does as the address is verified, and who has an account by the code in the letter.

Where nothing has to be verified, who registers comes in at once and reads no letter: the answer is
the only way to say that an address is somebody's, and says it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.audit.origin import acting_as, current
from hub.audit.refusal import Refusal
from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.accounts import addresses, invitations, password_policy
from hub.identity.accounts.addresses import own_parts, user_of
from hub.identity.accounts.mailing import Mailing
from hub.identity.accounts.passwords import Passwords
from hub.identity.sessions.throttle import Throttle
from hub.ids import new_id
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership, Tenant, User

EVEN_S: Final = 0.05
"""From the hash to the answer, where it is to tell nothing: what is written takes less."""


class _Place(NamedTuple):
    tenant: Tenant
    known: bool  # the address has an account already
    invitation: str | None = None  # for its owner, in place of the one that was used up


class Registration:
    """Lets people register. ``denied`` is told of known addresses; see ``Accounts``."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        settings: Settings,
        *,
        throttle: Throttle | None,
        mailing: Mailing | None,
        denied: Callable[[Refusal], None] | None,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._policy = settings.registration
        self._quiet = bool(settings.require_verified)
        self._throttle = throttle
        self._mailing = mailing
        self._denied = denied

    async def register(
        self, email: str, password: str, name: str | None, invitation: str | None, place: str | None
    ) -> tuple[User, Tenant]:
        """See ``Accounts.register``."""
        if self._policy == "off":
            raise Fault("permission_denied", "Registration is off. Ask an administrator.")
        if self._policy == "invite" and invitation is None:
            raise Fault("permission_denied", "Registration needs an invitation.")
        address = addresses.normal(email)
        password_policy.check(password, own_parts(address))
        self._passwords.expect_room()
        if self._quiet and self._throttle is not None:
            await self._throttle.letter(address, place)
        if invitation is not None:
            # Before the costly hash; the transaction below decides.
            async with self._database.read(EVERY_TENANT) as session:
                await invitations.check(session, invitation, address)
        hashed = await self._passwords.hash(password, own_parts(address))
        user = User(id=new_id("u"), email=address, name=name, password_hash=hashed)
        until = time.monotonic() + EVEN_S
        try:
            found = await self._entered(user, invitation)
        except IntegrityError:
            if not self._quiet:
                raise Fault("conflict", "This address has an account. Sign in instead.") from None
            found = await self._entered(user, invitation)  # it has had one for a moment now
        self._tell(address, found)
        if self._quiet:
            await asyncio.sleep(until - time.monotonic())
        return user, found.tenant

    async def _entered(self, user: User, invitation: str | None) -> _Place:
        """Where the user is now, or would be. Raises IntegrityError for a known address, unless it
        was found and is to be told to nobody.
        """
        async with self._database.write(EVERY_TENANT) as session:
            known = self._quiet and await user_of(session, user.email) is not None
            if invitation is not None:
                tenant, role = await invitations.accept(session, invitation, user.email)
            else:
                # Names with an @ are for these tenants, and the others for the operator's: a name
                # that people chose could be one that the operator uses.
                tenant, role = Tenant(id=new_id("t"), name=user.email[:200]), "owner"
            if self._quiet and invitation is not None:
                code = await _promised(session, invitation, user, known)
                return _Place(tenant, known, code if known else None)
            if known:
                return _Place(tenant, True)
            if invitation is None:
                session.add(tenant)
            await join(session, user, tenant, role)
            with acting_as(user.id):
                await record(
                    session,
                    tenant.id,
                    "account.register",
                    resource=("user", user.id),
                    details={"role": role, "invited": invitation is not None},
                )
            return _Place(tenant, False)

    def _tell(self, address: str, found: _Place) -> None:
        """Have the letter sent, to whom the answer does not tell what it says."""
        if found.known and self._denied is not None:
            refusal = Refusal("account.register", "denied", "conflict", current(), email=address)
            self._denied(refusal)
        if self._mailing is not None:
            with suppress(Fault):  # too many letters wait; one can be asked for later
                self._mailing.want("known" if found.known else "verify", address, found.invitation)


async def join(session: AsyncSession, user: User, tenant: Tenant, role: str) -> None:
    """Add a new user to a tenant, in the transaction of ``session``."""
    session.add(user)
    await session.flush()  # there are no relationships that would order these inserts
    session.add(Membership(id=new_id("ms"), tenant_id=tenant.id, user_id=user.id, role_id=role))


async def _promised(session: AsyncSession, invitation: str, user: User, known: bool) -> str:
    """The code of another invitation as the one that was used up, for this address alone. What the
    tenant sees of it is the same for a new user, who is added, and for a known address.
    """
    if not known:
        session.add(user)
        await session.flush()
    guest_id = None if known else user.id
    made, code = await invitations.again(session, invitation, user.email, guest_id)
    await session.flush()
    await record(
        session,
        made.tenant_id,
        "account.register",
        resource=("invitation", made.id),
        details={"role": made.role_id, "invited": True},
    )
    return code
