"""``hub audit``: look into the audit trail, verify it, export it, and sign where it stands."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from sqlmodel import col, or_, select

from hub.audit import checkpoint, reading
from hub.audit.chain import Fields, instant
from hub.audit.export import FORMATS, lines
from hub.audit.origin import Origin, acting
from hub.audit.reading import Filters
from hub.audit.seal import kept_seal, made_seal
from hub.audit.trail import record
from hub.audit.verification import verify
from hub.audit.verifier import Known
from hub.cli.data import data_of
from hub.faults import Fault
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditHead, Tenant


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The words of ``hub audit``."""
    audit = commands.add_parser("audit", help="look into, verify and export the audit trail")
    actions = audit.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str, tenant: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=summary, description=summary.capitalize() + ".")
        added.add_argument("--data-dir", metavar="DIR", help="default: HUB_DATA_DIR or .hub")
        added.add_argument("--tenant", metavar="T", help=f"tenant's id or name (default: {tenant})")
        return added

    query = action("query", "print entries, the newest first", "the operator's")
    export = action("export", "write entries, the oldest first", "the operator's")
    for filtered in (query, export):
        filtered.add_argument("--actor", metavar="ID", help="who acted")
        # Not "action", which is the word before.
        filtered.add_argument(
            "--action", dest="prefix", metavar="A", help="what the action begins with: account."
        )
        filtered.add_argument("--outcome", choices=("done", "denied", "failed"))
        filtered.add_argument("--resource", metavar="KIND[:ID]", help="what was acted on")
        filtered.add_argument("--since", type=_instant, metavar="WHEN", help="2026-01-31[T12:00Z]")
        filtered.add_argument("--until", type=_instant, metavar="WHEN", help="before this instant")
    query.add_argument("--limit", type=_count, default=50, metavar="N", help="default: 50")
    query.add_argument("--json", action="store_true", help="as JSON Lines")
    export.add_argument("--format", choices=tuple(FORMATS), default="jsonl")
    export.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    check = action("verify", "name what was edited, removed, inserted or moved", "all")
    check.add_argument("--checkpoint", type=Path, metavar="FILE", help="what was seen before")
    check.add_argument(
        "--public-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that is trusted besides the hub's own",
    )
    sign = action("checkpoint", "sign where the chains end, to be kept elsewhere", "all")
    sign.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """What was asked for; the exit status."""
    steps: Mapping[str, Callable[[Settings, Database, argparse.Namespace], Any]] = {
        "query": _query,
        "export": _export,
        "verify": _verify,
        "checkpoint": _checkpoint,
    }
    async with data_of(settings) as database:
        with acting(Origin(transport="cli")):
            status: int = await steps[given.action](settings, database, given)
    return status


async def _query(_: Settings, database: Database, given: argparse.Namespace) -> int:
    tenant_id = await _tenant(database, given.tenant)
    entries = await reading.newest(database, tenant_id, _filters(given), limit=given.limit)
    await _note(database, tenant_id, "audit.query", given)
    for entry in entries:
        print(orjson.dumps(entry).decode() if given.json else _line(entry))
    return 0


def _line(entry: Fields) -> str:
    kind, id = entry.get("resource_kind"), entry.get("resource_id")
    words = [
        str(entry["seq"]).rjust(6),
        entry["at"],
        entry["outcome"].ljust(6),
        entry["action"].ljust(20),
        entry.get("actor_id") or "-",
        f"{kind}:{id}" if kind else "-",
        entry.get("address") or entry["transport"],
    ]
    if entry["details"]:
        words.append(orjson.dumps(entry["details"]).decode())
    return "  ".join(words)


async def _export(_: Settings, database: Database, given: argparse.Namespace) -> int:
    tenant_id = await _tenant(database, given.tenant)
    filters = _filters(given)
    await _note(database, tenant_id, "audit.export", given)
    through = (await reading.extent(database, tenant_id)).last
    with _output(given.output) as file:
        pages = reading.pages(database, tenant_id, filters, through=through)
        async for chunk in lines(given.format, pages):
            file.write(chunk)
        file.flush()
    return 0


async def _note(database: Database, tenant_id: str, action: str, given: argparse.Namespace) -> None:
    """Have who reads the trail be in it. Verifying and signing leave it as it is: they show nothing
    of what it says, and are asked of a trail that may be evidence, or a copy.
    """
    asked = ("format", "actor", "prefix", "outcome", "resource", "since", "until")
    details = {
        "action" if name == "prefix" else name: (
            instant(value) if isinstance(value, datetime) else value
        )
        for name in asked
        if (value := getattr(given, name, None)) is not None
    }
    async with database.write(tenant_id) as session:
        await record(session, tenant_id, action, details=details)


