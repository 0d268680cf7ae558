"""``hub apikey``: API keys, for an operator with access to the data directory."""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, or_, select

from hub.cli.place import name_of, reached
from hub.faults import Fault
from hub.identity.keys.api_keys import MOST_OVERLAP_S, OVERLAP_S, ApiKeys, Changes, Wanted
from hub.identity.keys.service_accounts import ROLE, ServiceAccounts
from hub.operations.apikey import MOST_DAYS
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ApiKey, Membership, Tenant, User, now

HELP = "create, list, change, rotate and revoke API keys"


def declare(commands: Any) -> None:
    """Add the command's parser."""
    actions = commands.add_parser("apikey", help=HELP, description=HELP.capitalize() + ".")
    actions = actions.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="create a key, and print it")
    create.add_argument("--name", type=name_of, required=True, help="what it is for")
    whose = create.add_mutually_exclusive_group(required=True)
    whose.add_argument("--email", help="whose key it is")
    whose.add_argument(
        "--service", metavar="NAME", help="the service account whose key it is; made if not there"
    )
    create.add_argument(
        "--tenant", help="tenant's name or id (default: the user's oldest; of a service: default)"
    )
    create.add_argument("--role", help=f"role of a service account that is made (default: {ROLE})")
    create.add_argument(
        "--scope",
        action="append",
        metavar="PERMISSION",
        help="what it is limited to; again for each (default: what its user may, but for making "
        "keys and service accounts and for calling tools)",
    )
    create.add_argument("--days", type=int, help="days until it expires (default: never)")
    listing = actions.add_parser("list", help="list the keys that are not revoked")
    listing.add_argument("--tenant", help="of this tenant alone, by name or id")
    update = actions.add_parser("update", help="change a key; what is not given stays as it is")
    update.add_argument("--name", type=name_of, help="what it is for, from now on")
    update.add_argument(
        "--scope", action="append", metavar="PERMISSION", help="all that it is limited to"
    )
    end = update.add_mutually_exclusive_group()
    end.add_argument("--days", type=int, help="days from now until it expires")
    end.add_argument("--forever", action="store_true", help="it does not expire")
    rotate = actions.add_parser("rotate", help="give a key another secret, and print it")
    rotate.add_argument(
        "--overlap-hours",
        type=int,
        default=OVERLAP_S // 3_600,
        metavar="H",
        help="for how long the one before stays good (default: %(default)s)",
    )
    revoke = actions.add_parser("revoke", help="end a key, its sockets and its runs")
    for action in (update, rotate, revoke):
        action.add_argument("id", help="ak_…, as `hub apikey list` says")
    for action in (create, listing, update, rotate, revoke):
        action.add_argument("--data-dir", metavar="DIR")


