"""A chore is done by one node at a time, and comes up again whatever came of it."""

import asyncio
from typing import Any

from hub.backplane.chore import Chore, Keep
from hub.backplane.interface import LeaseLost
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.faults import Fault


async def test_one_node_at_a_time_does_it() -> None:
    shared, begun, go_on = MemoryShared(), asyncio.Event(), asyncio.Event()

    async def slowly(keep: Keep) -> str:
        begun.set()
        await go_on.wait()
        await keep()
        return "here"

    async def at_once(keep: Keep) -> str:
        return "there"

    here = Chore(MemoryBackplane(shared), "dishes", slowly, every_s=60)
    there = Chore(MemoryBackplane(shared), "dishes", at_once, every_s=60)
    doing = asyncio.create_task(here.once())
    await begun.wait()
    assert await there.once() is None
    go_on.set()
    assert await doing == "here"
    assert await there.once() == "there", "the lease was given back"


async def test_a_node_that_another_took_it_from_leaves_it() -> None:
    class Lost(MemoryBackplane):
        async def renew(self, lease: Any, ttl_s: float) -> None:
            raise LeaseLost(lease.name)

    done: list[int] = []

    async def work(keep: Keep) -> None:
        done.append(1)
        await keep()
        done.append(2)

    await Chore(Lost(), "dishes", work, every_s=60).once()
    assert done == [1]


async def test_it_comes_up_again_after_a_fault_and_after_a_failure_until_it_is_closed() -> None:
    backplane, done = MemoryBackplane(), asyncio.Event()
    times: list[int] = []

    async def work(keep: Keep) -> None:
        times.append(len(times))
        if len(times) == 1:
            raise Fault("backend_unavailable")
        if len(times) == 2:
            raise RuntimeError("on purpose")
        done.set()

    chore = Chore(backplane, "dishes", work, every_s=0.001)
    await chore.start()
    async with asyncio.timeout(5):
        await done.wait()
    await chore.close()
    await chore.close()
    assert await backplane.acquire("dishes", 1.0) is not None, "the lease was given back"
