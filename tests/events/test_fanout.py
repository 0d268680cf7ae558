"""Fan-out on a node: joining, replaying, filling gaps, losing the log, leaving."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import orjson
import pytest

from hub.backplane.interface import READ_BYTES, Backplane, Position
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.events.delivery import Delivery
from hub.events.fanout import AT_HAND_BYTES, PAGE, TOGETHER_BYTES, Fanout
from hub.events.outbox import FlushScheduler, Outbox
from hub.events.position import Since
from hub.faults import Fault
from hub.protocol.rfc6455 import payloads, text_frame
from hub.telemetry.metrics import Metrics
from tests.events.conftest import House
from tests.events.readers import CHANNEL, DEADLINE_S, Follower, Held
from tests.events.test_outbox import Overflow, Pipe

SMALL = LogLimits(entries=10, ttl_s=60, key_ttl_s=60)


async def settle(turns: int = 20) -> None:
    """Let everything that can go on in this loop go on."""
    for _ in range(turns):
        await asyncio.sleep(0)


# --- joining ---


@pytest.mark.parametrize(
    ("since", "outcome"),
    [(None, "new"), ("start", "recovered"), (Position("e_forged", 1), "snapshot")],
)
async def test_a_join_is_counted_by_what_came_of_it(
    house: House, since: Since, outcome: str
) -> None:
    await house.append()
    await house.fanout.join(CHANNEL, Follower(), since)
    counted = house.fanout._metrics.resumes
    outcomes = ("new", "recovered", "snapshot")
    assert {each: counted.labels(each)._value.get() for each in outcomes} == {
        each: float(each == outcome) for each in outcomes
    }


async def test_from_now_on_begins_with_the_next_event(house: House) -> None:
    await house.append(3)
    reader = await Follower().follow(house.fanout, None)
    assert reader.join is not None
    assert reader.join.recovered
    await house.append(2)
    await reader.reaches(5)
    assert reader.seqs == [4, 5]


async def test_from_the_start_replays_all_then_is_live(house: House) -> None:
    await house.append(PAGE + 3)  # more than a page
    reader = await Follower().follow(house.fanout, "start")
    assert reader.seqs == list(range(1, PAGE + 4))
    await house.append()
    await reader.reaches(PAGE + 4)


async def test_a_position_is_continued_after_it(house: House) -> None:
    await house.append(6)
    epoch = (await house.here.read(CHANNEL, 0)).epoch
    reader = await Follower().follow(house.fanout, Position(epoch, 4))
    await house.append()
    await reader.reaches(7)
    assert reader.seqs == [5, 6, 7]


@pytest.mark.parametrize("forged", ["future", "epoch"])
async def test_a_forged_position_is_not_recovered_and_begins_now(house: House, forged: str) -> None:
    await house.append(2)
    epoch = (await house.here.read(CHANNEL, 0)).epoch
    since = Position(epoch, 3) if forged == "future" else Position("e_forged", 1)
    reader = Follower()
    join = await reader.begin(house.fanout, since)
    assert (join.recovered, join.position) == (False, Position(epoch, 2))
    await join.follow()
    await house.append()
    await reader.reaches(3)
    assert reader.seqs == [3]


async def test_little_that_was_missed_is_read_once_and_much_is_not_held(house: House) -> None:
    there = await Follower().follow(house.fanout, None)  # so that the channel is open
    await house.append(40)
    await there.reaches(40)
    epoch = (await house.here.read(CHANNEL, 0)).epoch
    before = house.here.reads
    reader = Follower()
    join = await reader.begin(house.fanout, Position(epoch, 10))
    assert join.at_hand is not None
    await join.follow()
    assert (reader.seqs, house.here.reads - before) == (list(range(11, 41)), 1)
    await house.publisher.append(CHANNEL, b'{"text":"%s"}' % (b"x" * AT_HAND_BYTES))
    await there.reaches(41)
    held = await Follower().begin(house.fanout, Position(epoch, 40))
    assert held.at_hand is None
    held.abandon()


@pytest.mark.parametrize("limits", [SMALL])
@pytest.mark.parametrize("since", ["start", "position"])
async def test_a_trimmed_position_is_not_recovered(house: House, since: str) -> None:
    await house.append(200)  # far more than is kept
    page = await house.here.read(CHANNEL, 0)
    assert page.first > 2
    start: Since = "start" if since == "start" else Position(page.epoch, page.first - 2)
    join = await Follower().begin(house.fanout, start)
    assert (join.recovered, join.position.seq) == (False, 200)
    join.close()
    held = await Follower().follow(house.fanout, Position(page.epoch, page.first - 1))
    assert held.seqs == list(range(page.first, 201))


async def test_readers_that_join_while_others_publish_miss_and_repeat_nothing(
    house: House,
) -> None:
    chance = random.Random(7)
    readers: list[Follower] = []
    total = 300
    epoch = (await house.here.read(CHANNEL, 0)).epoch

    async def publish() -> None:
        for _ in range(total):
            await house.append()
            if chance.random() < 0.3:
                await settle(chance.randrange(4))

    async def join(number: int) -> None:
        while True:
            last = (await house.here.read(CHANNEL, 0, 0)).last
            if last >= number * total // 30:
                break
            await asyncio.sleep(0)
        since: Since = (None, "start", Position(epoch, chance.randint(0, last)))[number % 3]
        reader = await Follower().follow(house.fanout, since)
        if number % 7 == 6:
            reader.leave(house.fanout)
        else:
            readers.append(reader)

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(publish(), *(join(number) for number in range(28)))
        for reader in readers:
            await reader.reaches(total)
    for reader in readers:
        assert reader.join is not None
        first = reader.join.position.seq + 1
        assert reader.seqs == list(range(first, total + 1))


async def test_an_event_that_the_log_has_and_pub_sub_has_not_brought_yet_is_not_missed(
    house: House,
) -> None:
    early = await Follower().follow(house.fanout, None)
    house.here.hold = True
    await house.append(3)
    # It stands at 3 while the node's live position is 0; nothing tells the node of 1 to 3 but it.
    late = await Follower().follow(house.fanout, None)
    await early.reaches(3)
    house.here.hold = False
    house.here.release()  # the late messages are old news
    await house.append()
    await late.reaches(4)
    await early.reaches(4)
    assert (early.seqs, late.seqs) == ([1, 2, 3, 4], [4])


async def test_a_join_that_cannot_reach_the_backplane_fails_and_leaves_nothing() -> None:
    class Away(MemoryBackplane):
        away = True

        async def read(self, *args: object, **_: object) -> object:  # type: ignore[override]
            if self.away:
                raise Fault("backend_unavailable")
            return await super().read(*args)  # type: ignore[arg-type]

    shared = MemoryShared()
    backplane = Away(shared)
    fanout = Fanout(cast(Backplane, backplane), Metrics())
    for _ in range(2):
        with pytest.raises(Fault, match="backend_unavailable"):
            await fanout.join(CHANNEL, Follower(), None)
    await settle()
    assert shared.sinks == {}
    backplane.away = False
    reader = await Follower().follow(fanout, None)
    await backplane.append(CHANNEL, b"{}")
    await reader.reaches(1)
    assert reader.seqs == [1]
    await fanout.close()


async def test_a_replay_of_long_events_never_overflows_an_outbox_that_is_being_emptied(
    house: House,
) -> None:
    long = b'{"type":"CUSTOM","value":"' + b"x" * 60_000 + b'"}'
    for _ in range(40):  # twice what an outbox holds, in one page
        await house.publisher.append(CHANNEL, long)
    pipe, owner = Pipe(), Overflow()
    outbox = Outbox(pipe, FlushScheduler(), owner)
    reader = Follower()
    reader.on_deliver = lambda: outbox.put(reader.seen[-1].frame)
    reader.room = outbox.room  # type: ignore[method-assign]
    await reader.follow(house.fanout, "start")
    await settle()
    assert (reader.seqs, owner.calls) == (list(range(1, 41)), 0)
    assert b"".join(pipe.written) == b"".join(delivery.frame for delivery in reader.seen)


async def test_a_reader_may_leave_in_the_middle_of_a_replay(house: House) -> None:
    await house.append(3)
    reader = Follower()
    reader.on_deliver = lambda: reader.leave(house.fanout)
    await reader.follow(house.fanout, "start")
    assert (reader.seqs, reader.faults) == ([1], [])


# --- live ---


async def test_an_event_is_encoded_once_for_all_its_readers(house: House) -> None:
    readers = [await Follower().follow(house.fanout, None) for _ in range(5)]
    await house.append()
    for reader in readers:
        await reader.reaches(1)
    assert len({id(reader.seen[0].frame) for reader in readers}) == 1
    assert len({id(reader.seen[0].payload) for reader in readers}) == 1


def test_a_delivery_is_the_notification_of_the_protocol() -> None:
    delivery = Delivery(CHANNEL, "e1", 7, b'{"type":"CUSTOM"}')
    assert delivery.payload == (
        b'{"jsonrpc":"2.0","method":"event","params":{"channel":"conversation:c_1","epoch":"e1",'
        b'"seq":7,"event":{"type":"CUSTOM"}}}'
    )
    assert delivery.frame.endswith(delivery.payload)


async def test_a_message_that_pub_sub_dropped_is_filled_from_the_log(house: House) -> None:
    readers = [await Follower().follow(house.fanout, None) for _ in range(3)]
    house.here.dropping = lambda seq: seq in {2, 3, 5}
    await house.append(6)
    for reader in readers:
        await reader.reaches(6)
        assert reader.seqs == [1, 2, 3, 4, 5, 6]


async def test_the_last_message_that_was_dropped_is_found_when_the_subscription_is_repaired(
    house: House,
) -> None:
    reader = await Follower().follow(house.fanout, None)
    house.here.dropping = lambda seq: True
    await house.append(2)
    house.here.repair()
    await reader.reaches(2)


async def test_what_arrives_while_a_gap_is_being_filled_is_delivered_after_it(
    house: House,
) -> None:
    reader = await Follower().follow(house.fanout, None)
    house.here.dropping = lambda seq: seq == 1
    house.here.pause_reads()
    await house.append(2)
    await house.here.answered.wait()  # the log was read up to 2
    await house.append(3)
    await settle()
    assert reader.seqs == []
    house.here.resume_reads()
    await reader.reaches(5)


async def test_the_log_is_read_again_until_the_backplane_is_back() -> None:
    class Flaky(MemoryBackplane):
        failures = 0

        async def read(self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES):  # type: ignore[no-untyped-def]
            if self.failures:
                self.failures -= 1
                raise Fault("backend_unavailable")
            return await super().read(channel, after, limit, most)

    backplane = Flaky()
    held = Held(cast(Backplane, backplane))
    fanout = Fanout(cast(Backplane, held), Metrics())
    reader = await Follower().follow(fanout, None)
    backplane.failures = 1
    held.dropping = lambda seq: seq == 1
    for _ in range(2):
        await backplane.append(CHANNEL, b"{}")
    await reader.reaches(2)
    assert backplane.failures == 0
    await fanout.close()


async def test_readers_are_told_when_a_gap_cannot_be_filled_for_an_unforeseen_reason() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    class Wrong(MemoryBackplane):
        wrong = False

        async def read(self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES):  # type: ignore[no-untyped-def]
            if self.wrong:
                raise ValueError("an answer that nobody foresaw")
            return await super().read(channel, after, limit, most)

    backplane = Wrong()
    held = Held(cast(Backplane, backplane))
    fanout = Fanout(cast(Backplane, held), Metrics())
    reader = await Follower().follow(fanout, None)
    held.dropping = lambda seq: seq == 1
    backplane.wrong = True
    for _ in range(2):
        await backplane.append(CHANNEL, b"{}")
    await reader.until(lambda: reader.reason is not None)
    assert (reader.reason, reader.seqs, len(reported)) == ("internal_error", [], 1)
    await fanout.close()


# --- the log is lost ---


async def test_a_lost_log_ends_the_subscriptions_and_a_new_join_begins_the_next_log(
    house: House,
) -> None:
    readers = [await Follower().follow(house.fanout, None) for _ in range(2)]
    await house.append(3)
    for reader in readers:
        await reader.reaches(3)
    house.lose()
    await house.append()
    for reader in readers:
        await reader.until(lambda reader=reader: reader.reason is not None)  # type: ignore[misc]
        assert (reader.reason, reader.seqs, reader.faults) == ("resume_gap", [1, 2, 3], [])
    again = Follower()
    assert readers[0].at is not None
    join = await again.begin(house.fanout, readers[0].at)
    assert not join.recovered
    assert join.position.epoch != readers[0].at.epoch
    await join.follow()
    await house.append()
    await again.reaches(2)


async def test_an_event_that_arrives_while_the_loss_is_being_found_reaches_who_joins_then(
    house: House,
) -> None:
    await house.append(3)
    first = await Follower().follow(house.fanout, None)
    house.lose()
    house.here.pause_reads()
    await house.append()  # of another log: the node looks at the log …
    await house.here.answered.wait()
    join_task = asyncio.create_task(Follower().begin(house.fanout, None))
    await settle()
    await house.append()  # … and hears of this while it looks
    await settle()
    house.here.resume_reads()
    join = await join_task
    await first.until(lambda: first.reason is not None)
    reader = cast(Follower, join._reader)
    async with asyncio.timeout(DEADLINE_S):
        await join.follow()
    # Whatever position it was given, nothing after it is missing.
    last = (await house.here.read(CHANNEL, 0, 0)).last
    await reader.until(lambda: reader.at is not None and reader.at.seq >= last)
    assert reader.faults == []


@pytest.mark.parametrize("limits", [SMALL])
async def test_a_reader_that_is_trimmed_past_is_told_so(house: House) -> None:
    reader = await Follower().follow(house.fanout, None)
    house.here.dropping = lambda seq: seq < 200
    await house.append(200)
    await reader.until(lambda: reader.reason is not None)
    assert (reader.reason, reader.seqs) == ("resume_gap", [])


@pytest.mark.parametrize("limits", [SMALL])
async def test_a_replay_that_is_trimmed_past_ends_and_leaves_no_hole(
    house: House,
) -> None:
    await house.append(5)
    reader = Follower()
    join = await reader.begin(house.fanout, "start")
    assert join.recovered
    reader.stall()
    following = asyncio.create_task(join.follow())
    await settle()
    await house.append(200)
    reader.read_on()
    await following
    assert (reader.reason, reader.seqs, reader.faults) == ("resume_gap", [1, 2, 3, 4, 5], [])


# --- leaving ---


async def test_an_abandoned_replay_delivers_nothing_more(house: House) -> None:
    await house.append(3)
    reader = Follower()
    join = await reader.begin(house.fanout, "start")  # the three are at hand
    await house.append(2)
    house.here.pause_reads()
    following = asyncio.create_task(join.follow())
    await house.here.answered.wait()
    reader.leave(house.fanout)
    house.here.resume_reads()
    await following
    await house.append()
    await settle()
    assert (reader.seqs, reader.faults) == ([1, 2, 3], [])


async def test_who_leaves_gets_nothing_more_and_the_others_do(house: House) -> None:
    stays, leaves = [await Follower().follow(house.fanout, None) for _ in range(2)]
    await house.append()
    await stays.reaches(1)
    await leaves.reaches(1)
    leaves.leave(house.fanout)
    await house.append()
    await stays.reaches(2)
    assert (leaves.seqs, leaves.faults) == ([1], [])


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("way", ["live", "fill"])
async def test_a_reader_may_leave_while_it_is_being_delivered_to(
    house: House, others: int, way: str
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    leaver = Follower()
    leaver.on_deliver = lambda: leaver.leave(house.fanout)  # as an outbox that overflows does
    await leaver.follow(house.fanout, None)
    stay = [await Follower().follow(house.fanout, None) for _ in range(others)]
    if way == "fill":
        house.here.dropping = lambda seq: seq == 1
    await house.append(3)
    await leaver.until(lambda: leaver.gone)
    again = await Follower().follow(house.fanout, "start")
    await again.reaches(3)
    for reader in stay:
        await reader.reaches(3)
    assert (leaver.seqs, leaver.faults, reported) == ([1], [], [])


def _params(payload: bytes) -> dict[str, Any]:
    params: dict[str, Any] = orjson.loads(payload)["params"]
    return params


class Piped:
    """A reader of any number of channels, whose outbox is never full."""

    def __init__(self, outbox: Outbox) -> None:
        self.deliver = outbox.deliver
        self.room = outbox.room
        self.write = outbox.write

    def ended(self, channel: str, reason: str) -> None:
        raise AssertionError("it never ends")


class Wired(Follower):
    """A reader whose frames go straight to a transport, as long as it takes them."""

    def __init__(self, house: House, *, broken: bool = False) -> None:
        super().__init__()
        self._house = house
        self.pipe = Pipe()
        self.pipe.broken = broken
        self.outbox = Outbox(self.pipe, FlushScheduler(), self)

    @property
    def write(self) -> Callable[[bytes], object] | None:
        return self.outbox.write

    def deliver(self, delivery: Delivery) -> None:
        super().deliver(delivery)
        self.outbox.deliver(delivery)

    def turned(self) -> None:
        self._house.fanout.turned(CHANNEL, self)

    def overflowed(self) -> None:
        raise AssertionError("there was room")

    def failed(self) -> None:
        """Its connection is to be closed."""

    @property
    def heard(self) -> list[int]:
        data = b"".join(self.pipe.written)
        events = [orjson.loads(payload)["params"] for payload in payloads(data)]
        return [seq for e in events for seq in range(e["seq"] - e.get("span", 1) + 1, e["seq"] + 1)]


async def test_a_transport_that_fills_and_drains_gets_every_event_once_and_in_order(
    house: House,
) -> None:
    wired, plain = Wired(house), Follower()
    await wired.follow(house.fanout, None)
    await plain.follow(house.fanout, None)
    total = 0
    for full in (False, True, False, True, True, False):
        if full:
            wired.pipe.fill()
        await house.append(3)
        total += 3
        await plain.reaches(total)
        assert (wired.seqs[-1:] == [total]) is full, "delivered to only while it is full"
        if full:
            wired.pipe.drained()
        assert wired.heard == list(range(1, total + 1))
    assert plain.faults == []


async def test_a_transport_that_is_full_with_an_event_gets_that_event_once(house: House) -> None:
    wired, beside = Wired(house), Follower()
    for reader in (wired, beside):
        await reader.follow(house.fanout, None)
    wired.pipe.narrow = True
    for number in range(1, 4):
        await house.append()
        await beside.reaches(number)
        wired.pipe.drained()
    assert wired.heard == [1, 2, 3]


async def test_a_transport_that_breaks_costs_its_neighbours_nothing(house: House) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    broken, well, plain = Wired(house, broken=True), Wired(house), Follower()
    for reader in (broken, well, plain):
        await reader.follow(house.fanout, None)
    await house.append(2)
    await plain.reaches(2)
    assert (broken.heard, well.heard, len(reported)) == ([], [1, 2], 1)
    assert broken.reason == "internal_error", "it may not go on behind the gap"


async def test_a_reader_that_raises_is_given_up_and_costs_its_neighbours_nothing() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    backplane = MemoryBackplane()
    fanout = Fanout(cast(Backplane, backplane), Metrics())

    def fail() -> None:
        raise RuntimeError("an error that nobody foresaw")

    raises, beside, elsewhere = (Follower() for _ in range(3))
    raises.on_deliver = fail
    for reader, channel in ((raises, CHANNEL), (beside, CHANNEL), (elsewhere, "other")):
        await reader.follow(fanout, None, channel)
    for channel in (CHANNEL, "other", CHANNEL):  # in one turn
        await backplane.append(channel, b"{}")
    await beside.reaches(2)
    await elsewhere.reaches(1)
    assert (raises.seqs, raises.reason, raises.faults) == ([1], "internal_error", [])
    assert len(reported) == 1
    await fanout.close()


@pytest.mark.parametrize("way", ["live", "fill"])
async def test_a_transport_that_is_full_has_not_been_given_more_than_is_bounded(
    house: House, way: str
) -> None:
    wired, beside = Wired(house), Follower()
    for reader in (wired, beside):
        await reader.follow(house.fanout, None)
    wired.pipe.narrow = True
    count, event = 15, b'{"type":"CUSTOM","value":"' + b"x" * 60_000 + b'"}'
    if way == "fill":
        house.here.dropping = lambda seq: seq < count
    await asyncio.gather(*(house.publisher.append(CHANNEL, event) for _ in range(count)))
    await beside.reaches(count)
    assert len(b"".join(wired.pipe.written)) < 2 * TOGETHER_BYTES + len(event)
    wired.pipe.narrow = False
    wired.pipe.drained()
    assert wired.heard == list(range(1, count + 1))


async def test_the_events_of_a_turn_are_one_write_for_each_who_reads_them() -> None:
    backplane = MemoryBackplane()
    scheduler = FlushScheduler()
    fanout = Fanout(cast(Backplane, backplane), Metrics(), scheduler)
    pipes = [Pipe(), Pipe()]
    for pipe, channels in zip(pipes, (("one", "two"), ("two",)), strict=True):
        reader = Piped(Outbox(pipe, scheduler, Overflow()))
        for channel in channels:
            await (await fanout.join(channel, reader, None)).follow()
    for channel in ("one", "two", "one", "unread"):
        await backplane.append(channel, b"{}")
    await settle()
    heard = [
        [(e["channel"], e["seq"]) for e in map(_params, payloads(b"".join(pipe.written)))]
        for pipe in pipes
    ]
    assert heard == [[("one", 1), ("one", 2), ("two", 1)], [("two", 1)]]
    assert [len(pipe.written) for pipe in pipes] == [1, 1]
    await fanout.close()


async def test_an_event_does_not_overtake_what_was_put_into_an_outbox_before_it() -> None:
    backplane = MemoryBackplane()
    scheduler = FlushScheduler()
    fanout = Fanout(cast(Backplane, backplane), Metrics(), scheduler)
    pipe = Pipe()
    outbox = Outbox(pipe, scheduler, Overflow())
    reader = Piped(outbox)
    await (await fanout.join("one", reader, None)).follow()
    await backplane.append("one", b'{"n":1}')  # it is delivered at the end of the turn
    outbox.put(text_frame(b'{"params":{"reply":1}}'))
    await settle()
    assert next(_params(p) for p in payloads(b"".join(pipe.written))) == {"reply": 1}
    await fanout.close()


async def test_who_is_given_nothing_any_more_is_not_written_to(house: House) -> None:
    wired, plain = Wired(house), Follower()
    for reader in (wired, plain):
        await reader.follow(house.fanout, None)
    wired.pipe.finished()  # a close frame was sent
    await house.append()
    await plain.reaches(1)
    assert wired.pipe.written == []


async def test_a_channel_that_nobody_reads_is_not_listened_to(house: House) -> None:
    for _ in range(3):
        reader = await Follower().follow(house.fanout, None)
        reader.leave(house.fanout)
        reader.leave(house.fanout)  # twice is fine
    async with asyncio.timeout(DEADLINE_S):
        while house.fanout._closing:
            await asyncio.wait(list(house.fanout._closing.values()))
    assert (house.fanout._channels, house.here._sinks) == ({}, {})
    reader = await Follower().follow(house.fanout, None)
    await house.append()
    await reader.reaches(1)


async def test_a_join_that_is_cancelled_leaves_the_others_joined(house: House) -> None:
    house.here.pause_reads()
    first = asyncio.create_task(house.fanout.join(CHANNEL, Follower(), None))
    await settle(2)
    second = Follower()
    other = asyncio.create_task(second.begin(house.fanout, None))
    await house.here.answered.wait()
    first.cancel()
    await asyncio.wait({first})
    house.here.resume_reads()
    await (await other).follow()
    await house.append()
    await second.reaches(1)


async def test_close_leaves_no_task_behind(house: House) -> None:
    before = asyncio.all_tasks()
    house.here.pause_reads()
    opening = asyncio.create_task(house.fanout.join(CHANNEL, Follower(), None))
    await house.here.answered.wait()
    opening.cancel()
    await asyncio.wait({opening})
    await house.fanout.close()
    await settle()
    left = {task for task in asyncio.all_tasks() - before if "fanout" in repr(task.get_coro())}
    assert left == set()
