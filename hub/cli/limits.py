"""``hub usage`` and ``hub quota``: what an operator sees and sets of any tenant, at the machine."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Final, get_args

from sqlmodel import col, or_, select

from hub.audit.origin import Origin, acting
from hub.backplane.choice import open_backplane
from hub.cli.data import data_of
from hub.faults import Fault
from hub.ids import new_id
from hub.limits.ledger import NAMES, QuotaName, thing_of
from hub.limits.prices import MILLION
from hub.limits.quotas import Quotas
from hub.limits.setting import Subject, set_quota, standings
from hub.limits.terms import limit_of, quota_named, terms_of
from hub.limits.usage import By, Used, report
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ApiKey, Membership, Tenant, User
from hub.telemetry.metrics import Metrics

PAGE: Final = 1_000


def add_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Declare the commands; ``add(name, summary)`` makes one."""
    usage = add("usage", "print what a tenant's runs have used, by day, model, user or API key")
    _whose(usage)
    usage.add_argument("--by", choices=get_args(By), default="day")
    first = "first day, YYYY-MM-DD (default: the first of the month)"
    usage.add_argument("--first-day", type=date.fromisoformat, metavar="DAY", help=first)
    last = "last day, included (default: today; days are those of UTC)"
    usage.add_argument("--last-day", type=date.fromisoformat, metavar="DAY", help=last)
    quota = add("quota", "print the quotas of a tenant, or a user or API key in it, or set one")
    _whose(quota)
    quota.add_argument(
        "--set",
        metavar="NAME=LIMIT",
        help=f"{', '.join(NAMES)}; a budget in the currency (12.50), 0: no limit, "
        "default: the hub's default again; only the operator can change it then",
    )


def _whose(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tenant", default="default", help="name or id (default: default)")
    one = command.add_mutually_exclusive_group()
    one.add_argument("--email", help="a user in it (default: the tenant as a whole)")
    one.add_argument("--key", metavar="ID", help="an API key in it, `ak_…`")


async def usage(settings: Settings, given: argparse.Namespace) -> int:
    """``hub usage``"""
    last = given.last_day or datetime.now(UTC).date()
    first = given.first_day or last.replace(day=1)
    async with data_of(settings) as database:
        subject = await _subject(database, given)
        rows: list[Used] = []
        while True:
            async with database.read(subject.tenant_id) as session:
                page, total = await report(
                    session,
                    given.by,
                    first,
                    last,
                    user_id=subject.id if subject.kind == "user" else None,
                    key_id=subject.id if subject.kind == "key" else None,
                    after=rows[-1].key if rows else None,
                    limit=PAGE,
                )
            rows += page
            if len(page) < PAGE:
                break
    print(f"{subject.tenant_id} {subject}, {first} to {last}")
    _print(
        [given.by, "runs", "input", "output", settings.currency],
        [_line(used, used.key) for used in rows] + [_line(total, "total")],
    )
    return 0


async def quota(settings: Settings, given: argparse.Namespace) -> int:
    """``hub quota``"""
    terms = terms_of(settings)
    async with data_of(settings) as database:
        subject = await _subject(database, given)
        if given.set is not None:
            name, limit = _setting(given.set)
            with acting(Origin(transport="cli")):
                async with database.write(subject.tenant_id) as session:
                    await set_quota(session, terms, subject, name, limit, by=None)
            await _tell(settings, database, subject.tenant_id)
        async with database.read(subject.tenant_id) as session:
            found = await standings(session, terms, subject)
    print(f"{subject.tenant_id} {subject}")
    lines = []
    for standing in found:
        show = _money if thing_of(standing.name) == "budget" else str
        amounts = (standing.limit, standing.used, standing.reserved, standing.remaining)
        until = standing.resets_at.strftime("%Y-%m-%d") if standing.resets_at else ""
        lines.append([standing.name, *map(show, amounts), until, standing.source])
    _print(["quota", "limit", "used", "reserved", "remaining", "resets", "by"], lines)
    return 0


def _setting(text: str) -> tuple[QuotaName, int | None]:
    given, equals, value = text.partition("=")
    if not equals:
        raise Fault("invalid_params", f"--set {text}: write NAME=LIMIT, as in tokens.day=100000")
    try:
        name = quota_named(given)
        limit = limit_of(name, "0" if value == "default" else value)
    except ValueError as error:
        raise Fault("invalid_params", f"--set {text}: {error}") from None
    return name, None if value == "default" else limit


async def _tell(settings: Settings, database: Database, tenant_id: str) -> None:
    """Tell the nodes; one that is not told finds out by itself within seconds."""
    if settings.redis_url is None:
        return
    metrics = Metrics()
    backplane = open_backplane(settings.redis_url, new_id("n"), metrics)
    try:
        await backplane.start()
        await Quotas(database, backplane, settings, metrics).changed(tenant_id)
    except Fault as fault:
        print(f"hub: it is set; the nodes could not be told: {fault.message}", file=sys.stderr)
    finally:
        await backplane.close()


async def _subject(database: Database, given: argparse.Namespace) -> Subject:
    tenant, email, key = given.tenant, given.email, given.key
    async with database.read(EVERY_TENANT) as session:
        named = select(Tenant.id).where(or_(col(Tenant.id) == tenant, col(Tenant.name) == tenant))
        tenant_id = (await session.exec(named.order_by(col(Tenant.id)).limit(1))).first()
        if tenant_id is None:
            raise Fault("not_found", f"There is no tenant {tenant}.")
        if key is not None:
            found = await session.get(ApiKey, key)
            if found is None or found.tenant_id != tenant_id:
                raise Fault("not_found", f"There is no API key {key} in it.")
            return Subject(tenant_id, "key", found.id)
        if email is None:
            return Subject(tenant_id, "tenant", tenant_id)
        members = (
            select(User.id)
            .join(Membership, col(Membership.user_id) == User.id)
            .where(col(User.email) == email.lower(), col(Membership.tenant_id) == tenant_id)
        )
        user_id = (await session.exec(members.limit(1))).first()
    if user_id is None:
        raise Fault("not_found", f"There is no user {email} in it.")
    return Subject(tenant_id, "user", user_id)


def _line(used: Used, name: str) -> list[str]:
    counts = (used.runs, used.input_tokens, used.output_tokens)
    return [name, *map(str, counts), _money(used.cost)]


def _money(amount: int) -> str:
    return f"{amount // MILLION}.{amount % MILLION:06}"


def _print(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
