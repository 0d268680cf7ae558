"""``hub role``: roles of a tenant and who has them, for an operator at the machine."""

import argparse
import re
from datetime import datetime
from typing import Any, Final

from hub.backplane.memory import MemoryBackplane
from hub.cli.place import PAGE, Place, add_action, add_family, opened
from hub.faults import Fault
from hub.identity.access.assignments import Target
from hub.identity.access.authority import Authority
from hub.identity.access.roles import Described
from hub.operations.explanation import RESOURCE_PATTERN, Explainer, Explanation, Way
from hub.operations.resources import Resources
from hub.settings import Settings


def add_commands(commands: Any) -> None:
    """Add ``role`` to the commands of ``hub``."""
    actions = add_family(commands, "role", "administer the roles of a tenant, and who has them")

    def action(name: str, summary: str, *, acts: bool = True) -> argparse.ArgumentParser:
        return add_action(actions, name, summary, acts=acts)

    action("list", "list the roles, the lowest in rank first", acts=False)
    show = action("show", "print a role with all that it may do", acts=False)
    show.add_argument("role", metavar="ROLE", help="name or id")
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
    listing = action("assignments", "list who has which role, and until when", acts=False)
    listing.add_argument("--role", metavar="ROLE", help="only of this one")
    _add_whom(listing, required=False)
    factor = action("second-factor", "say, or print, who must have a second factor in the tenant")
    demand = factor.add_mutually_exclusive_group()
    demand.add_argument("--from", dest="role", metavar="ROLE", help="who has this role or above")
    demand.add_argument("--nobody", action="store_true", help="nobody must")
    explain = action("explain", "say why a user may do a thing, or may not", acts=False)
    explain.add_argument("permission", metavar="PERMISSION", help="see `hub reference`")
    explain.add_argument("--user", required=True, help="e-mail or id")
    explain.add_argument(
        "--resource",
        type=_resource,
        metavar="KIND:ID",
        help="what it would be done to, as conversation:c_… or run:r_…",
    )


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
    _add_whom(parser, required=True)


def _add_whom(parser: argparse.ArgumentParser, *, required: bool) -> None:
    whom = parser.add_mutually_exclusive_group(required=required)
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


def _resource(text: str) -> str:
    if not re.fullmatch(RESOURCE_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no resource such as conversation:c_…")
    return text


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub role``"""
    async with opened(settings, given.tenant) as place:
        await _ACTIONS[given.action](place, given)
    return 0


async def _list(place: Place, given: argparse.Namespace) -> None:
    for role in await place.roles.all(place.tenant_id):
        print(_line(role, role.permissions))


async def _show(place: Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    print(_line(role, role.all_permissions))
    if role.description:
        print(f"  {role.description}")


def _line(role: Described, permissions: list[str]) -> str:
    inherits = f", as {role.inherits}" if role.inherits else ""
    what = " ".join(permissions) or "nothing of its own"
    return f"{role.name} ({role.id}): rank {role.rank}{inherits}: {what}"


async def _assignments(place: Place, given: argparse.Namespace) -> None:
    role_id = (await place.role(given.role)).id if given.role else None
    of: Target | None = None
    if given.user or given.group:
        of = await place.target(given.user, given.group)
    after: str | None = None
    while True:
        found = await place.assignments.page(place.tenant_id, after, PAGE, role_id=role_id, of=of)
        for each in found:
            until = f" until {each.expires_at.isoformat()}" if each.expires_at else ""
            print(f"{each.user_id or each.group_id} has {each.role}{until}")
            after = each.id
        if len(found) < PAGE:
            return


async def _create(place: Place, given: argparse.Namespace) -> None:
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


async def _update(place: Place, given: argparse.Namespace) -> None:
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


async def _delete(place: Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    instead = (await place.role(given.reassign_to)).id if given.reassign_to else None
    await place.roles.delete(place.tenant_id, None, role.id, instead)
    print(f"{role.name} ({role.id}) is deleted")


async def _assign(place: Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    target = await place.target(given.user, given.group)
    await place.assignments.give(place.tenant_id, None, role.id, target, given.expires)
    until = f" until {given.expires.isoformat()}" if given.expires else ""
    print(f"{given.user or given.group} ({target.id}) has {role.name}{until}")


async def _revoke(place: Place, given: argparse.Namespace) -> None:
    role = await place.role(given.role)
    target = await place.target(given.user, given.group)
    await place.assignments.take(place.tenant_id, None, role.id, target)
    print(f"{given.user or given.group} ({target.id}) has {role.name} no more")


async def _second_factor(place: Place, given: argparse.Namespace) -> None:
    if given.role is None and not given.nobody:
        rank = await place.factor_rules.demanded(place.tenant_id)
    else:
        role = (await place.role(given.role)).id if given.role is not None else None
        rank = await place.factor_rules.demand(place.tenant_id, None, role)
    print("nobody must" if rank is None else f"whoever has a role of rank {rank} or above must")


async def _explain(place: Place, given: argparse.Namespace) -> None:
    user_id = await place.user(given.user)
    # As a node of its own, which nobody tells of anything: it looks once.
    alone = MemoryBackplane()
    resources = Resources(place.database, alone, lambda id: None)
    explainer = Explainer(Authority(place.database, alone), resources, place.assignments)
    try:
        found = await explainer.explain(place.tenant_id, user_id, given.permission, given.resource)
    except Fault as fault:
        if fault.reason != "not_found":
            raise
        raise Fault("not_found", f"there is no {given.resource} in this tenant") from None
    finally:
        resources.close()
    to = f" to {given.resource}" if given.resource else ""
    print(f"{given.user} {'may' if found.allowed else 'may not'} {given.permission}{to}")
    for line in _why(found):
        print(f"  {line}")


def _why(found: Explanation) -> list[str]:
    lines = []
    if found.resource is not None or found.fault == "unauthenticated":
        lines.append(found.reason)
    if found.lacking is not None:
        roles, by = ", ".join(found.roles), ", ".join(found.given_by or ())
        lines.append(f"has {roles}; it would take {by or 'a role that is not there'}")
    return [*lines, *map(_way, found.ways)]


def _way(way: Way) -> str:
    group = f", by the group {way.group}" if way.group is not None else ""
    until = f", until {way.expires_at.isoformat()}" if way.expires_at is not None else ""
    return f"as {' which is also '.join(way.roles)}: {way.permission}{group}{until}"


_ACTIONS: Final[dict[str, Any]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "update": _update,
    "delete": _delete,
    "assign": _assign,
    "revoke": _revoke,
    "assignments": _assignments,
    "second-factor": _second_factor,
    "explain": _explain,
}
