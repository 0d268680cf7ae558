"""``hub user``: what an operator does about users, in every tenant."""

import argparse
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Final

from hub.backplane.memory import MemoryBackplane
from hub.cli.administration import asked_password, create_user
from hub.cli.place import PAGE, name_of, reached
from hub.faults import Fault
from hub.identity.accounts.delivery import LogDelivery
from hub.identity.accounts.departures import Departures
from hub.identity.accounts.export import Exports
from hub.identity.accounts.mailing import Mailing, link
from hub.identity.accounts.moves import Moves
from hub.identity.accounts.passwords import Passwords
from hub.identity.accounts.recovery import Recovery
from hub.identity.accounts.users import Users
from hub.identity.factors.resets import FactorResets
from hub.identity.sessions.login_sessions import LoginSessions
from hub.identity.sessions.throttle import Throttle
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.keyring import open_ring
from hub.settings import Settings
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import LoginSession
from hub.telemetry.metrics import Metrics
from hub.tenancy.tenants import Tenants


@dataclass(frozen=True, slots=True)
class _Desk:
    """What the operator works with."""

    settings: Settings
    database: Database
    sessions: LoginSessions
    users: Users
    recovery: Recovery
    departures: Departures
    exports: Exports
    factor_resets: FactorResets
    moves: Moves
    tenants: Tenants

    async def tenant(self, given: argparse.Namespace) -> str | None:
        """The id of the tenant that is named, if one is. Raises Fault("not_found")."""
        return (await self.tenants.find(given.tenant)).id if given.tenant is not None else None


@asynccontextmanager
async def _desk(settings: Settings) -> AsyncIterator[_Desk]:
    """Where a hub is. Those that run are told of what changes."""
    async with reached(settings) as (database, changed):
        # Whoever is at the machine is not slowed, and gets no letters.
        throttle = Throttle(MemoryBackplane())
        mailing = Mailing(database, LogDelivery(), throttle, Metrics(), settings.url)
        with closing(Passwords(settings.bcrypt_cost)) as passwords:
            yield _Desk(
                settings,
                database,
                LoginSessions(
                    database,
                    Tokens(open_ring(settings), settings.access_token_minutes),
                    refresh_days=settings.refresh_token_days,
                    changed=changed,
                ),
                Users(database, changed),
                Recovery(database, passwords, throttle, mailing, changed),
                # Nodes look for conversations that are to be deleted.
                Departures(database, changed, lambda: None),
                Exports(database),
                FactorResets(database, throttle, changed),
                Moves(database, throttle, mailing),
                Tenants(database, grace_days=settings.tenant_grace_days, changed=changed),
            )


async def administer(settings: Settings, given: argparse.Namespace) -> int:
    """``hub user …``"""
    if given.action == "create":
        return await create_user(settings, given)
    async with _desk(settings) as desk:
        await _ACTIONS[given.action](desk, given)
    return 0


async def _list(desk: _Desk, given: argparse.Namespace) -> None:
    after: str | None = None
    while True:
        found = await desk.users.everyone(given.tenant, after=after, limit=PAGE)
        for user, tenants in found:
            marks = [
                "disabled" if user.disabled_at else "",
                "" if user.verified_at else "not verified",
            ]
            said = ", ".join(mark for mark in marks if mark)
            print(f"{user.id} {user.email} {' '.join(tenants)}{f' ({said})' if said else ''}")
            after = user.id
        if len(found) < PAGE:
            return


