"""Who does not come in learns nothing from how long the answer takes: from end to end, over HTTP.

The hub believes a proxy's word of whence each attempt comes, and attempts come from everywhere, so
that none is answered before it is looked at.

Two clocks are read: the wall's; and that of this process, which is the hub and who asks, since
where other programs have the processors the wall's shows nothing of a millisecond.
"""

import asyncio
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from sqlmodel import col, update

from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import User, now
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, ServedHub, ServeHub
from tests.parts.rank_sum import rank_sum, told_apart

TRIALS: Final = 200
ACCOUNTS: Final = 8
"""Of each kind: an account stands a hundred guesses from places that it does not know."""
ATTEMPTS: Final = 3
FOUND_S: Final = 0.001
"""A difference that the trials would show."""
WAYS: Final = {"unknown": PASSWORD, "known": "wrong horse battery", "disabled": PASSWORD}
"""Whose address is given, and the password with it."""
_TRACE: Final = re.compile(rb'"trace_id":"[0-9a-f]{32}"')


class Door:
    """Signing in, on one connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._places: Iterator[tuple[int, int]] = itertools.product(range(256), range(1, 255))
        self.answers: set[bytes] = set()

    async def try_once(self, email: str, password: str) -> tuple[float, float]:
        """The seconds that one attempt takes, by both clocks, from where nobody was before."""
        body = json.dumps({"email": email, "password": password}).encode()
        third, last = next(self._places)
        head = (
            "POST /v1/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"X-Forwarded-For: 198.18.{third}.{last}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        began, used = time.perf_counter(), time.process_time()
        self._writer.write(head + body)
        told = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", told, re.I)
        assert length is not None
        answer = await self._reader.readexactly(int(length[1]))
        took = time.perf_counter() - began, time.process_time() - used
        self.answers.add(told.partition(b"\r\n")[0] + _TRACE.sub(b"", answer))
        return took


@dataclass
class Took:
    """Seconds that each way took, by one clock."""

    clock: str
    unknown: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    disabled: list[float] = field(default_factory=list)

    def shows(self) -> bool:
        """Whether a difference would show: the trials were many enough, and quiet enough. Each way
        is held against itself: against another, one that is slower by so much would hide itself.
        """
        return all(
            told_apart([seconds + FOUND_S for seconds in times], times)
            for times in (self.unknown, self.known, self.disabled)
        )

    def alike(self) -> bool:
        others = (self.known, self.disabled)
        return not any(told_apart(self.unknown, other) for other in others)

    def __str__(self) -> str:
        one, two, three = (
            f"{statistics.median(times) * 1e3:.2f}"
            for times in (self.unknown, self.known, self.disabled)
        )
        p = [f"{rank_sum(self.unknown, other):.2g}" for other in (self.known, self.disabled)]
        return (
            f"median ms by the clock of the {self.clock}: unknown {one}, known {two} (p = {p[0]}), "
            f"disabled {three} (p = {p[1]}; Mann and Whitney)"
        )


async def measured(door: Door, trials: int, dice: random.Random) -> tuple[Took, Took]:
    """What each way took, in turns, in any order of them."""
    wall, process = Took("wall"), Took("process")
    for trial in range(trials):
        for name in dice.sample(sorted(WAYS), len(WAYS)):
            email = f"{name}-{trial % ACCOUNTS}@hub.example"
            for clock, seconds in zip(
                (wall, process), await door.try_once(email, WAYS[name]), strict=True
            ):
                getattr(clock, name).append(seconds)
    return wall, process


async def furnish(hub: ServedHub) -> None:
    services = hub.hub.services
    for number in range(ACCOUNTS):
        for name in ("known", "disabled"):
            email = f"{name}-{number}@hub.example"
            await services.accounts.create_user(email, PASSWORD, "main", "member")
    async with services.database.write(EVERY_TENANT) as session:
        theirs = col(User.email).startswith("disabled-")
        await session.exec(update(User).where(theirs).values(disabled_at=now()))


def test_a_way_that_is_slower_by_what_would_be_found_is_not_alike_and_not_taken_for_noise() -> None:
    dice = random.Random(1)

    def times(median_s: float, spread_s: float) -> list[float]:
        return [dice.gauss(median_s, spread_s) for _ in range(TRIALS)]

    def took(spread_s: float, slower_s: float = 0.0) -> Took:
        of_known = times(0.004 + slower_s, spread_s)
        return Took("wall", times(0.004, spread_s), of_known, times(0.004, spread_s))

    assert took(0.0002, slower_s=FOUND_S).shows()
    assert not took(0.0002, slower_s=FOUND_S).alike()
    assert took(0.0002).shows()
    assert took(0.0002).alike()
    assert not took(0.01).shows()


async def test_two_hundred_sign_ins_of_known_unknown_and_disabled_users_take_as_long(
    serve_hub: ServeHub, figures: Figures
) -> None:
    dice = random.Random(7)
    async with serve_hub(worker=False, HUB_TRUSTED_PROXIES="127.0.0.1") as hub:
        await furnish(hub)
        at = urlsplit(hub.url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        door = Door(reader, writer)
        await measured(door, ACCOUNTS, dice)  # what is made once is made
        for attempt in range(1, ATTEMPTS + 1):
            clocks = await measured(door, TRIALS, dice)
            shown = [clock for clock in clocks if clock.shows()]
            if shown and shown[0].alike():  # by the wall's clock, if it shows anything
                break
            assert attempt < ATTEMPTS, [str(clock) for clock in clocks]
        writer.close()
    assert len(door.answers) == 1, door.answers
    assert next(iter(door.answers)).startswith(b"HTTP/1.1 401 ")
    figures(f"{TRIALS} failed sign-ins of each kind over HTTP, {'; '.join(map(str, clocks))}")
