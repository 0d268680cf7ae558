"""Newcomers: users whom the administrators of a tenant make there.

They choose their password themselves, by a letter: one that an administrator knew would open every
tenant that they come into later.

Where an address must be verified before it signs in, nobody learns whether it has an account, and
what is made is an invitation for it alone, as by registering with one: a new user comes in as the
address is verified, and who has an account by the code in the letter. Where none must, a new user
is a member at once, and of an address that has an account the answer says so, as registering does.
"""

import asyncio
import time
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy.exc import IntegrityError

from hub.audit.trail import record
from hub.faults import Fault
from hub.identity.access.definitions import role_named
from hub.identity.access.holdings import hand_of, is_known
from hub.identity.accounts import addresses, invitations
from hub.identity.accounts.addresses import user_of
from hub.identity.accounts.mailing import Kind, Mailing
from hub.identity.accounts.registration import EVEN_S
from hub.identity.sessions.throttle import Throttle
from hub.ids import new_id
from hub.rbac.actor import Actor
from hub.rbac.ranks import why_not_give
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Invitation, Membership, User


class Made(NamedTuple):
    """One of the two: a new member by their id, or an invitation that waits for whose address it
    is.
    """

    user_id: str | None
    invitation: Invitation | None


class Newcomers:
    """Makes users. ``verified``: an address must be verified before it signs in."""

    def __init__(
        self, database: Database, throttle: Throttle, mailing: Mailing, *, verified: bool
    ) -> None:
        self._database = database
        self._throttle = throttle
        self._mailing = mailing
        self._quiet = verified

    async def make(self, by: Actor, email: str, role: str, name: str | None) -> Made:
        """A user with this address in the tenant of ``by``, in a role (by id or name), and a letter
        to them.

        Raises Fault: "not_found" for no such role; "permission_denied" for one above ``by``, or
        that may do what they may not; "conflict" for a member, for an address that the tenant does
        not take, and for one that has an account where it need not be verified; "invalid_params"
        for what is no address; "rate_limited".
        """
        address = addresses.normal(email)
        taken = await self._throttle.letter_of_tenant(address, by.tenant_id)
        until = time.monotonic() + EVEN_S
        try:
            try:
                made, kind, code = await self._made(by, address, role, name)
            except IntegrityError:  # it has had an account for a moment now
                made, kind, code = await self._made(by, address, role, name)
        except Fault:
            await self._throttle.give_back(taken)
            raise
        with suppress(Fault):  # too many letters wait; one can be asked for later
            self._mailing.want(kind, address, code)
        if self._quiet:
            await asyncio.sleep(until - time.monotonic())
        return made

    async def _made(
        self, by: Actor, address: str, role: str, name: str | None
    ) -> tuple[Made, Kind, str | None]:
        """What was made, which letter is to be sent, and the code in it."""
        tenant_id = by.tenant_id
        async with self._database.write(EVERY_TENANT) as session:
            hand, definitions = await hand_of(session, tenant_id, by, invitations.PERMISSION)
            role_id = role_named(role, definitions)
            if (why := why_not_give(hand, (role_id,), definitions)) is not None:
                raise Fault("permission_denied", why)
            await invitations.check_address(session, tenant_id, address)
            known = await user_of(session, address)
            if known is not None and await is_known(session, tenant_id, known.id):
                raise Fault("conflict", "This user belongs to the tenant already.")
            if known is not None and not self._quiet:
                raise Fault("conflict", "This address has an account. Invite it instead.")
            user = User(id=new_id("u"), email=address, name=name)
            if known is None:
                session.add(user)
                await session.flush()
            details = {"role": role_id}
            if self._quiet:
                guest_id = user.id if known is None else None
                made, code = invitations.make(
                    session, tenant_id, role_id, by.user_id, address, guest_id=guest_id
                )
                await session.flush()
                resource = ("invitation", made.id)
                await record(session, tenant_id, "user.create", resource=resource, details=details)
                # Who is new comes in without the code.
                return (
                    (Made(None, made), "welcome", None)
                    if known is None
                    else (Made(None, made), "invited", code)
                )
            session.add(
                Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=user.id, role_id=role_id)
            )
            resource = ("user", user.id)
            await record(session, tenant_id, "user.create", resource=resource, details=details)
            return Made(user.id, None), "welcome", None
