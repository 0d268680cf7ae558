"""``hub keys``: the keys that sign access tokens, listed, rotated and retired.

Running nodes read the directory again within a minute, and at once when they see a key that they
do not know. None has to be started again.
"""

import argparse
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from hub.faults import Fault
from hub.identity.tokens.keyring import ANNOUNCED, Held, KeyRing, directory_of, make, open_ring
from hub.settings import Settings

HELP = "list, rotate and retire the keys of access tokens"


def declare(commands: Any) -> None:
    """Add the command's parser."""
    actions = commands.add_parser("keys", help=HELP, description=HELP.capitalize() + ".")
    actions = actions.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("list", "list the keys, and what each does now"),
        ("rotate", "make a new key; the one before verifies until its last token is over"),
        ("retire", "delete the keys whose tokens are all over, or the one that is named"),
    ):
        action = actions.add_parser(name, help=summary, description=summary.capitalize() + ".")
        action.add_argument("--data-dir", metavar="DIR")
        if name == "rotate":
            action.add_argument(
                "--now",
                action="store_true",
                help=f"sign by it at once, not {ANNOUNCED.seconds // 60} min from now, when every "
                "node and every cache of the public keys has it",
            )
        if name == "retire":
            action.add_argument(
                "kid",
                nargs="?",
                help="a key that was lost to somebody: its tokens are good no more",
            )


def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub keys ACTION``. Raises Fault, BadSettings, OSError."""
    ring = open_ring(settings)
    if given.action == "rotate":
        return _rotate(settings, ring, at_once=given.now)
    if given.action == "retire":
        return _retire(ring, given.kid)
    for held in ring.all():
        print(_line(ring, held))
    return 0


def _line(ring: KeyRing, held: Held) -> str:
    state = ring.state(held)
    what = {
        "announced": f"signs from {_instant(held.since)} on",
        "signs": "signs now",
        "verifies": "verifies" + (f" until {_instant(held.until)}" if held.until else ""),
        "spent": f"verified until {_instant(held.until)}; `hub keys retire` deletes it",
    }[state]
    place = "the settings" if held.file is None else held.file.name
    return f"{held.key.kid}  {held.key.algorithm:5}  {what}  ({place})"


def _instant(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _rotate(settings: Settings, ring: KeyRing, *, at_once: bool) -> int:
    directory = directory_of(settings)
    if ring.fixed:
        raise Fault(
            "conflict",
            "the key that signs is one of the settings, which the hub cannot rotate. Put the new "
            f"key into {directory} as NEXT.{settings.jwt_algorithm}.key and the old one as "
            f"LAST.{settings.jwt_algorithm}.key, on every node; a minute later change the setting "
            "and start the nodes again one by one; when the tokens of the old one are over, "
            "`hub keys retire KID` deletes it",
        )
    since = datetime.now(UTC) + (timedelta() if at_once else ANNOUNCED)
    path = make(directory, settings.jwt_algorithm, since)
    held = next(held for held in open_ring(settings).all() if held.file == path)
    when = "now" if at_once else f"from {_instant(held.since)} on"
    print(f"{held.key.kid} signs {when} ({path.name})")
    return 0


def _retire(ring: KeyRing, kid: str | None) -> int:
    chosen = [
        held
        for held in ring.all()
        if (held.key.kid == kid if kid is not None else ring.state(held) == "spent")
    ]
    if kid is not None and not chosen:
        raise Fault("not_found", f"there is no key {kid}; `hub keys list` lists them")
    for held in chosen:
        if ring.state(held) == "signs":
            raise Fault(
                "conflict",
                f"{held.key.kid} signs now; `hub keys rotate --now` gives it a successor first",
            )
        if held.file is not None:
            os.unlink(held.file)
            print(f"{held.key.kid} is retired")
    if not chosen:
        print("Every key is still needed.")
    return 0
