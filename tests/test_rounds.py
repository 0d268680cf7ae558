"""Rounds come again, whatever came of the last one, until they are closed."""

import asyncio

from structlog.testing import capture_logs

from hub.faults import Fault
from hub.rounds import Rounds

NEVER_S = 3600.0


async def test_a_round_that_fails_is_told_and_the_next_one_comes() -> None:
    done = asyncio.Event()
    failures = iter([Fault("backend_unavailable"), RuntimeError("on purpose")])

    async def sweep() -> None:
        for failure in failures:
            raise failure
        done.set()

    rounds = Rounds("sweep the floor", sweep, every_s=0.001)
    with capture_logs() as lines:
        rounds.start()
        async with asyncio.timeout(5):
            await done.wait()
        await rounds.close()
    told = [(line["log_level"], line["event"], line.get("why")) for line in lines]
    assert told == [
        ("warning", "could not sweep the floor", "backend_unavailable"),
        ("error", "could not sweep the floor", None),
    ]


async def test_the_first_round_comes_when_it_is_to_come() -> None:
    done = asyncio.Event()

    async def sweep() -> None:
        done.set()

    rounds = Rounds("sweep the floor", sweep, every_s=NEVER_S, first_s=0.0)
    rounds.start()
    async with asyncio.timeout(5):
        await done.wait()
    await rounds.close()


async def test_closing_ends_a_round_that_is_under_way_and_that_is_no_failure() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def sweep() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    rounds = Rounds("sweep the floor", sweep, every_s=NEVER_S, first_s=0.0)
    with capture_logs() as lines:
        rounds.start()
        async with asyncio.timeout(5):
            await begun.wait()
        await rounds.close()
        await rounds.close()
    assert ended.is_set()
    assert lines == []


async def test_rounds_that_were_never_begun_can_be_closed() -> None:
    async def sweep() -> None:
        raise AssertionError

    await Rounds("sweep the floor", sweep, every_s=0.0).close()


async def test_rounds_that_are_woken_do_not_wait_for_their_time() -> None:
    done = asyncio.Event()

    async def sweep() -> None:
        done.set()

    rounds = Rounds("sweep the floor", sweep, every_s=NEVER_S)
    rounds.start()
    for _ in range(2):
        done.clear()
        rounds.wake()
        async with asyncio.timeout(5):
            await done.wait()
    await rounds.close()


async def test_who_is_woken_in_the_middle_of_a_round_has_another_after_it() -> None:
    begun: asyncio.Queue[None] = asyncio.Queue()
    go_on = asyncio.Event()

    async def sweep() -> None:
        begun.put_nowait(None)
        await go_on.wait()

    rounds = Rounds("sweep the floor", sweep, every_s=NEVER_S, first_s=0.0)
    rounds.start()
    async with asyncio.timeout(5):
        await begun.get()
        rounds.wake()
        go_on.set()
        await begun.get()
    await rounds.close()
