"""``hub chat``: a conversation with the hub in a terminal.

With a text, its answer goes to standard output and nothing else does. Without one, it is a
conversation: answers stream, ctrl-C cancels the run and not the program.
"""

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from hub_client.auth import CodeSource
from hub_client.conversations import Conversation
from hub_client.dialogue import (
    NO_CONVERSATION,
    Dialogue,
    begin,
    choose_model,
    stream_answer,
    stream_first_answer,
)
from hub_client.faults import (
    ConnectFailed,
    ConnectionClosed,
    Fault,
    HubError,
    InvalidParams,
    TokenExpired,
    Unauthenticated,
)
from hub_client.hub import Connecting, Hub, connect
from hub_client.terminal import Interrupts, Lines, Screen, Terminal, kept_modes

DEFAULT_URL: Final = "http://127.0.0.1:8000"
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
environment:
  HUB_URL     the hub's address (default: http://127.0.0.1:8000)
  HUB_TOKEN   an access token or an API key, when no other credential is given
  NO_COLOR    no colours

examples:
  hub chat                                  sign in and talk
  hub chat --token "$(hub token --email you@example.org)" "Why is the sky blue?"
  hub chat --email you@example.org --password-file secret --conversation c_01J…

exit status: 0 answered, 1 failed, 2 wrong usage, 130 interrupted
"""

ANOTHER: Final = (
    " Where the hub runs, `hub token --email you@example.org` prints a new token; or sign in with"
    " --email."
)

T = TypeVar("T")


class Usage(Exception):
    """The command line cannot be followed; the message says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """The ``hub chat`` command; answers the exit status."""
    options = _parser().parse_args(argv)
    screen, lines = Screen(), Lines()
    try:
        if options.text and not " ".join(options.text).strip():
            raise Usage("there is nothing to say: TEXT is blank")
        connecting = _connecting(options, os.environ, lines)
        with kept_modes(lines):
            return asyncio.run(_chat(options, connecting, screen, lines))
    except Usage as error:
        screen.note(f"hub chat: {error}")
        return USAGE
    except BrokenPipeError:
        # Whoever read the answer has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, EOFError):
        screen.note("")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hub chat",
        description="Talk to an agent hub. With TEXT: print one answer. Without: a conversation.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="what to say")
    parser.add_argument("--url", help="the hub's address")
    who = parser.add_argument_group("who you are (asked for on a terminal)")
    who.add_argument("--email", help="sign in with this e-mail address")
    password = who.add_mutually_exclusive_group()
    password.add_argument("--password-file", type=Path, metavar="FILE", help="its first line")
    password.add_argument("--password-stdin", action="store_true", help="first line of the input")
    who.add_argument("--tenant", help="the tenant, for members of several")
    who.add_argument("--token", help="an access token, or an API key")
    who.add_argument("--code", help="the code of a one-time login link")
    what = parser.add_argument_group("what to talk about")
    what.add_argument("--conversation", metavar="ID", help="go on with this conversation")
    what.add_argument("--model", help="the model that answers")
    what.add_argument("--list", action="store_true", help="list your conversations and leave")
    what.add_argument("--timeout", type=float, metavar="S", help="give up after so many seconds")
    return parser


def _connecting(
    options: argparse.Namespace, environment: Mapping[str, str], lines: Lines
) -> Connecting:
    """Find the credentials. Raises Usage."""
    url = options.url or environment.get("HUB_URL") or DEFAULT_URL
    given = [name for name in ("token", "code", "email") if getattr(options, name)]
    if len(given) > 1:
        raise Usage(f"give one of {' and '.join('--' + name for name in given)}")
    wants_password = options.password_file or options.password_stdin or options.tenant
    if wants_password and not options.email:
        raise Usage("a password needs --email")
    try:
        if options.code:
            return connect(url, code=options.code, second_factor=_code_source(lines))
        token = options.token or (None if options.email else environment.get("HUB_TOKEN"))
        if token:
            return connect(url, token=token)
        email = options.email or _ask_email(lines)
        password = _password(options, lines)
        return connect(
            url,
            email=email,
            password=password,
            tenant=options.tenant,
            second_factor=_code_source(lines),
        )
    except ValueError as error:
        raise Usage(str(error)) from error


