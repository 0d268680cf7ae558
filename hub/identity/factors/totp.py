"""Codes of an authenticator: TOTP (RFC 6238) with six digits, SHA-1 and steps of 30 s, which is
what every authenticator knows. Pure.
"""

import re
from typing import Final

import pyotp

STEP_S: Final = 30
DRIFT: Final = 1
"""By how many steps the clocks may differ, either way."""
ISSUER: Final = "Agent hub"
"""What an authenticator shows beside the account."""

_CODE: Final = re.compile(r"[0-9]{6}")


def new_secret() -> str:
    """160 random bits (RFC 4226 section 4), in base 32."""
    return pyotp.random_base32(32)


def uri(secret: str, account: str) -> str:
    """What a client shows as a QR code, for an authenticator to read."""
    return pyotp.TOTP(secret).provisioning_uri(name=account, issuer_name=ISSUER)


def is_code(given: str) -> bool:
    """Whether it has the form of a code."""
    return _CODE.fullmatch(given) is not None


def step_of(secret: str, code: str, moment: float, *, after: int) -> int | None:
    """The step whose code this is: of those around ``moment`` (seconds since the epoch) that come
    after step ``after``, since a code is good once. None: of no such step.
    """
    here = int(moment) // STEP_S
    found = None
    for step in range(max(here - DRIFT, after + 1, 0), here + DRIFT + 1):
        # All are compared, each in the same time.
        if pyotp.utils.strings_equal(pyotp.HOTP(secret).at(step), code) and found is None:
            found = step
    return found
