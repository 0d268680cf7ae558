"""What is left in circles is collected now and then, while that takes no time to speak of."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from hub.cli import memory


class _Circle:
    def __init__(self) -> None:
        self.itself = self


def _left() -> asyncio.Event:
    """Leave a circle; set when it is gone."""
    gone = asyncio.Event()
    weakref.finalize(_Circle(), gone.set)
    return gone


@pytest.fixture(autouse=True)
def _by_itself(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter collects nothing, and a minute is short."""
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    gc.disable()
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # as it was
    gc.enable()


async def test_a_circle_that_was_left_is_collected_without_being_asked_for() -> None:
    async with memory.settled():
        await asyncio.wait_for(_left().wait(), 10)
    assert not any(getattr(each, "__name__", "") == "timed" for each in gc.callbacks)


async def test_beside_a_crowd_none_is_asked_for_until_it_has_left() -> None:
    crowd = memory.CROWD
    async with memory.settled(lambda: crowd):
        collected = _left()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not collected.is_set()
        crowd -= 1
        await asyncio.wait_for(collected.wait(), 10)


async def test_collections_that_hold_up_the_loop_are_left_to_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "LONGEST_S", 0.0)
    async with memory.settled():
        await asyncio.wait_for(_left().wait(), 10)  # the first one tells how long they take
        collected = _left()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not collected.is_set()