def _ask_email(lines: Lines) -> str:
    if not lines.terminal:
        raise Usage("who are you? Give --token, --code or --email, or set HUB_TOKEN")
    print("E-mail: ", end="", file=sys.stderr, flush=True)
    return lines.read_now() or ""


def _password(options: argparse.Namespace, lines: Lines) -> str:
    if options.password_stdin:
        password = lines.read_now()
    elif options.password_file:
        try:
            text = options.password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Usage(f"cannot read the password: {error}") from error
        password = text.partition("\n")[0].removesuffix("\r")
    elif lines.terminal:
        password = getpass.getpass("Password: ", stream=sys.stderr)
    else:
        raise Usage("--email needs --password-file or --password-stdin where there is no terminal")
    if not password:
        raise Usage("the password is empty")
    return password


def _code_source(lines: Lines) -> CodeSource | None:
    """Who is asked for a code of the second factor, if anybody is there."""
    if not lines.terminal:
        return None

    async def ask() -> str:
        prompt = "Code of your authenticator: "
        try:
            return await asyncio.to_thread(getpass.getpass, prompt, stream=sys.stderr)
        except EOFError:  # ctrl-D: no code, which is a wrong one
            return ""

    return ask


async def _chat(
    options: argparse.Namespace, connecting: Connecting, screen: Screen, lines: Lines
) -> int:
    with Interrupts() as interrupts:
        try:
            hub = await _unless(interrupts, connecting.open())
            if hub is None:
                return INTERRUPTED
            async with hub:
                return await _talk(options, hub, Terminal(screen, lines, interrupts))
        except Unauthenticated as error:
            screen.note(f"hub chat: you could not be signed in: {error.message}")
        except ConnectFailed as error:
            advice = "" if error.status else ". Is the hub running? (`hub serve`)"
            screen.note(f"hub chat: {error.message}{advice}")
        except (ConnectionClosed, TokenExpired) as error:
            by_token = not (options.email or options.code)
            useless = isinstance(error, TokenExpired) or error.code in (4005, 4500)
            screen.note(f"hub chat: {error}{ANOTHER if by_token and useless else ''}")
        except Fault as error:
            trace = f" (trace {error.trace_id})" if error.trace_id else ""
            screen.note(f"hub chat: {error.message}{trace}")
        except HubError as error:
            screen.note(f"hub chat: {error}")
        return FAILED


async def _talk(options: argparse.Namespace, hub: Hub, terminal: Terminal) -> int:
    if options.list:
        async for each in hub.conversations.list():
            terminal.screen.line(f"{each.id}  {each.title or ''}".rstrip())
        return OK
    conversation: Conversation | None = None
    if options.conversation:
        try:
            conversation = await hub.conversations.get(options.conversation)
        except InvalidParams as error:
            raise Usage(NO_CONVERSATION.format(options.conversation, "--list")) from error
    if not options.text:
        terminal.lines.edit()
        return await Dialogue(hub, terminal, conversation, options.model).run()
    text = " ".join(options.text)
    await choose_model(hub, terminal.screen, options.model, conversation)
    told = conversation or await begin(hub, text)
    stream = told.send(text, model=options.model, timeout=options.timeout, cancel_on_break=True)
    if conversation is None:
        outcome = await stream_first_answer(told, stream, terminal)
    else:
        outcome = await stream_answer(stream, terminal)
    if outcome == "cancelled":
        terminal.screen.note("hub chat: cancelled")
        return INTERRUPTED
    return OK


async def _unless(interrupts: Interrupts, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` answers; None if ctrl-C comes first."""
    task = asyncio.ensure_future(work)
    hit = asyncio.ensure_future(interrupts.wait())
    try:
        await asyncio.wait([task, hit], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, hit):
            each.cancel()
        await asyncio.gather(task, hit, return_exceptions=True)
