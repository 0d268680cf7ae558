"""``hub service``: the service accounts of a tenant, for an operator at the machine."""

import argparse
from functools import partial
from typing import Any, Final

from hub.cli.place import PAGE, Place, add_action, add_family, name_of, opened, printable
from hub.identity.keys.service_accounts import ROLE, Account
from hub.settings import Settings


def add_commands(commands: Any) -> None:
    """Add ``service`` to the commands of ``hub``."""
    actions = add_family(commands, "service", "administer the service accounts of a tenant")
    of_one = partial(add_action, actions, to="service", known_by="name or id; of a name the oldest")
    add_action(actions, "list", "list the service accounts, the newest first", acts=False)
    of_one("show", "print a service account", acts=False)
    create = add_action(actions, "create", "make one; `hub apikey create --service` makes its key")
    create.add_argument("service", metavar="NAME", type=name_of)
    create.add_argument("--role", help=f"name or id (default: {ROLE})")
    of_one("update", "give one another name").add_argument("--name", required=True, type=name_of)
    of_one("disable", "let one in no more; its sockets and runs end")
    of_one("enable", "let one in again, by the keys that it has")
    of_one("delete", "take one out of the tenant for good, and end its keys")


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub service``"""
    async with opened(settings, given.tenant) as place:
        await _ACTIONS[given.action](place, given)
    return 0


async def _list(place: Place, given: argparse.Namespace) -> None:
    after: str | None = None
    while found := await place.services.page(place.tenant_id, None, after, PAGE):
        for each in found:
            print(_line(each))
        after = found[-1].user.id


async def _show(place: Place, given: argparse.Namespace) -> None:
    print(_line(await place.service(given.service)))


async def _create(place: Place, given: argparse.Namespace) -> None:
    role = (await place.role(given.role)).id if given.role is not None else None
    print(_line(await place.services.create(None, place.tenant_id, given.service, role)))


async def _update(place: Place, given: argparse.Namespace) -> None:
    service_id = (await place.service(given.service)).user.id
    print(_line(await place.services.rename(None, place.tenant_id, service_id, given.name)))


async def _disable(place: Place, given: argparse.Namespace) -> None:
    account = await place.service(given.service)
    await place.services.disable(None, place.tenant_id, account.user.id)
    print(f"{_called(account)} may come in no more")


async def _enable(place: Place, given: argparse.Namespace) -> None:
    account = await place.service(given.service)
    await place.services.enable(None, place.tenant_id, account.user.id)
    print(f"{_called(account)} may come in")


async def _delete(place: Place, given: argparse.Namespace) -> None:
    account = await place.service(given.service)
    await place.services.delete(None, place.tenant_id, account.user.id)
    print(f"{_called(account)} is deleted")


def _line(account: Account) -> str:
    marks = " (disabled)" if account.user.disabled_at is not None else ""
    return f"{_called(account)}: {', '.join(account.roles)}{marks}"


def _called(account: Account) -> str:
    return f"{printable(account.user.name or '')} ({account.user.id})"


_ACTIONS: Final[dict[str, Any]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "update": _update,
    "disable": _disable,
    "enable": _enable,
    "delete": _delete,
}