async def _verify(settings: Settings, database: Database, given: argparse.Namespace) -> int:
    seal = kept_seal(settings)
    trusted = [*given.public_key, *([seal.public] if seal is not None else [])]
    seen: Mapping[str, Known] = {}
    if given.checkpoint is not None:
        seen = checkpoint.read(given.checkpoint.read_bytes(), trusted).heads
    tenants = await _tenants(database, given.tenant)
    tenants |= {
        id: "not there any more" for id in seen if given.tenant is None and id not in tenants
    }
    well = True
    for tenant_id, name in tenants.items():
        known = [seen[tenant_id]] if tenant_id in seen else []
        report = (
            await verify(database, tenant_id, trusted=trusted, known=known, told=_progress)
        ).report
        _progress(0, 0)
        if report.ok:
            span = f", {report.first} to {report.last}" if report.entries else ""
            print(f"ok        {tenant_id} ({name}): {report.entries} entries{span}")
        for finding in report.findings:
            print(f"TAMPERED  {tenant_id} ({name}): {finding}")
        if report.found > len(report.findings):
            print(f"TAMPERED  {tenant_id} ({name}): and {report.found} findings in all")
        well = well and report.ok
    return 0 if well else 1


def _progress(done: int, of: int) -> None:
    """Says how far it is, where somebody looks."""
    if sys.stderr.isatty() and (of == 0 or of > 10 * reading.PAGE):
        text = f"\r{done} of {of} entries" if of else "\r\033[K"
        print(text, end="", file=sys.stderr, flush=True)


async def _checkpoint(settings: Settings, database: Database, given: argparse.Namespace) -> int:
    tenants = await _tenants(database, given.tenant)
    async with database.read(EVERY_TENANT) as session:
        rows = await session.exec(
            select(AuditHead.id, AuditHead.seq, AuditHead.hash).where(
                col(AuditHead.id).in_(tenants)
            )
        )
        heads = {id: Known(seq, hash) for id, seq, hash in rows.all()}
    seal = made_seal(settings)
    with _output(given.output) as file:
        file.write(checkpoint.written(heads, seal))
        file.flush()
    print(f"{len(heads)} chains, signed with the key {seal.public}", file=sys.stderr)
    return 0


class _Kept:
    """A file that is whole or not there: it has its name when it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = path.with_name(f"{path.name}.{os.getpid()}")

    def __enter__(self) -> BinaryIO:
        self._file = self._made.open("xb")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._made.replace(self._path)
        else:
            self._made.unlink()


class _Printed:
    """Standard output."""

    def __enter__(self) -> BinaryIO:
        sys.stdout.flush()
        return sys.stdout.buffer

    def __exit__(self, *_: object) -> None:
        return


def _output(path: Path | None) -> _Kept | _Printed:
    return _Printed() if path is None else _Kept(path)


async def _tenants(database: Database, wanted: str | None) -> dict[str, str]:
    """The tenants that are meant, by id, with their names; all if none is said."""
    async with database.read(EVERY_TENANT) as session:
        every = select(Tenant.id, Tenant.name).order_by(col(Tenant.created_at), col(Tenant.id))
        if wanted is not None:
            every = every.where(or_(col(Tenant.id) == wanted, col(Tenant.name) == wanted))
        tenants = dict((await session.exec(every)).all())
        if wanted is None:
            heads = (await session.exec(select(AuditHead.id))).all()
            tenants |= {id: "not there any more" for id in heads if id not in tenants}
    if wanted is not None and not tenants:
        raise Fault("not_found", f"There is no tenant {wanted}.")
    return tenants


async def _tenant(database: Database, wanted: str | None) -> str:
    """The one tenant that is meant; the oldest, which is the operator's, if none is said."""
    tenants = await _tenants(database, wanted)
    if wanted is not None and len(tenants) > 1:
        raise Fault("invalid_params", f"Several tenants are called {wanted}: {', '.join(tenants)}")
    if not tenants:
        raise Fault("not_found", "There is no tenant yet.")
    return next(iter(tenants))


def _filters(given: argparse.Namespace) -> Filters:
    kind, _, id = (given.resource or "").partition(":")
    return Filters(
        actor=given.actor,
        action=given.prefix,
        outcome=given.outcome,
        resource_kind=kind or None,
        resource_id=id or None,
        since=given.since,
        until=given.until,
    )


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of entries")
    return int(text)


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no instant such as 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
