"""What an operator does at the machine, with access to the data directory and the database."""

import argparse
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from hub.audit.origin import Origin, acting
from hub.cli.data import data_of
from hub.faults import Fault
from hub.identity.accounts.accounts import Accounts
from hub.identity.accounts.passwords import Passwords
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.keyring import open_ring
from hub.operations.call import Services
from hub.settings import Settings

ADMINISTRATOR_FILE: Final = "administrator.json"


@asynccontextmanager
async def _accounts(settings: Settings, *, makes: bool = True) -> AsyncIterator[Accounts]:
    """``makes``: whether what is not there yet is made; without it a hub must be there."""
    async with data_of(settings, makes=makes) as database:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        tokens = Tokens(open_ring(settings), settings.access_token_minutes)
        with (
            closing(Passwords(settings.bcrypt_cost)) as passwords,
            acting(Origin(transport="cli")),
        ):
            yield Accounts(database, passwords, tokens, settings)


async def first_administrator(services: Services) -> tuple[str, str] | None:
    """Make the first administrator if there is no user; (e-mail, password) if one was made.

    Both are kept in the data directory, readable by the operator only.
    """
    return await _make_administrator(services.accounts, services.settings.data_dir)


async def _make_administrator(accounts: Accounts, data_dir: Path) -> tuple[str, str] | None:
    made = await accounts.ensure_administrator()
    if made is not None:
        _keep(data_dir / ADMINISTRATOR_FILE, {"email": made[0], "password": made[1]})
    return made


def _keep(path: Path, secret: dict[str, str]) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(secret, file)


async def prepare(settings: Settings) -> tuple[tuple[str, str] | None, str | None]:
    """Everything that is made once, before several processes serve: the secrets, the tables and the
    first administrator. That one, if made now, and a code that signs an administrator in once.
    """
    async with _accounts(settings) as accounts:
        made = await _make_administrator(accounts, settings.data_dir)
        try:
            return made, await accounts.login_code_for()
        except Fault:
            return made, None  # there is no such administrator any more


async def init(settings: Settings, *, quietly: bool = False) -> int:
    """``hub init``. ``quietly``: says only who was made the administrator, if one was."""
    async with _accounts(settings) as accounts:
        made = await _make_administrator(accounts, settings.data_dir)
    if not quietly:
        print(f"Ready: {settings.data_dir}")
    _tell(made)
    return 0


def _tell(administrator: tuple[str, str] | None) -> None:
    if administrator is not None:
        print(f"Administrator: {administrator[0]}\nPassword:      {administrator[1]}")


async def token(settings: Settings, email: str) -> int:
    """``hub token``"""
    async with _accounts(settings, makes=False) as accounts:
        print(await accounts.access_token_for(email))
    return 0


async def link(settings: Settings, email: str) -> int:
    """``hub link``"""
    async with _accounts(settings, makes=False) as accounts:
        print(await accounts.login_code_for(email))
    return 0


def asked_password(from_stdin: bool) -> str:
    """The password that the operator gives. Raises Fault("invalid_params") if none can be asked."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise Fault("invalid_params", "Give the password with --password-stdin.")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise Fault("invalid_params", "The two passwords differ.")
    return password


async def create_user(settings: Settings, given: argparse.Namespace) -> int:
    """``hub user create``"""
    password = asked_password(given.password_stdin)
    async with _accounts(settings) as accounts:
        # None is made once there is a user.
        _tell(await _make_administrator(accounts, settings.data_dir))
        user, tenant = await accounts.create_user(
            given.email, password, given.tenant, given.role, given.name
        )
    print(f"{user.id} {user.email} is {given.role} of {tenant.name} ({tenant.id})")
    return 0
