"""``hub role``: roles of a tenant and who has them, for an operator at the machine."""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlmodel import col, or_, select

from hub.audit.origin import Origin, acting
from hub.backplane.choice import open_backplane
from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.identity.assignments import Assignments, Reasons, Target
from hub.identity.authority import Authority, NoStanding
from hub.identity.changes import Changed
from hub.identity.roles import Described, Roles
from hub.ids import new_id
from hub.rbac.decision import decide
from hub.rbac.explaining import givers
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Group, Membership, Tenant, User

EFFECT: Final = (
    "It is done in the database. Nodes that share Redis (HUB_REDIS_URL) act on it at once, on open "
    "sockets too; other running hubs within 5 seconds."
)


@dataclass(frozen=True, slots=True)
class _Place:
    """A tenant, and what administers it."""

    tenant_id: str
    database: Database
    roles: Roles
    assignments: Assignments

    async def role(self, wanted: str) -> Described:
        """By its name or id. Raises Fault("not_found")."""
        there = await self.roles.all(self.tenant_id)
        for role in there:
            if wanted in (role.name, role.id):
                return role
        names = ", ".join(role.name for role in there)
        raise Fault("not_found", f"there is no role {wanted!r} here; there are: {names}")

    async def target(self, user: str | None, group: str | None) -> Target:
        """A user by e-mail or id, or a group by name or id. Raises Fault("not_found")."""
        if group is not None:
            named: Any = select(Group.id).where(or_(Group.id == group, Group.name == group))
        else:
            named = (
                select(User.id)
                .join(Membership, col(Membership.user_id) == User.id)
                .where(or_(User.id == user, User.email == (user or "").lower()))
            )
        async with self.database.read(self.tenant_id) as session:
            found: str | None = (await session.exec(named.limit(1))).first()
        if found is None:
            what = "user" if group is None else "group"
            raise Fault("not_found", f"there is no {what} {user or group} in this tenant")
        return Target(found, None) if group is None else Target(None, found)


def add_commands(commands: Any) -> None:
    """Add ``role`` to the commands of ``hub``."""
    about = "administer the roles of a tenant, and who has them"
    actions = commands.add_parser(
        "role", help=about, description=f"{about.capitalize()}. {EFFECT}"
    ).add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str, *, acts: bool = True) -> argparse.ArgumentParser:
        text = f"{summary.capitalize()}." + (f" {EFFECT}" if acts else "")
        added: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=text)
        added.add_argument("--data-dir", metavar="DIR", help="default: HUB_DATA_DIR or .hub")
        added.add_argument(
            "--tenant", default="default", help="tenant's name or id (default: default)"
        )
        return added

    action("list", "list the roles, the lowest in rank first", acts=False)
    create = action("create", "make a role")
    create.add_argument("role", metavar="NAME")
    _add_definition(create)
    update = action("update", "change a role; what is not given stays as it is")
    update.add_argument("role", metavar="ROLE", help="name or id")
    update.add_argument("--name", help="its name from now on")
    _add_definition(update)
    delete = action("delete", "delete a role that is not in use")
    delete.add_argument("role", metavar="ROLE", help="name or id")
    delete.add_argument(
        "--reassign-to", metavar="ROLE", help="the role that all who have it shall have instead"
    )
    assign = action("assign", "give a role to a user or to a group")
    _add_target(assign)
    assign.add_argument(
        "--expires",
        type=_instant,
        metavar="WHEN",
        help="when it ends by itself, as 2027-01-31T12:00Z (default: never)",
    )
    _add_target(action("revoke", "take a role from a user or a group"))
    explain = action("explain", "say why a user may do a thing, or may not", acts=False)
    explain.add_argument("permission", metavar="PERMISSION", help="see `hub reference`")
    explain.add_argument("--user", required=True, help="e-mail or id")


