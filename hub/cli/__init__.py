"""The ``hub`` command."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import orjson

from hub import __version__
from hub.cli import (
    administration,
    apikeys,
    audit,
    doctor,
    groups,
    keys,
    limits,
    members,
    processes,
    roles,
    services,
    serving,
    tenants,
    users,
)
from hub.cli.claim import Claimed
from hub.faults import Fault
from hub.identity.accounts.accounts import ADMINISTRATOR
from hub.operations.table import OPERATIONS
from hub.settings import BadSettings, Settings, read_settings
from hub.telemetry.logs import configure_logs
from hub.transports.asyncapi import asyncapi
from hub.transports.openapi import openapi
from hub.transports.reference import reference

# Commands that are whole programs of their own, with their own --help. They are imported when they
# are asked for: the terminal client knows nothing of the server, and the server nothing of it.
_PROGRAMS: Final = {
    "chat": ("hub_client.chat", "talk with a model in the terminal, through a hub"),
    "local-model": ("hub.inference.local", "serve a small model by Ollama's protocol"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _PROGRAMS:
        program = import_module(_PROGRAMS[words[0]][0])
        status: int = program.main(words[1:])
        return status
    given = _parser().parse_args(words)
    try:
        return _run(given)
    except KeyboardInterrupt:
        return 130
    except BadSettings as error:
        complaint = f"bad settings: {error}"
    except Fault as fault:
        complaint = fault.message
    except (serving.CannotServe, Claimed) as error:
        complaint = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complaint = f"{where}{error.strerror or error}"
    print(f"hub: {complaint}", file=sys.stderr)
    return 1


def _run(given: argparse.Namespace) -> int:
    if given.command in _DOCUMENTS:
        print(_DOCUMENTS[given.command]())
        return 0
    settings = read_settings(
        HUB_HOST=getattr(given, "host", None),
        HUB_PORT=getattr(given, "port", None),
        HUB_DATA_DIR=given.data_dir,
    )
    if given.command in _WRITERS:
        # The data directory may have been there before, open to others; what is put in is not.
        os.umask(0o077)
    configure_logs(form=settings.log_format, level=settings.log_level)
    if given.command == "serve":
        return _serve(settings, given)
    if given.command == "worker":
        return serving.work(settings)
    if given.command in _ALONE:
        return _ALONE[given.command](settings, given)
    if given.command == "doctor":
        return asyncio.run(doctor.examine(settings))
    steps = {
        "init": lambda: administration.init(settings),
        "token": lambda: administration.token(settings, given.email),
        "link": lambda: administration.link(settings, given.email),
        "role": lambda: roles.run(settings, given),
        "group": lambda: groups.run(settings, given),
        "member": lambda: members.run(settings, given),
        "invitation": lambda: members.run(settings, given),
        "service": lambda: services.run(settings, given),
        "apikey": lambda: apikeys.run(settings, given),
        "audit": lambda: audit.run(settings, given),
        "usage": lambda: limits.usage(settings, given),
        "quota": lambda: limits.quota(settings, given),
        "user": lambda: users.administer(settings, given),
    }
    return asyncio.run(steps[given.command]())


def _serve(settings: Settings, given: argparse.Namespace) -> int:
    worker = not given.no_worker
    if given.joint is not None:
        share = processes.Share(given.index, given.joint, given.near, given.far, given.memory)
        return processes.serve_share(settings, share, worker=worker)
    many, door = given.processes > 1, given.door
    if door is None:
        # Sockets that keep messages apart, and pass on descriptors, are tried there alone.
        door = sys.platform == "linux" and (many or settings.environment == "production")
    if many:
        return processes.serve_many(
            settings, given.processes, worker=worker, greet=given.greet, door=door
        )
    return serving.serve(settings, worker=worker, greet=given.greet, door=door)


_WRITERS: Final = {
    "serve", "worker", "init", "user", "role", "group", "tenant", "token", "link", "keys", "apikey",
    "audit", "member", "invitation", "service",
}  # fmt: skip

_ALONE: Final = {"keys": keys.run, "tenant": tenants.run}

_DOCUMENTS: Final = {
    "openapi": lambda: orjson.dumps(openapi(OPERATIONS), option=orjson.OPT_INDENT_2).decode(),
    "asyncapi": lambda: orjson.dumps(asyncapi(OPERATIONS), option=orjson.OPT_INDENT_2).decode(),
    "reference": lambda: reference(OPERATIONS).rstrip("\n"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hub",
        description="The realtime agent hub. Settings come from the environment and .env "
        "(see `hub reference`).",
    )
    parser.add_argument("--version", action="version", version=f"hub {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name not in _DOCUMENTS:
            added.add_argument("--data-dir", metavar="DIR", help="default: HUB_DATA_DIR or .hub")
        return added

    serve = command("serve", "serve clients, and drive runs unless --no-worker")
    serve.add_argument("--host", help="address to listen on (default: HUB_HOST or 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port (default: HUB_PORT or 8000; 0: a free one)")
    serve.add_argument(
        "--processes",
        type=processes.count_of,
        default=1,
        metavar="N",
        help="processes that share the port (default: 1; auto: one for each core); more than one "
        "need HUB_REDIS_URL",
    )
    serve.add_argument(
        "--door",
        action=argparse.BooleanOptionalAction,
        help="one more process, which serves sign-ins, so that a flood of them does not hold up "
        "what streams (default: where there are several, and in production)",
    )
    # How a process of several is told which it is.
    for name in ("--joint", "--near", "--far", "--memory"):
        serve.add_argument(name, type=int, help=argparse.SUPPRESS)
    serve.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    serve.add_argument("--no-worker", action="store_true", help="leave runs to `hub worker`")
    serve.add_argument(
        "--greet", action="store_true", help="print the address and a one-time login link"
    )
    command("worker", "drive runs, on the backplane of HUB_REDIS_URL")
    command("init", "make the data directory, the secrets, the tables and the administrator")
    users.add_actions(commands.add_parser("user", help="administer users"))
    roles.add_commands(commands)
    groups.add_commands(commands)
    members.add_commands(commands)
    services.add_commands(commands)
    apikeys.declare(commands)
    keys.declare(commands)
    audit.add_parser(commands)
    tenants.add_parser(commands)
    token = command("token", "print an access token for a user, who need not be asked")
    token.add_argument("--email", required=True)
    link = command("link", "print a one-time login code")
    link.add_argument("--email", default=ADMINISTRATOR, help=f"default: {ADMINISTRATOR}")
    limits.add_commands(command)
    command("doctor", "check each part and say what to do")
    for name in _DOCUMENTS:
        command(name, f"print the {name} document")
    for name, (_, summary) in _PROGRAMS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser
