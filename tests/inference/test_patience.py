"""A bound on many waits: late ones raise, those in time do not, and other cancels stay cancels."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hub.inference.patience import Patience


@pytest.fixture
async def patience() -> AsyncIterator[Patience]:
    patience = Patience()
    yield patience
    patience.close()


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_wait_that_takes_too_long_raises(patience: Patience) -> None:
    for _ in range(2):  # and so does the next one
        with pytest.raises(TimeoutError), patience.until(soon(0.01)):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_waits_in_time_are_not_disturbed_by_the_timer_of_one_before(
    patience: Patience,
) -> None:
    with patience.until(soon(0.01)):
        await asyncio.sleep(0)
    with patience.until(soon(60)):  # the timer of the first comes, and is set again
        await asyncio.sleep(0.03)
    await asyncio.sleep(0.01)  # no wait of ours
    with patience.until(soon(60)):
        await asyncio.sleep(0.01)


async def test_a_shorter_wait_after_a_longer_one_ends_in_its_own_time(patience: Patience) -> None:
    with patience.until(soon(60)):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError), patience.until(soon(0.01)):
            await asyncio.Event().wait()


async def test_a_time_that_is_past_leaves_what_is_there_to_be_taken(patience: Patience) -> None:
    with patience.until(soon(-1)):
        pass
    with pytest.raises(TimeoutError), patience.until(soon(-1)):
        await asyncio.Event().wait()


async def test_the_timer_does_not_come_between_waits(patience: Patience) -> None:
    with patience.until(soon(0.005)):
        pass
    await asyncio.sleep(0.02)


async def test_a_cancel_of_somebody_else_is_not_a_timeout(patience: Patience) -> None:
    waiting = asyncio.Event()

    async def wait(seconds: float) -> None:
        with patience.until(soon(seconds)):
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait(60))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_that_meets_the_timeout_stays_a_cancel(patience: Patience) -> None:
    async def wait() -> None:
        task = asyncio.current_task()
        assert task is not None
        with patience.until(soon(-1)):
            # The timer has come, and cancels; so does somebody else before the task goes on.
            asyncio.get_running_loop().call_later(0, task.cancel)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                raise

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_once_closed_it_leaves_no_timer_behind() -> None:
    patience = Patience()
    with patience.until(soon(0.005)):
        pass
    patience.close()
    await asyncio.sleep(0.02)
    patience.close()
