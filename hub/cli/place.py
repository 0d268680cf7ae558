"""A tenant as the operator at the machine administers it, in the database of a hub."""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlmodel import col, or_, select

from hub.audit.origin import Origin, acting
from hub.backplane.choice import open_backplane
from hub.cli.changes import teller
from hub.cli.data import data_of
from hub.faults import Fault
from hub.identity.access.assignments import Assignments, Target
from hub.identity.access.authority import Authority
from hub.identity.access.changes import Changed
from hub.identity.access.groups import Groups
from hub.identity.access.roles import Described, Roles
from hub.identity.factors.rules import FactorRules
from hub.identity.keys.service_accounts import Account, ServiceAccounts
from hub.ids import is_id, new_id
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.tables import Group, Membership, User
from hub.tenancy.members import Members
from hub.tenancy.tenants import Tenants

EFFECT: Final = (
    "It is done in the database. Running hubs that share Redis (HUB_REDIS_URL) or the data "
    "directory act on it within a second, on open sockets too; others within 5 seconds."
)
PAGE: Final = 200
LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant, and what administers it."""

    tenant_id: str
    database: Database
    roles: Roles
    assignments: Assignments
    groups: Groups
    members: Members
    services: ServiceAccounts
    factor_rules: FactorRules

    async def role(self, wanted: str) -> Described:
        """By its name or id. Raises Fault("not_found")."""
        there = await self.roles.all(self.tenant_id)
        for role in there:
            if wanted in (role.name, role.id):
                return role
        names = ", ".join(role.name for role in there)
        raise Fault("not_found", f"there is no role {wanted!r} here; there are: {names}")

    async def group(self, wanted: str) -> Group:
        """By its name or id. Raises Fault("not_found")."""
        named = select(Group).where(or_(Group.id == wanted, Group.name == wanted))
        async with self.database.read(self.tenant_id) as session:
            found = (await session.exec(named.limit(1))).first()
        if found is None:
            raise Fault("not_found", f"there is no group {wanted} in this tenant")
        return found

    async def user(self, wanted: str) -> str:
        """The id of a member, by e-mail or id. Raises Fault("not_found")."""
        named = (
            select(User.id)
            .join(Membership, col(Membership.user_id) == User.id)
            .where(or_(User.id == wanted, User.email == wanted.lower()))
        )
        async with self.database.read(self.tenant_id) as session:
            found = (await session.exec(named.limit(1))).first()
        if found is None:
            raise Fault("not_found", f"there is no user {wanted} in this tenant")
        return found

    async def service(self, wanted: str) -> Account:
        """A service account, by its id or else by its name: of several the oldest. Raises
        Fault("not_found").
        """
        if is_id(wanted, "u"):
            return await self.services.get(self.tenant_id, wanted)
        found = await self.services.named(self.tenant_id, wanted)
        if found is None:
            raise Fault("not_found", f"there is no service account {wanted} in this tenant")
        return found

    async def target(self, user: str | None, group: str | None) -> Target:
        """A user or a group. Raises Fault("not_found")."""
        if group is not None:
            return Target(None, (await self.group(group)).id)
        assert user is not None, "one of the two is given"
        return Target(await self.user(user), None)


def name_of(text: str) -> str:
    """A name of somebody or something, as argparse's type."""
    if not 1 <= len(text) <= LONGEST_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"a name has 1 to {LONGEST_NAME} characters, all of which can be printed"
        )
    return text


def printable(text: str) -> str:
    """Without what would do something to a terminal: people of the tenant have chosen it."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def add_family(commands: Any, name: str, about: str) -> Any:
    """Add a command that administers a tenant; to what is returned, ``add_action`` adds."""
    return commands.add_parser(
        name, help=about, description=f"{about.capitalize()}. {EFFECT}"
    ).add_subparsers(dest="action", required=True, metavar="ACTION")


def add_action(
    actions: Any,
    name: str,
    summary: str,
    *,
    acts: bool = True,
    to: str | None = None,
    known_by: str = "name or id",
) -> argparse.ArgumentParser:
    """Add what a command can do in a tenant; ``acts``: it changes something; ``to``: the kind of
    the one thing that it is done to.
    """
    text = f"{summary.capitalize()}." + (f" {EFFECT}" if acts else "")
    added: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=text)
    added.add_argument("--data-dir", metavar="DIR", help="default: HUB_DATA_DIR or .hub")
    added.add_argument("--tenant", default="default", help="tenant's name or id (default: default)")
    if to is not None:
        added.add_argument(to, metavar=to.upper(), help=known_by)
    return added


@asynccontextmanager
async def opened(settings: Settings, tenant: str) -> AsyncIterator[Place]:
    """The tenant of this name or id. What is done there is done by the operator.

    Raises Fault("not_found") where there is no hub, or no such tenant.
    """
    async with reached(settings) as (database, changed):
        place = await Tenants(database, grace_days=settings.tenant_grace_days).find(tenant)
        yield Place(
            place.id,
            database,
            Roles(database, changed=changed),
            Assignments(database, changed=changed),
            Groups(database, changed=changed),
            Members(database, changed=changed),
            ServiceAccounts(database, changed),
            FactorRules(database, changed=changed),
        )


@asynccontextmanager
async def reached(settings: Settings) -> AsyncIterator[tuple[Database, Changed]]:
    """The database of a hub that is there, and what tells the running nodes of a change; the deeds
    of the operator.
    """
    async with data_of(settings) as database, AsyncExitStack() as stack:
        backplane = open_backplane(settings.redis_url, new_id("n"))
        stack.push_async_callback(backplane.close)
        changed: Changed = _nobody_hears
        try:
            await backplane.start()
            changed = teller(settings, Authority(database, backplane))
        except Fault:
            print("hub: Redis does not answer: nodes act on it within 5 seconds", file=sys.stderr)
        with acting(Origin(transport="cli")):
            yield database, changed


async def _nobody_hears(kind: str, id: str) -> None:
    """Of a change; what has changed is in the database, where nodes look."""
