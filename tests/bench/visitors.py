"""Visitors: a child that asks over HTTP, at a rate or one by one, and times the answers."""

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any, Final

import bcrypt
import uvloop

from tests.bench.ages import percentile
from tests.bench.child import obey

ANSWER_S: Final = 30.0


async def post(
    port: int, path: str, body: dict[str, Any], whence: str | None = None
) -> tuple[int, bytes]:
    """The status and the body of an answer, on a connection of its own. ``whence``: the address
    that a proxy would say it is from.
    """
    data = json.dumps(body).encode()
    said = f"X-Forwarded-For: {whence}\r\n" if whence else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"{said}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + data)
        answer = await reader.read()
    finally:
        writer.close()
    first, _, content = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1]), content


class Visits:
    """Answers so far, in milliseconds, and how many there were of each status."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def visit(
        self, port: int, path: str, body: dict[str, Any], whence: str | None = None
    ) -> bytes:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                status, content = await post(port, path, body, whence)
        except (OSError, TimeoutError, IndexError):
            self.statuses["none"] += 1
            return b""
        self.statuses[str(status)] += 1
        self.times.append((time.perf_counter() - began) * 1e3)
        return content

    def counts(self) -> dict[str, Any]:
        return {
            "statuses": dict(self.statuses),
            "p50": percentile(self.times, 50),
            "p99": percentile(self.times, 99),
        }


async def each(port: int, path: str, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Ask one after the other."""
    visits = Visits()
    for body in bodies:
        await visits.visit(port, path, body)
    return visits.counts()


async def in_turns(
    port: int, path: str, ways: dict[str, list[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Ask one after the other, of each way in turn and in any order of them, each time from where
    nobody was before. Of each way the ``statuses``, and all ``times`` in milliseconds.
    """
    visits = {name: Visits() for name in ways}
    whence = (f"198.18.{third}.{last}" for third in range(256) for last in range(1, 255))
    for bodies in zip(*ways.values(), strict=True):
        turns = list(zip(ways, bodies, strict=True))
        random.shuffle(turns)
        for name, body in turns:
            await visits[name].visit(port, path, body, next(whence))
    return {
        name: {"statuses": dict(each.statuses), "times": each.times}
        for name, each in visits.items()
    }


async def refresh(port: int, token: str, count: int) -> dict[str, Any]:
    """Refresh again and again, each time with the token that the last answer brought."""
    visits = Visits()
    for _ in range(count):
        answer = await visits.visit(port, "/v1/auth/refresh", {"refresh_token": token})
        token = json.loads(answer)["refresh_token"]
    return visits.counts()


async def flood(
    port: int, path: str, bodies: list[dict[str, Any]], rate: float, seconds: float
) -> dict[str, Any]:
    """Ask ``rate`` times a second, whether or not the answers come."""
    visits, asking = Visits(), set[asyncio.Task[bytes]]()
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(round(rate * seconds)):
        task = asyncio.create_task(visits.visit(port, path, bodies[number % len(bodies)]))
        asking.add(task)
        task.add_done_callback(asking.discard)
        await asyncio.sleep(max(0.0, start + (number + 1) / rate - loop.time()))
    counts = visits.counts()
    await asyncio.gather(*asking)
    return counts


async def hash_ms(cost: int, count: int) -> float:
    """What one bare hash takes here, in milliseconds; the median of some."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        bcrypt.hashpw(b"0123456789abcdef0123456789abcdef", bcrypt.gensalt(cost))
        times.append((time.perf_counter() - began) * 1e3)
    return sorted(times)[count // 2]


async def main() -> None:
    random.seed(7)
    await obey(
        {},
        {
            "each": each,
            "in_turns": in_turns,
            "refresh": refresh,
            "flood": flood,
            "hash_ms": hash_ms,
        },
    )


if __name__ == "__main__":
    uvloop.run(main())