def _add_definition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--description")
    parser.add_argument(
        "--inherits", metavar="ROLE", help="a role whose permissions it has as well; none: ''"
    )
    parser.add_argument("--rank", type=int, help="nobody gives a role that ranks above theirs")
    parser.add_argument(
        "--permission",
        action="append",
        metavar="P",
        help="all that it may of itself, each with a --permission of its own",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", metavar="ROLE", help="name or id")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", help="e-mail or id")
    whom.add_argument("--group", help="name or id")


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        why = f"{text!r} is no instant such as 2027-01-31T12:00Z"
        raise argparse.ArgumentTypeError(why) from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} does not say its zone; add Z for UTC")
    return found


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub role``"""
    async with _place(settings, given.tenant) as place:
        with acting(Origin(transport="cli")):
            await _ACTIONS[given.action](place, given)
    return 0


@asynccontextmanager
async def _place(settings: Settings, tenant: str) -> AsyncIterator[_Place]:
    database = Database(settings.database)
    if database.file is not None and not database.file.exists():
        raise Fault(
            "not_found",
            f"there is no hub's data at {database.file}; use --data-dir (or HUB_DATABASE_URL)",
        )
    async with AsyncExitStack() as stack:
        await database.start()
        stack.push_async_callback(database.close)
        await database.migrate()
        changed = await _telling(settings, database, stack)
        yield _Place(
            await _tenant(database, tenant),
            database,
            Roles(database, changed=changed),
            Assignments(database, changed=changed),
        )


async def _telling(settings: Settings, database: Database, stack: AsyncExitStack) -> Changed | None:
    """What tells the running nodes, where there is something that they share."""
    if settings.redis_url is None:
        return None
    backplane = open_backplane(settings.redis_url, new_id("n"))
    stack.push_async_callback(backplane.close)
    try:
        await backplane.start()
    except Fault:
        print("hub: Redis does not answer: nodes act on it within 5 seconds", file=sys.stderr)
        return None
    return Authority(database, backplane).changed


async def _tenant(database: Database, wanted: str) -> str:
    async with database.read(EVERY_TENANT) as session:
        named = select(Tenant.id).where(or_(Tenant.id == wanted, Tenant.name == wanted)).limit(2)
        found = (await session.exec(named)).all()
    if not found:
        raise Fault("not_found", f"there is no tenant {wanted!r}")
    if len(found) > 1:
        raise Fault("conflict", f"several tenants are called {wanted!r}; name one by its id, t_…")
    return found[0]


async def _list(place: _Place, given: argparse.Namespace) -> None:
    for role in await place.roles.all(place.tenant_id):
        inherits = f", as {role.inherits}" if role.inherits else ""
        own = " ".join(role.permissions) or "nothing of its own"
        print(f"{role.name} ({role.id}): rank {role.rank}{inherits}: {own}")


async def _create(place: _Place, given: argparse.Namespace) -> None:
    inherits = (await place.role(given.inherits)).id if given.inherits else None
    made = await place.roles.create(
        place.tenant_id,
        None,
        given.role,
        description=given.description,
        inherits=inherits,
        rank=given.rank,
        permissions=given.permission or (),
    )
    print(f"{made.name} ({made.id}): rank {made.rank}")


async def _update(place: _Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    asked = {
        "name": given.name,
        "description": given.description,
        "rank": given.rank,
        "permissions": given.permission,
    }
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if given.inherits is not None:
        changes["inherits"] = (await place.role(given.inherits)).id if given.inherits else None
    changed = await place.roles.update(place.tenant_id, None, role.id, changes)
    print(f"{changed.name} ({changed.id}): rank {changed.rank}")


async def _delete(place: _Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    instead = (await place.role(given.reassign_to)).id if given.reassign_to else None
    await place.roles.delete(place.tenant_id, None, role.id, instead)
    print(f"{role.name} ({role.id}) is deleted")


async def _assign(place: _Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    target = await place.target(given.user, given.group)
    await place.assignments.give(place.tenant_id, None, role.id, target, given.expires)
    until = f" until {given.expires.isoformat()}" if given.expires else ""
    print(f"{given.user or given.group} ({target.id}) has {role.name}{until}")


async def _revoke(place: _Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    target = await place.target(given.user, given.group)
    await place.assignments.take(place.tenant_id, None, role.id, target)
    print(f"{given.user or given.group} ({target.id}) has {role.name} no more")


async def _explain(place: _Place, given: argparse.Namespace) -> None:
    user_id = (await place.target(given.user, None)).id
    reasons = await place.assignments.explain(place.tenant_id, user_id, given.permission)
    authority = Authority(place.database, MemoryBackplane())
    try:
        user = await authority.member(user_id, place.tenant_id)
        allowed = decide(user, given.permission, None).allowed
    except NoStanding:
        allowed = False
    print(f"{given.user} {'may' if allowed else 'may not'} {given.permission}")
    for line in _why(reasons, given.permission):
        print(f"  {line}")


def _why(reasons: Reasons, permission: str) -> list[str]:
    names = {id: role.name for id, role in reasons.definitions.items()}
    if reasons.trouble is not None:
        return [reasons.trouble]
    if not reasons.ways:
        roles = ", ".join(sorted(names[id] for id in reasons.role_ids))
        by = ", ".join(names[id] for id in givers(permission, reasons.definitions))
        return [f"has {roles}; it would take {by or 'a role that is not there'}"]
    lines = []
    for way in reasons.ways:
        through = " which is also ".join(names[id] for id in way.lineage)
        group = reasons.groups.get(way.holding.group_id or "")
        until = way.holding.expires_at
        lines.append(
            f"as {through}: {way.permission}"
            + (f", by the group {group}" if group is not None else "")
            + (f", until {until.isoformat()}" if until is not None else "")
        )
    return lines


_ACTIONS: Final[dict[str, Any]] = {
    "list": _list,
    "create": _create,
    "update": _update,
    "delete": _delete,
    "assign": _assign,
    "revoke": _revoke,
    "explain": _explain,
}
