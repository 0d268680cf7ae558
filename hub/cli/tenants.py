"""``hub tenant``: the life of tenants, for the operator at the machine."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError

from hub.cli import administration
from hub.cli.place import EFFECT, printable, reached
from hub.faults import Fault
from hub.identity.accounts.addresses import normal
from hub.settings import Settings
from hub.storage import tables
from hub.storage.tenant_settings import TenantSettings, parsed
from hub.tenancy.tenants import Tenants, is_name, state_of

PAGE: Final = 500


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``hub tenant`` with its actions."""
    actions = commands.add_parser("tenant", help="administer tenants").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=summary, description=summary.capitalize() + ".")
        added.add_argument("--data-dir", metavar="DIR")
        return added

    create = action("create", "make a tenant")
    create.add_argument("tenant", metavar="NAME")
    create.add_argument(
        "--owner", metavar="EMAIL", help="print an invitation for its owner, who has this address"
    )
    action("list", "list all tenants")
    for name, summary in {
        "suspend": "close a tenant to all its members, at once",
        "resume": "open a suspended tenant again",
        "delete": "close a tenant, and have it purged when its grace is over",
        "restore": "take the deletion of a tenant back",
    }.items():
        added = action(name, summary)
        added.add_argument("tenant", metavar="TENANT", help="its id or name")
        if name == "delete":
            added.add_argument("--confirm", metavar="NAME", help="the tenant's name once more")
    settings = action("settings", "print what a tenant has settled, or change it")
    settings.add_argument("tenant", metavar="TENANT", help="its id or name")
    settings.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help="change this one; KEY= takes it away"
    )
    settings.formatter_class = argparse.RawDescriptionHelpFormatter
    about = "".join(f"  {key}: {field.description}\n" for key, field in _FIELDS.items())
    settings.epilog = f"settings (lists with commas between):\n{about}\n{EFFECT}"


def run(settings: Settings, given: argparse.Namespace) -> int:
    """Do what ``hub tenant`` was asked."""
    if given.action == "delete" and given.confirm is None and sys.stdin.isatty():
        given.confirm = input("All that the tenant has will be lost. Its name once more: ")
    return asyncio.run(_run(settings, given))


async def _run(settings: Settings, given: argparse.Namespace) -> int:
    actions: dict[str, Callable[[Tenants, argparse.Namespace], Awaitable[None]]] = {
        "create": _create,
        "list": _list,
        "suspend": _suspend,
        "resume": _resume,
        "delete": _delete,
        "restore": _restore,
        "settings": _settings,
    }
    if given.action == "create":
        # The tenant that a hub begins with is the operator's. This is not to become it.
        await administration.init(settings, quietly=True)
    async with reached(settings) as (database, changed):
        tenants = Tenants(
            database,
            grace_days=settings.tenant_grace_days,
            least_trail_days=settings.audit_retention_least_days,
            changed=changed,
        )
        await actions[given.action](tenants, given)
    return 0


async def _create(tenants: Tenants, given: argparse.Namespace) -> None:
    if not is_name(given.tenant):
        raise Fault(
            "invalid_params",
            "A tenant's name has ASCII letters and digits, and single spaces, dots and hyphens "
            "between them.",
        )
    owner = normal(given.owner) if given.owner is not None else None
    made, code = await tenants.create(given.tenant, by=None, owner=owner)
    _tell(made)
    if code is not None:
        print(f"Invitation of {owner}, for seven days: {code}")


async def _list(tenants: Tenants, given: argparse.Namespace) -> None:
    after = None
    while found := await tenants.listed(after, PAGE):
        for tenant in found:
            _tell(tenant)
        after = found[-1].id


async def _suspend(tenants: Tenants, given: argparse.Namespace) -> None:
    _tell(await tenants.suspend((await tenants.find(given.tenant)).id, by=None))


async def _resume(tenants: Tenants, given: argparse.Namespace) -> None:
    _tell(await tenants.resume((await tenants.find(given.tenant)).id, by=None))


async def _restore(tenants: Tenants, given: argparse.Namespace) -> None:
    _tell(await tenants.restore((await tenants.find(given.tenant)).id, by=None))


async def _delete(tenants: Tenants, given: argparse.Namespace) -> None:
    if given.confirm is None:
        raise Fault("invalid_params", "Say the tenant's name once more, with --confirm NAME.")
    tenant = await tenants.find(given.tenant)
    _tell(await tenants.delete(tenant.id, given.confirm, by=None))


async def _settings(tenants: Tenants, given: argparse.Namespace) -> None:
    changes = _changes(given.changes)
    tenant = await tenants.find(given.tenant)
    if changes is not None:
        tenant = await tenants.update(tenant.id, changes, by=None)
    settled = parsed(tenant.settings)
    for key in _FIELDS:
        print(f"{key}={_written(getattr(settled, key))}")


def _changes(words: Sequence[str]) -> TenantSettings | None:
    """What is to be settled, of words like ``answer_cache=true``; None if there are none.

    Raises Fault("invalid_params").
    """
    wanted: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            why = f"{word!r}: write KEY=VALUE, as in audit_retention_days=90; KEY= takes it away"
            raise Fault("invalid_params", why)
        if key not in _FIELDS:
            keys = ", ".join(_FIELDS)
            raise Fault("invalid_params", f"a tenant has no setting {key!r}; there are: {keys}")
        if key in wanted:
            raise Fault("invalid_params", f"{key} is given twice")
        field = _FIELDS[key]
        if not value:
            wanted[key] = field.default
        elif any(get_origin(kind) is list for kind in get_args(field.annotation)):
            wanted[key] = [part.strip() for part in value.split(",")]
        else:
            wanted[key] = value
    try:
        return TenantSettings.model_validate(wanted) if wanted else None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise Fault("invalid_params", f"{first['loc'][0]}: {first['msg']}") from None


def _written(value: Any) -> str:
    """A setting's value as it is given."""
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else printable(str(value))


_FIELDS: Final = TenantSettings.model_fields


def _tell(tenant: tables.Tenant) -> None:
    said: list[Any] = [tenant.id, state_of(tenant), tenant.name]
    if (shown := parsed(tenant.settings).display_name) is not None:
        said.append(f"({printable(shown)})")
    if tenant.purge_at is not None:
        said.append(f"until {tenant.purge_at:%Y-%m-%d %H:%M} UTC")
    print(*said)
