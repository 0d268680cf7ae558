"""Passwords: bcrypt over a digest, off the event loop, a few at a time.

bcrypt reads 72 bytes and stops at a zero byte, so it is given the SHA-384 of the password in
base64 (64 bytes). The password is normalised first (NFKC, as RFC 8265 and NIST SP 800-63B advise),
so that the same characters from another keyboard are the same password.
"""

import asyncio
import base64
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, TypeVar

import bcrypt

from hub.faults import Fault
from hub.identity.accounts.password_policy import check, normal

_SCHEME: Final = "sha384-bcrypt:"
_STORED: Final = re.compile(re.escape(_SCHEME) + r"\$2b\$\d\d\$[./A-Za-z0-9]{53}")
_WAITING: Final = 64
_LESS_URGENT: Final = 10
"""What is added to the niceness of the threads that hash: the event loop and its streams go first,
and get nine tenths of a core that they share with one.
"""

Result = TypeVar("Result")


class Verified(NamedTuple):
    """``stale``: right, but hashed at another cost than today's; hash it again."""

    right: bool
    stale: bool


class Passwords:
    """Hashes and verifies. At most ``concurrency`` cores work on it (by default half of them), with
    less urgency than anything else, and 64 callers wait.

    A hash at cost 12 takes some 0.3 s of a core; beyond the 64, callers get
    Fault("rate_limited") instead of a queue without end.
    """

    def __init__(self, cost: int, concurrency: int | None = None) -> None:
        self._cost = cost
        self._concurrency = concurrency or max(1, _cores() // 2)
        self._threads = ThreadPoolExecutor(
            self._concurrency, thread_name_prefix="passwords", initializer=_be_nice
        )
        self._busy = 0
        self._dummy: str | None = None

    async def hash(self, password: str, own: Iterable[str] = ()) -> str:
        """The hash to store. Raises Fault("invalid_params") for a password out of policy; ``own``
        is what it must not be made of (see ``password_policy``).
        """
        check(password, own)
        return await self._elsewhere(partial(_hash, password, self._cost))

    async def rehash(self, password: str) -> str:
        """The hash, at today's cost, of a password that was right, whatever the policy is now."""
        return await self._elsewhere(partial(_hash, password, self._cost))

    async def verify(self, password: str, stored: str | None) -> Verified:
        """Whether the password is the one that was hashed.

        ``stored`` None (no such user, or one without a password) is never right, and takes the
        same time; so does one that was hashed at a lower cost than today's.
        """
        if self._dummy is None:
            self._dummy = await self._elsewhere(
                partial(_hash, secrets.token_urlsafe(16), self._cost)
            )
        right = await self._elsewhere(partial(_verify, password, stored or self._dummy, self._cost))
        if stored is None or not right:
            return Verified(False, False)
        return Verified(True, _cost_of(stored) != self._cost)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def expect_room(self) -> None:
        """Raise Fault("rate_limited") when no more may wait: to be asked before anything else is
        done for somebody, so that a crowd at the door costs next to nothing to turn away.
        """
        if self._busy >= self._concurrency + _WAITING:
            raise Fault(
                "rate_limited", "Too many sign-ins at once.", details={"retry_after_ms": 2000}
            )

    async def _elsewhere(self, work: "partial[Result]") -> Result:
        self.expect_room()
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._busy -= 1


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _be_nice() -> None:
    # Of Linux alone, where a thread has a niceness of its own (setpriority(2), "C library/kernel
    # differences"); elsewhere this would be that of the whole process.
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            thread = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, now + _LESS_URGENT))


def _digest(password: str) -> bytes:
    # A lone surrogate has no UTF-8; it must not raise here, and can match nothing but itself.
    raw = normal(password).encode("utf-8", "surrogatepass")
    return base64.b64encode(hashlib.sha384(raw).digest())


def _hash(password: str, cost: int) -> str:
    return _SCHEME + bcrypt.hashpw(_digest(password), bcrypt.gensalt(cost)).decode()


def _verify(password: str, stored: str, cost: int) -> bool:
    if _STORED.fullmatch(stored) is None:
        return False
    digest = _digest(password)
    right = bcrypt.checkpw(digest, stored.removeprefix(_SCHEME).encode())
    for less in range(_cost_of(stored), cost):
        # 2^c + 2^c + 2^(c+1) + … + 2^(cost-1) = 2^cost: as long as a hash of today's cost takes.
        bcrypt.hashpw(digest, bcrypt.gensalt(less))
    return right


def _cost_of(stored: str) -> int:
    # $2b$12$…
    return int(stored.removeprefix(_SCHEME).split("$")[2])
