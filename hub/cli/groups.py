"""``hub group``: groups of a tenant and who is in them, for an operator at the machine."""

import argparse
from functools import partial
from typing import Any, Final

from hub.cli.place import PAGE, Place, add_action, add_family, opened
from hub.identity.access.assignments import Target
from hub.settings import Settings
from hub.storage.tables import Group


def add_commands(commands: Any) -> None:
    """Add ``group`` to the commands of ``hub``."""
    actions = add_family(commands, "group", "administer the groups of a tenant, and who is in them")
    of_one = partial(add_action, actions, to="group")
    add_action(actions, "list", "list the groups, the oldest first", acts=False)
    of_one("show", "print a group, the roles that it has and who is in it", acts=False)
    create = add_action(actions, "create", "make a group, with nobody in it")
    create.add_argument("group", metavar="NAME")
    create.add_argument("--description")
    update = of_one("update", "change a group; what is not given stays as it is")
    update.add_argument("--name", help="its name from now on")
    update.add_argument("--description", help="none: ''")
    for name, summary in {
        "add": "put a user into a group",
        "remove": "take a user out of a group",
    }.items():
        of_one(name, summary).add_argument("--user", required=True, help="e-mail or id")
    of_one("delete", "delete a group, and what was shared with it")


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub group``"""
    async with opened(settings, given.tenant) as place:
        await _ACTIONS[given.action](place, given)
    return 0


async def _list(place: Place, given: argparse.Namespace) -> None:
    after: str | None = None
    while found := await place.groups.page(place.tenant_id, after, PAGE):
        for group in found:
            print(_line(group))
        after = found[-1].id


async def _show(place: Place, given: argparse.Namespace) -> None:
    group = await place.group(given.group)
    print(_line(group))
    of = Target(None, group.id)
    for each in await place.assignments.page(place.tenant_id, None, PAGE, of=of):
        until = f" until {each.expires_at.isoformat()}" if each.expires_at else ""
        print(f"  has {each.role}{until}")
    after: str | None = None
    while found := await place.groups.members(place.tenant_id, group.id, after, PAGE):
        for member in found:
            print(f"  {member.user_id} {member.email}")
        after = found[-1].user_id


async def _create(place: Place, given: argparse.Namespace) -> None:
    made = await place.groups.create(place.tenant_id, None, given.group, given.description or None)
    print(_line(made))


async def _update(place: Place, given: argparse.Namespace) -> None:
    group = await place.group(given.group)
    changes: dict[str, str | None] = {}
    if given.name is not None:
        changes["name"] = given.name
    if given.description is not None:
        changes["description"] = given.description or None
    print(_line(await place.groups.update(place.tenant_id, None, group.id, changes)))


async def _add(place: Place, given: argparse.Namespace) -> None:
    group, user_id = await place.group(given.group), await place.user(given.user)
    await place.groups.add(place.tenant_id, None, group.id, user_id)
    print(f"{given.user} ({user_id}) is in {group.name}")


async def _remove(place: Place, given: argparse.Namespace) -> None:
    group, user_id = await place.group(given.group), await place.user(given.user)
    await place.groups.remove(place.tenant_id, None, group.id, user_id)
    print(f"{given.user} ({user_id}) is in {group.name} no more")


async def _delete(place: Place, given: argparse.Namespace) -> None:
    group = await place.group(given.group)
    await place.groups.delete(place.tenant_id, None, group.id)
    print(f"{group.name} ({group.id}) is deleted")


def _line(group: Group) -> str:
    return f"{group.name} ({group.id})" + (f": {group.description}" if group.description else "")


_ACTIONS: Final[dict[str, Any]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "update": _update,
    "add": _add,
    "remove": _remove,
    "delete": _delete,
}