@dataclass(frozen=True)
class _Rooms:
    database: Database
    keys: ApiKeys
    services: ServiceAccounts


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub apikey ACTION``. Raises Fault, BadSettings."""
    steps = {
        "create": _create,
        "list": _list,
        "update": _update,
        "rotate": _rotate,
        "revoke": _revoke,
    }
    async with _rooms(settings) as rooms:
        return await steps[given.action](rooms, given)


@asynccontextmanager
async def _rooms(settings: Settings) -> AsyncIterator[_Rooms]:
    async with reached(settings) as (database, changed):
        yield _Rooms(database, ApiKeys(database, changed), ServiceAccounts(database, changed))


async def _create(rooms: _Rooms, given: argparse.Namespace) -> int:
    expires_at = _end(given.days)
    if given.service is not None:
        user_id, tenant_id = await _service(rooms, given)
    else:
        user_id, tenant_id = await _user(rooms, given)
    row, text = await rooms.keys.create(
        None, user_id, tenant_id, Wanted(given.name, given.scope, expires_at)
    )
    print(f"{row.id} of {user_id}, for: {row.scopes}", file=sys.stderr)
    print(text)
    return 0


async def _user(rooms: _Rooms, given: argparse.Namespace) -> tuple[str, str]:
    async with rooms.database.read(EVERY_TENANT) as session:
        wanted = (
            select(Membership.user_id, Membership.tenant_id)
            .join(User, col(User.id) == Membership.user_id)
            .join(Tenant, col(Tenant.id) == Membership.tenant_id)
            .where(User.email == given.email.strip().lower())
            .order_by(col(Membership.created_at), col(Membership.id))
            .limit(1)
        )
        if given.tenant is not None:
            wanted = wanted.where(or_(Tenant.id == given.tenant, Tenant.name == given.tenant))
        found = (await session.exec(wanted)).first()
    if found is None:
        where = f" in the tenant {given.tenant}" if given.tenant else ""
        raise Fault("not_found", f"There is no account {given.email}{where}.")
    return found[0], found[1]


async def _service(rooms: _Rooms, given: argparse.Namespace) -> tuple[str, str]:
    tenant_id = await _tenant(rooms, given.tenant or "default")
    account = await rooms.services.named(tenant_id, given.service)
    if account is not None and given.role not in (None, *account.roles):
        raise Fault("conflict", f"{given.service} is there already, as {', '.join(account.roles)}.")
    if account is None:
        account = await rooms.services.create(None, tenant_id, given.service, given.role)
    return account.user.id, tenant_id


async def _tenant(rooms: _Rooms, wanted: str) -> str:
    statement = select(Tenant.id).where(or_(Tenant.id == wanted, Tenant.name == wanted))
    async with rooms.database.read(EVERY_TENANT) as session:
        found = (await session.exec(statement.order_by(col(Tenant.id)).limit(1))).first()
    if found is None:
        raise Fault("not_found", f"There is no tenant {wanted}.")
    return found


async def _list(rooms: _Rooms, given: argparse.Namespace) -> int:
    wanted = (
        select(ApiKey, User.email, User.name, User.kind)
        .join(User, col(User.id) == ApiKey.user_id)
        .where(col(ApiKey.revoked_at).is_(None))
        .order_by(col(ApiKey.id))
    )
    if given.tenant is not None:
        wanted = wanted.where(ApiKey.tenant_id == await _tenant(rooms, given.tenant))
    async with rooms.database.read(EVERY_TENANT) as session:
        rows = (await session.exec(wanted)).all()
    for row, email, name, kind in rows:
        whose = f"service {name}" if kind == "service" else email
        used = f"last used {_day(row.last_used_at)}" if row.last_used_at else "not used yet"
        end = f"expires {_day(row.expires_at)}" if row.expires_at else "does not expire"
        print(f"{row.id}  {row.name}  of {whose}  {used}, {end}")
    return 0


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _end(days: int | None) -> datetime | None:
    if days is not None and not 1 <= days <= MOST_DAYS:
        raise Fault("invalid_params", f"--days: 1 to {MOST_DAYS:,}")
    return None if days is None else now() + timedelta(days=days)


async def _key(rooms: _Rooms, id: str) -> ApiKey:
    async with rooms.database.read(EVERY_TENANT) as session:
        row = await session.get(ApiKey, id)
    if row is None:
        raise Fault("not_found", f"There is no key {id}; `hub apikey list` lists them.")
    return row


async def _update(rooms: _Rooms, given: argparse.Namespace) -> int:
    row = await _key(rooms, given.id)
    changes = Changes(given.name, given.scope, _end(given.days), forever=given.forever)
    changed = await rooms.keys.update(None, row.tenant_id, row.id, changes)
    end = f"expires {_day(changed.expires_at)}" if changed.expires_at else "does not expire"
    print(f"{changed.id} ({changed.name}) {end}, for: {changed.scopes}")
    return 0


async def _rotate(rooms: _Rooms, given: argparse.Namespace) -> int:
    most = MOST_OVERLAP_S // 3_600
    if not 0 <= given.overlap_hours <= most:
        raise Fault("invalid_params", f"--overlap-hours: 0 to {most}")
    row = await _key(rooms, given.id)
    overlap_s = given.overlap_hours * 3_600
    _, text = await rooms.keys.rotate(None, row.tenant_id, row.id, overlap_s)
    print(f"{row.id} ({row.name}): the secret before is good for {overlap_s} s", file=sys.stderr)
    print(text)
    return 0


async def _revoke(rooms: _Rooms, given: argparse.Namespace) -> int:
    row = await _key(rooms, given.id)
    await rooms.keys.revoke(None, row.tenant_id, row.id)
    print(f"{row.id} ({row.name}) is revoked")
    return 0