async def _disable(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    if (tenant_id := await desk.tenant(given)) is not None:
        await desk.users.disable(tenant_id, None, user.id)
        print(f"{user.id} {user.email} may do nothing in {given.tenant}")
        return
    await desk.users.set_disabled(user.id, True)
    print(f"{user.id} {user.email} may come in nowhere")


async def _enable(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    if (tenant_id := await desk.tenant(given)) is not None:
        profile = await desk.users.enable(tenant_id, None, user.id)
        everywhere = "; they are disabled everywhere, still" if profile.disabled_at else ""
        print(f"{user.id} {user.email} may come into {given.tenant}{everywhere}")
        return
    await desk.users.set_disabled(user.id, False)
    print(f"{user.id} {user.email} may come in")


async def _update(desk: _Desk, given: argparse.Namespace) -> None:
    if given.new_email is None and given.name is None and not given.no_name:
        raise Fault("invalid_params", "Say what is to be another: --name, --no-name, --new-email.")
    if given.new_email is not None and given.tenant is not None:
        raise Fault("invalid_params", "An address is the same in all tenants: without --tenant.")
    user = await desk.users.find(given.email)
    if (tenant_id := await desk.tenant(given)) is not None:
        there = await desk.users.rename(tenant_id, None, user.id, given.name)
        called = f"is {there.name}" if there.name else "has no name"
        print(f"{user.id} {user.email} {called} in {given.tenant}")
        return
    if given.new_email is not None:
        moved = await desk.moves.set(user.id, given.new_email)
        print(f"{user.id} {user.email} has the address {moved.email}")
    if given.name is not None or given.no_name:
        named = await desk.users.set_name(user.id, given.name, "user.update")
        print(f"{user.id} {named.email} " + (f"is {named.name}" if named.name else "has no name"))


async def _verify(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    await desk.users.set_verified(user.id)
    print(f"{user.id} {user.email} is verified")


async def _sessions(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    async for login in _alive(desk, user.id, await desk.tenant(given)):
        seen = login.last_seen_at.isoformat(timespec="minutes")
        print(f"{login.id} {login.tenant_id} {login.address or '-'} {seen} {login.device or ''}")


async def _sign_out(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    tenant_id = await desk.tenant(given)
    if given.session is None and tenant_id is not None:
        await desk.users.sign_out(tenant_id, None, user.id)
        print(f"{user.id} {user.email} is not signed in there: {given.tenant}")
        return
    if given.session is None:
        await desk.sessions.revoke_all(user.id)
        print(f"{user.id} {user.email} is signed in nowhere")
        return
    if given.session not in {login.id async for login in _alive(desk, user.id, tenant_id)}:
        raise Fault("not_found", f"{user.email} has no login session {given.session}.")
    await desk.sessions.revoke(given.session)
    print(f"{given.session} has ended")


async def _alive(desk: _Desk, user_id: str, tenant_id: str | None) -> AsyncIterator[LoginSession]:
    after: str | None = None
    while True:
        async with desk.database.read(tenant_id or EVERY_TENANT) as session:
            found = await desk.sessions.alive(session, user_id, after=after, limit=PAGE)
        for login in found:
            yield login
        if len(found) < PAGE:
            return
        after = found[-1].id


async def _delete(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    tenant_id = await desk.tenant(given)
    if not given.yes:
        there = f" in {given.tenant}" if tenant_id is not None else ""
        raise Fault(
            "invalid_params",
            f"This deletes {user.email} and all of their conversations{there} for good; `hub user "
            "export` first, then say --yes.",
        )
    if tenant_id is not None:
        await desk.departures.remove(tenant_id, None, user.id)
    else:
        await desk.departures.erase(user.id)
    print(f"{user.id} is deleted; a running hub deletes the conversations within a minute")


async def _reset_password(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    if given.link:
        token = await desk.recovery.reset_token(user.id)
        print(link("reset", token, desk.settings.url))
        return
    await desk.recovery.set(user.id, asked_password(given.password_stdin))
    print(f"{user.id} {user.email} has a new password; their sessions and API keys have ended")


async def _reset_factor(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    gone = await desk.factor_resets.by_operator(user.id)
    print(f"{user.id} {user.email} " + ("signs in without one now" if gone else "has none"))


async def _export(desk: _Desk, given: argparse.Namespace) -> None:
    user = await desk.users.find(given.email)
    tenant_id = await desk.tenant(given)
    if tenant_id is not None:
        await desk.users.get(tenant_id, user.id)
    await desk.exports.begun(tenant_id, user.id)
    cursor: str | None = None
    while found := await desk.exports.page(user.id, tenant_id, cursor, PAGE):
        for item in found:
            print(json.dumps({"section": item.section, **item.data}, ensure_ascii=False))
        cursor = found[-1].cursor


_ACTIONS: Final[dict[str, Callable[[_Desk, argparse.Namespace], Awaitable[None]]]] = {
    "list": _list,
    "disable": _disable,
    "enable": _enable,
    "update": _update,
    "verify": _verify,
    "sessions": _sessions,
    "sign-out": _sign_out,
    "delete": _delete,
    "reset-password": _reset_password,
    "reset-factor": _reset_factor,
    "export": _export,
}


def add_actions(user: argparse.ArgumentParser) -> None:
    """Add what ``hub user`` can do to its parser."""
    actions = user.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=summary, description=summary.capitalize() + ".")
        added.add_argument("--data-dir", metavar="DIR", help="default: HUB_DATA_DIR or .hub")
        return added

    def of_one(name: str, summary: str) -> argparse.ArgumentParser:
        added = action(name, summary)
        added.add_argument("--email", required=True)
        return added

    def in_one_or_all(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--tenant", help="in this tenant alone, by name or id (default: everywhere)"
        )

    def takes_password(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the password from standard input"
        )

    create = of_one("create", "create a user")
    create.add_argument(
        "--tenant", default="default", help="tenant's name or id (default: default)"
    )
    create.add_argument("--role", default="member", help="role in the tenant (default: member)")
    create.add_argument("--name", type=name_of, help="display name")
    takes_password(create)
    listing = action("list", "list users")
    listing.add_argument("--tenant", help="only of this tenant, by name or id")
    in_one_or_all(of_one("disable", "let a user come in nowhere any more"))
    in_one_or_all(of_one("enable", "let a user come in again"))
    update = of_one("update", "give a user another name or address")
    in_one_or_all(update)
    update.add_argument("--new-email", metavar="EMAIL", help="the address, which is the user's")
    called = update.add_mutually_exclusive_group()
    called.add_argument("--name", type=name_of, help="display name")
    called.add_argument(
        "--no-name", action="store_true", help="none any more; in a tenant, that of the account"
    )
    of_one("verify", "say that the address is the user's")
    reset = of_one("reset-password", "set a user's password, and end their sessions and API keys")
    takes_password(reset)
    reset.add_argument(
        "--link", action="store_true", help="print a single-use link for the user instead"
    )
    in_one_or_all(
        of_one("sessions", "list a user's login sessions: id, tenant, address, last seen, device")
    )
    out = of_one("sign-out", "end a user's login sessions, here and on open sockets")
    in_one_or_all(out)
    out.add_argument("--session", metavar="ID", help="only this one")
    of_one("reset-factor", "take a user's second factor away")
    in_one_or_all(of_one("export", "print all that the hub holds of a user, as JSON lines"))
    delete = of_one("delete", "delete a user, for good")
    in_one_or_all(delete)
    delete.add_argument("--yes", action="store_true", help="say that you mean it")
