"""Passwords: bcrypt over a digest, off the event loop, a few at a time.

bcrypt reads 72 bytes and stops at a zero byte, so it is given the SHA-384 of the password in
base64 (64 bytes). The password is normalised first (NFKC, as RFC 8265 and NIST SP 800-63B advise),
so that the same characters from another keyboard are the same password.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, TypeVar

import bcrypt

from hub.faults import Fault

MIN_CHARACTERS: Final = 12
MAX_CHARACTERS: Final = 128

_SCHEME: Final = "sha384-bcrypt:"
_STORED: Final = re.compile(re.escape(_SCHEME) + r"\$2b\$\d\d\$[./A-Za-z0-9]{53}")
_WAITING: Final = 64

Result = TypeVar("Result")


class Verified(NamedTuple):
    """``stale``: right, but hashed at another cost than today's; hash it again."""

    right: bool
    stale: bool


class Passwords:
    """Hashes and verifies. At most ``concurrency`` cores work on it, and 64 callers wait.

    A hash at cost 12 takes some 0.3 s of a core; beyond the 64, callers get
    Fault("rate_limited") instead of a queue without end.
    """

    def __init__(self, cost: int, concurrency: int = 2) -> None:
        self._cost = cost
        self._concurrency = concurrency
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="passwords")
        self._busy = 0
        self._dummy: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Fault("invalid_params") for a password out of policy."""
        return await self._elsewhere(partial(_hash, _accepted(password), self._cost))

    async def verify(self, password: str, stored: str | None) -> Verified:
        """Whether the password is the one that was hashed.

        ``stored`` None (no such user, or one without a password) is never right, and takes the
        same time.
        """
        if self._dummy is None:
            self._dummy = await self._elsewhere(
                partial(_hash, secrets.token_urlsafe(16), self._cost)
            )
        right = await self._elsewhere(partial(_verify, password, stored or self._dummy))
        if stored is None or not right:
            return Verified(False, False)
        return Verified(True, _cost_of(stored) != self._cost)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _elsewhere(self, work: "partial[Result]") -> Result:
        if self._busy >= self._concurrency + _WAITING:
            raise Fault(
                "rate_limited", "Too many sign-ins at once.", details={"retry_after_ms": 2000}
            )
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._busy -= 1


def _accepted(password: str) -> str:
    length = len(_normal(password))
    if not MIN_CHARACTERS <= length <= MAX_CHARACTERS:
        raise Fault(
            "invalid_params",
            f"The password must have {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.",
        )
    if len(set(password)) < 3:
        raise Fault("invalid_params", "The password repeats too few characters.")
    return password


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _digest(password: str) -> bytes:
    # A lone surrogate has no UTF-8; it must not raise here, and can match nothing but itself.
    raw = _normal(password).encode("utf-8", "surrogatepass")
    return base64.b64encode(hashlib.sha384(raw).digest())


def _hash(password: str, cost: int) -> str:
    return _SCHEME + bcrypt.hashpw(_digest(password), bcrypt.gensalt(cost)).decode()


def _verify(password: str, stored: str) -> bool:
    if _STORED.fullmatch(stored) is None:
        return False
    return bcrypt.checkpw(_digest(password), stored.removeprefix(_SCHEME).encode())


def _cost_of(stored: str) -> int:
    # $2b$12$…
    return int(stored.removeprefix(_SCHEME).split("$")[2])
