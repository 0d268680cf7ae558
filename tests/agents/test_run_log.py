"""The pen of a run: joined deltas, bounded events, unknown outcomes, lost leases."""

import asyncio
from collections.abc import AsyncIterator, Callable

import orjson
import pytest

from hub.agents import run_log
from hub.agents.run_log import DELTA_BYTES, QUEUED_BYTES, RunLog
from hub.backplane.interface import LOG_MAX_BYTES, Appended, Lease, LeaseLost, Position
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.events import vocabulary as say
from hub.faults import Fault
from hub.telemetry.metrics import Metrics

CHANNEL = "conversation:c_1"


class Flaky(MemoryBackplane):
    """A backplane whose appends wait for ``go``, and may fail before or after they happen."""

    def __init__(self, shared: MemoryShared | None = None) -> None:
        super().__init__(shared)
        self.go = asyncio.Event()
        self.go.set()
        self.before = 0
        self.after = 0

    async def append(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        lease: Lease | None = None,
        whole: bool = False,
    ) -> Appended:
        await self.go.wait()
        if self.before:
            self.before -= 1
            raise Fault("backend_unavailable")
        appended = await super().append(channel, data, key=key, lease=lease)
        if self.after:
            self.after -= 1
            raise Fault("backend_unavailable")
        return appended

    async def events(self) -> list[dict[str, object]]:
        return [orjson.loads(entry.data) for entry in (await self.read(CHANNEL, 0)).entries]


@pytest.fixture
def shared() -> MemoryShared:
    return MemoryShared()


@pytest.fixture
def backplane(shared: MemoryShared, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    monkeypatch.setattr(run_log, "RETRY_S", 0.001)
    return Flaky(shared)


@pytest.fixture
async def lease(backplane: Flaky) -> Lease:
    lease = await backplane.acquire(CHANNEL, 60)
    assert lease is not None
    return lease


@pytest.fixture
async def pen(backplane: Flaky, lease: Lease) -> AsyncIterator[RunLog]:
    async with RunLog(backplane, CHANNEL, lease, Metrics()) as pen:
        yield pen


def deltas(events: list[dict[str, object]]) -> list[object]:
    return [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]


async def test_deltas_that_come_while_an_append_is_under_way_are_joined(
    backplane: Flaky, pen: RunLog
) -> None:
    backplane.go.clear()
    pen.say(say.text_start("m_1"))
    await asyncio.sleep(0)
    for word in ("a", "b", "c"):
        pen.text("m_1", word)
    pen.say(say.text_end("m_1"))
    pen.text("m_2", "d")
    backplane.go.set()
    await pen.settled()
    events = await backplane.events()
    assert deltas(events) == ["abc", "d"]
    assert [event["type"] for event in events][2] == "TEXT_MESSAGE_END"


async def test_a_joined_delta_is_never_longer_than_can_be_delivered(
    backplane: Flaky, pen: RunLog
) -> None:
    backplane.go.clear()
    pen.say(say.text_start("m_1"))
    await asyncio.sleep(0)
    word = "é" * 1_000
    for _ in range(100):
        pen.text("m_1", word)
    backplane.go.set()
    await pen.settled()
    said = [str(delta) for delta in deltas(await backplane.events())]
    assert "".join(said) == word * 100
    assert all(len(delta.encode()) <= DELTA_BYTES for delta in said)
    assert len(said) < 10


@pytest.mark.parametrize("character", ["x", "é", "語", "😀"])
async def test_a_long_text_is_said_in_events_that_can_be_delivered(
    backplane: Flaky, pen: RunLog, character: str
) -> None:
    pen.text("m_1", "so: ")
    pen.text("m_1", character * 100_001)
    assert pen.crowded == (len(character.encode()) * 100_001 > QUEUED_BYTES)
    await pen.settled()
    said = [str(delta) for delta in deltas(await backplane.events())]
    assert "".join(said) == "so: " + character * 100_001
    assert all(len(delta.encode()) <= DELTA_BYTES for delta in said)
    assert not pen.crowded


async def test_who_waits_for_it_to_settle_waits_for_all_that_was_said_meanwhile(
    backplane: Flaky, pen: RunLog
) -> None:
    await pen.settled()  # nothing was said
    backplane.go.clear()
    pen.text("m_1", "a")
    waiting = [asyncio.create_task(pen.settled()) for _ in range(2)]
    await asyncio.sleep(0)
    pen.text("m_1", "b")
    given_up = asyncio.create_task(pen.settled())
    await asyncio.sleep(0)
    given_up.cancel()
    assert not any(task.done() for task in waiting)
    backplane.go.set()
    await asyncio.gather(*waiting)
    assert deltas(await backplane.events()) == ["a", "b"]


async def test_it_is_crowded_while_more_waits_than_it_may_hold(
    backplane: Flaky, pen: RunLog
) -> None:
    backplane.go.clear()
    pen.text("m_1", "x" * (QUEUED_BYTES // 2))
    assert not pen.crowded
    pen.text("m_1", "x" * QUEUED_BYTES)
    assert pen.crowded
    backplane.go.set()
    await pen.settled()
    assert not pen.crowded


@pytest.mark.parametrize("failure", ["before", "after"])
@pytest.mark.parametrize("which", ["first", "later"])
async def test_an_append_of_unknown_outcome_happens_once(
    backplane: Flaky, pen: RunLog, failure: str, which: str
) -> None:
    if which == "later":
        pen.say(say.text_start("m_0"))
        await pen.settled()
    setattr(backplane, failure, 2)
    pen.say(say.run_started("c_1", "r_1", []), key="r_1:start:1")
    pen.text("m_1", "ha")
    await pen.settled()
    pen.text("m_1", "ha")
    await pen.settled()
    events = await backplane.events()
    kinds = [event["type"] for event in events if event.get("messageId") != "m_0"]
    assert kinds == ["RUN_STARTED", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"]
    assert deltas(events) == ["ha", "ha"]


async def test_what_was_read_before_is_where_the_first_append_is_looked_up(
    backplane: Flaky, lease: Lease
) -> None:
    await backplane.append(CHANNEL, say.text_content("m_1", "ha"))
    async with RunLog(backplane, CHANNEL, lease, Metrics()) as pen:
        page = await backplane.read(CHANNEL, 0)
        pen.stand(Position(page.epoch, page.last))
        backplane.after = 1
        pen.text("m_1", "ha")
        await pen.settled()
    assert deltas(await backplane.events()) == ["ha", "ha"]


@pytest.mark.parametrize("how", ["say", "settled", "on_failure"])
async def test_a_lost_lease_stops_the_pen(
    shared: MemoryShared, backplane: Flaky, pen: RunLog, lease: Lease, how: str
) -> None:
    told: list[bool] = []
    pen.on_failure = lambda: told.append(True)
    await backplane.release(lease)
    pen.say(say.text_start("m_1"))
    with pytest.raises(LeaseLost):
        await pen.settled()
    checks: dict[str, Callable[[], None]] = {
        "say": lambda: pen.say(say.text_end("m_1")),
        "settled": lambda: pen.text("m_1", "more"),
        "on_failure": pen.say,
    }
    with pytest.raises(LeaseLost):
        checks[how]()
    assert told == [True]
    assert await backplane.events() == []


async def test_a_log_that_was_lost_is_to_be_restated(
    shared: MemoryShared, backplane: Flaky, pen: RunLog, lease: Lease
) -> None:
    pen.say(say.text_start("m_1"))
    await pen.settled()
    assert not pen.needs_restating
    shared.logs.clear()  # the log alone, as by eviction
    pen.text("m_1", "on")
    await pen.settled()
    assert pen.needs_restating
    pen.restated()
    pen.text("m_1", "on")
    await pen.settled()
    assert not pen.needs_restating


async def test_a_log_that_grew_far_in_bytes_is_to_be_restated_before_it_is_trimmed(
    pen: RunLog, backplane: Flaky
) -> None:
    for _ in range(2):
        said = 0
        while not pen.needs_restating:
            pen.text("m_1", "x" * DELTA_BYTES)
            await pen.settled()
            said += DELTA_BYTES
            assert said < LOG_MAX_BYTES / 2
        assert said > LOG_MAX_BYTES / 4
        pen.restated()
    assert (await backplane.read(CHANNEL, 0)).first == 1
