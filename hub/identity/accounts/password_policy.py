"""What a new password may be. Pure.

NIST SP 800-63B revision 4 (section 3.1.1) asks for 15 characters where a password is the only
factor, and for a list of those that are used too often; for no mixture of kinds of characters, and
for no change without a reason. A password that was set before is not looked at again.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

from hub.faults import Fault

MIN_CHARACTERS: Final = 15
MAX_CHARACTERS: Final = 128
LEFT_CHARACTERS: Final = 8
"""What has to be left of a password beside its user's own name, and the product's."""

PRODUCT: Final = ("realtime", "agenthub", "agent", "hub")
_FORBIDDEN: Final = Path(__file__).with_name("forbidden_passwords.txt")
_OWN_LEAST: Final = 4
_ROWS: Final = (
    "0123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "azertyuiop",
)


def normal(password: str) -> str:
    """The form that is hashed: NFKC, as RFC 8265 advises; other keyboards' is the same."""
    return unicodedata.normalize("NFKC", password)


def check(password: str, own: Iterable[str] = ()) -> None:
    """Raise Fault("invalid_params"), which says why, for a password that cannot be.

    ``own``: what an attacker tries first for this user, as the address and its part before the @.
    """
    length = len(normal(password))
    if not MIN_CHARACTERS <= length <= MAX_CHARACTERS:
        raise _refused(f"must have {MIN_CHARACTERS} to {MAX_CHARACTERS} characters")
    plain = _plain(password)
    if len(set(normal(password))) < 3:
        raise _refused("repeats too few characters")
    if len(plain) < LEFT_CHARACTERS:
        return  # of marks, mostly
    if plain in forbidden() or len(_shortest(plain)) < LEFT_CHARACTERS:
        raise _refused("is one that many people use, or the same over and over")
    if len(_without_rows(plain)) < 3:
        raise _refused("is a row of the keyboard, or of digits")
    named = [part for part in map(_plain, own) if len(part) >= _OWN_LEAST]
    if _left(plain, named) < LEFT_CHARACTERS:
        raise _refused("is little more than your own name")
    if _left(plain, PRODUCT) < LEFT_CHARACTERS:
        raise _refused("is little more than the name of this program")


@lru_cache(maxsize=1)
def forbidden() -> frozenset[str]:
    """The passwords that people use most, of those that are long enough, without spaces, marks and
    capitals.
    """
    lines = _FORBIDDEN.read_text("utf-8").splitlines()
    return frozenset(_plain(line) for line in lines if line and not line.startswith("#"))


def _plain(text: str) -> str:
    """Letters and digits alone, without case: nobody is safer for a mark at the end."""
    return re.sub(r"[\W_]", "", normal(text).casefold())


def _shortest(plain: str) -> str:
    """The piece that the text is a repetition of; itself if it is none."""
    at = (plain + plain).find(plain, 1)
    return plain[:at]


def _without_rows(plain: str) -> str:
    """What is left when runs of four and more neighbours in a row are taken out, both ways."""
    left = plain
    for row in _ROWS:
        for way in (row * 3, row[::-1] * 3):
            at = 0
            while at + 4 <= len(left):
                size = 4
                if left[at : at + size] not in way:
                    at += 1
                    continue
                while at + size < len(left) and left[at : at + size + 1] in way:
                    size += 1
                left = left[:at] + left[at + size :]
    return left


def _left(plain: str, names: Iterable[str]) -> int:
    for name in sorted(names, key=len, reverse=True):
        plain = plain.replace(name, "")
    return len(plain)


def _refused(why: str) -> Fault:
    return Fault("invalid_params", f"The password {why}.")
