"""What every backplane does, whichever it is: memory, one Redis server, a Redis Cluster."""

import asyncio

import pytest

from hub.backplane.interface import READ_BYTES, Appended, Lease, LeaseLost
from tests.backplane.conftest import BRIEF, Nodes
from tests.backplane.sinks import DEADLINE_S, Sink, eventually

CHANNEL = "conversation:c_1"
MANY = tuple(f"conversation:c_{at}" for at in range(40))  # enough to meet every cluster node


# --- logs ---


async def test_entries_of_one_node_are_numbered_from_one_in_order(nodes: Nodes) -> None:
    calls = [nodes.one.append(CHANNEL, b"%d" % at) for at in range(8)]
    answers = await asyncio.gather(*calls)
    assert [answer.seq for answer in answers] == list(range(1, 9))
    assert len({answer.epoch for answer in answers}) == 1
    held = await nodes.two.read(CHANNEL, 0)
    assert [(seq, data) for seq, data in held.entries] == [(n + 1, b"%d" % n) for n in range(8)]


async def test_two_nodes_that_append_at_once_leave_no_hole_and_no_repeat(nodes: Nodes) -> None:
    sink = Sink()
    await nodes.two.subscribe(CHANNEL, sink)

    async def append(name: str, node: int) -> list[Appended]:
        backplane = (nodes.one, nodes.two)[node]
        return [await backplane.append(CHANNEL, f"{name}{at}".encode()) for at in range(50)]

    answers = await asyncio.gather(append("a", 0), append("b", 1), append("c", 0))
    assert sorted(answer.seq for each in answers for answer in each) == list(range(1, 151))
    await sink.count(150)
    assert sink.seqs == list(range(1, 151))
    for name in ("a", "b", "c"):  # each producer's own order is kept
        mine = [data.decode() for data in sink.data if data.decode().startswith(name)]
        assert mine == [f"{name}{at}" for at in range(50)]


async def test_an_entry_reaches_the_subscribers_of_both_nodes(nodes: Nodes) -> None:
    sinks = Sink(), Sink()
    await nodes.one.subscribe(CHANNEL, sinks[0])
    await nodes.two.subscribe(CHANNEL, sinks[1])
    answer = await nodes.one.append(CHANNEL, b"\x00 both \xff\r\n")
    for sink in sinks:
        await sink.count(1)
        assert sink.seen == [(CHANNEL, answer.epoch, 1, b"\x00 both \xff\r\n")]


async def test_a_log_that_is_discarded_is_empty_and_the_next_entry_begins_another(
    nodes: Nodes,
) -> None:
    before = await nodes.one.append(CHANNEL, b"said")
    beside = await nodes.one.append("conversation:c_2", b"kept")
    await nodes.two.discard(CHANNEL)
    await nodes.two.discard("conversation:c_3")  # there is none
    emptied = await nodes.one.read(CHANNEL, 0)
    assert (emptied.entries, emptied.epoch == before.epoch) == ((), False)
    after = await nodes.two.append(CHANNEL, b"anew")
    assert (after.seq, after.epoch) == (1, emptied.epoch)
    other = await nodes.one.read("conversation:c_2", 0)
    assert (other.epoch, len(other.entries)) == (beside.epoch, 1)


async def test_channels_are_logs_of_their_own(nodes: Nodes) -> None:
    sink = Sink()
    for channel in MANY:
        await nodes.two.subscribe(channel, sink)
    answers = await asyncio.gather(*(nodes.one.append(name, name.encode()) for name in MANY))
    assert {answer.seq for answer in answers} == {1}
    await sink.count(len(MANY))
    assert sorted((name, data) for name, _, _, data in sink.seen) == sorted(
        (name, name.encode()) for name in MANY
    )


async def test_a_large_and_an_empty_entry_come_back_as_they_were(nodes: Nodes) -> None:
    large = bytes(range(256)) * 1024
    await nodes.one.append(CHANNEL, large)
    await nodes.one.append(CHANNEL, b"")
    held = await nodes.two.read(CHANNEL, 0)
    assert [entry.data for entry in held.entries] == [large, b""]


async def test_a_read_answers_a_slice_and_the_whole_truth_about_the_log(nodes: Nodes) -> None:
    for at in range(1, 8):
        epoch, *_ = await nodes.one.append(CHANNEL, b"%d" % at)
    some = await nodes.two.read(CHANNEL, 2, limit=3)
    assert [entry.seq for entry in some.entries] == [3, 4, 5]
    assert (some.epoch, some.first, some.last) == (epoch, 1, 7)
    assert (await nodes.two.read(CHANNEL, 7)).entries == ()
    assert (await nodes.two.read(CHANNEL, 99)).entries == ()
    assert (await nodes.two.read(CHANNEL, 0, limit=0)).entries == ()
    assert len((await nodes.two.read(CHANNEL, 0)).entries) == 7


async def test_a_read_answers_so_many_bytes_at_most_whatever_is_asked_for(nodes: Nodes) -> None:
    sizes = [9, *[READ_BYTES // 3 - 3] * 4, 3 * READ_BYTES, *[READ_BYTES // 2] * 2, 1]
    for size in sizes:
        await nodes.one.append(CHANNEL, b"x" * size)
    pages: list[list[int]] = []
    at = 0
    while at < len(sizes):
        page = await nodes.two.read(CHANNEL, at)
        assert page.last == len(sizes)
        assert [entry.seq for entry in page.entries] == list(
            range(at + 1, at + 1 + len(page.entries))
        )
        pages.append([len(entry.data) for entry in page.entries])
        at += len(page.entries)
    assert [size for page in pages for size in page] == sizes
    assert [len(page) for page in pages] == [4, 1, 1, 2, 1]


async def test_reading_a_channel_without_a_log_gives_it_one(nodes: Nodes) -> None:
    empty = await nodes.one.read(CHANNEL, 0)
    assert (empty.first, empty.last, empty.entries) == (1, 0, ())
    assert await nodes.two.read(CHANNEL, 0) == empty
    assert await nodes.two.append(CHANNEL, b"x") == Appended(empty.epoch, 1, False)


async def test_a_log_keeps_its_newest_entries_and_says_which(nodes: Nodes) -> None:
    for start in range(1, 501, 50):
        calls = (nodes.one.append(CHANNEL, b"%d" % at) for at in range(start, start + 50))
        await asyncio.gather(*calls)
    held = await nodes.two.read(CHANNEL, 0)
    assert held.last == 500
    assert 500 - 200 < held.first <= 491  # ten at least; Redis trims by the hundred
    assert [entry.seq for entry in held.entries] == list(range(held.first, 501))
    assert [entry.data for entry in held.entries][-1] == b"500"


@pytest.mark.parametrize("limits", [BRIEF], ids=["brief"])
async def test_a_log_expires_after_its_last_entry_and_the_next_has_another_epoch(
    nodes: Nodes,
) -> None:
    first = await nodes.one.append(CHANNEL, b"x", key="k")

    async def another() -> bool:
        return (await nodes.two.read(CHANNEL, 0)).epoch != first.epoch

    await eventually(another)
    again = await nodes.one.append(CHANNEL, b"y", key="k")
    assert (again.seq, again.duplicate) == (1, False)
    assert again.epoch != first.epoch


async def test_a_lost_log_is_followed_by_one_of_another_epoch(nodes: Nodes) -> None:
    sink = Sink()
    await nodes.two.subscribe(CHANNEL, sink)
    before = await nodes.one.append(CHANNEL, b"x", key="k")
    nodes.lose()
    after = await nodes.one.append(CHANNEL, b"y", key="k")
    assert after.epoch != before.epoch
    assert (after.seq, after.duplicate) == (1, False)
    held = await nodes.two.read(CHANNEL, 0)
    assert (held.epoch, held.first, held.last) == (after.epoch, 1, 1)
    await sink.count(2)
    assert [(epoch, seq) for _, epoch, seq, _ in sink.seen] == [(before.epoch, 1), (after.epoch, 1)]


# --- idempotency ---


async def test_a_key_appends_once_and_answers_the_first_position(nodes: Nodes) -> None:
    sink = Sink()
    await nodes.two.subscribe(CHANNEL, sink)
    first = await nodes.one.append(CHANNEL, b"first", key="k")
    await nodes.one.append(CHANNEL, b"other", key="k2")
    again = await nodes.two.append(CHANNEL, b"again", key="k")
    assert again == Appended(first.epoch, first.seq, True)
    await nodes.one.append(CHANNEL, b"last")
    await sink.count(3)
    assert sink.data == [b"first", b"other", b"last"]
    assert len((await nodes.one.read(CHANNEL, 0)).entries) == 3


async def test_a_key_that_is_used_at_once_by_two_nodes_appends_once(nodes: Nodes) -> None:
    pair = (nodes.one, nodes.two)
    answers = await asyncio.gather(
        *(pair[at % 2].append(CHANNEL, b"%d" % at, key="k") for at in range(20))
    )
    assert sum(not answer.duplicate for answer in answers) == 1
    assert {answer.seq for answer in answers} == {1}
    assert (await nodes.one.read(CHANNEL, 0)).last == 1


async def test_a_key_means_something_in_its_channel_only(nodes: Nodes) -> None:
    assert not (await nodes.one.append("user:a", b"x", key="b:k")).duplicate
    assert not (await nodes.one.append("user:a:b", b"x", key="k")).duplicate
    assert not (await nodes.one.append("user:b", b"x", key="k")).duplicate


# --- subscriptions ---


async def test_everything_after_subscribe_has_returned_is_delivered(nodes: Nodes) -> None:
    for channel in MANY:
        sink = Sink()
        await nodes.two.subscribe(channel, sink)
        await nodes.one.append(channel, b"at once")
        await sink.count(1)
        assert sink.data == [b"at once"]


async def test_nothing_from_before_a_subscription_is_delivered(nodes: Nodes) -> None:
    await nodes.one.append(CHANNEL, b"before")
    sink = Sink()
    await nodes.two.subscribe(CHANNEL, sink)
    await nodes.one.append(CHANNEL, b"after")
    await sink.count(1)
    assert sink.data == [b"after"]


async def test_an_unsubscribed_channel_is_silent_until_it_is_subscribed_again(
    nodes: Nodes,
) -> None:
    old, new = Sink(), Sink()
    await nodes.two.subscribe(CHANNEL, old)
    await nodes.two.unsubscribe(CHANNEL)
    await nodes.two.unsubscribe("conversation:never")
    await nodes.one.append(CHANNEL, b"unheard")
    await nodes.two.subscribe(CHANNEL, new)
    await nodes.one.append(CHANNEL, b"heard")
    await new.count(1)
    assert new.data == [b"heard"]
    assert old.data == []


async def test_leaving_and_coming_back_at_once_misses_nothing_after(nodes: Nodes) -> None:
    for round_ in range(20):
        sink = Sink()
        coming = asyncio.ensure_future(nodes.two.subscribe(CHANNEL, Sink()))
        await asyncio.sleep(0)
        await nodes.two.unsubscribe(CHANNEL)
        await nodes.two.subscribe(CHANNEL, sink)
        await nodes.one.append(CHANNEL, b"%d" % round_)
        await sink.count(1)
        assert sink.data == [b"%d" % round_]
        coming.cancel()
        await asyncio.wait({coming})


async def test_a_second_subscription_takes_the_place_of_the_first(nodes: Nodes) -> None:
    old, new = Sink(), Sink()
    await nodes.two.subscribe(CHANNEL, old)
    await nodes.two.subscribe(CHANNEL, new)
    await nodes.one.append(CHANNEL, b"x")
    await new.count(1)
    assert old.data == []


async def test_a_closed_node_hears_nothing_and_its_neighbour_goes_on(nodes: Nodes) -> None:
    gone, there = Sink(), Sink()
    await nodes.two.subscribe(CHANNEL, gone)
    await nodes.two.listen("topic", gone.control)
    await nodes.one.subscribe(CHANNEL, there)
    await nodes.two.close()
    await nodes.two.close()
    await nodes.one.append(CHANNEL, b"x")
    await nodes.one.publish("topic", b"x")
    await there.count(1)
    assert (gone.data, gone.messages) == ([], [])


async def test_a_sink_that_raises_costs_nobody_else_an_entry(nodes: Nodes) -> None:
    reported: list[str] = []
    told = asyncio.Event()

    def report(_: object, context: dict[str, object]) -> None:
        reported.append(str(context["message"]))
        told.set()

    asyncio.get_running_loop().set_exception_handler(report)

    def broken(channel: str, epoch: str, seq: int, data: bytes) -> None:
        raise RuntimeError("broken")

    sink = Sink()
    await nodes.one.subscribe(CHANNEL, broken)
    await nodes.one.subscribe("conversation:c_2", sink)
    await nodes.two.subscribe(CHANNEL, sink)
    assert (await nodes.one.append(CHANNEL, b"x")).seq == 1
    await nodes.one.append("conversation:c_2", b"y")
    await sink.count(2)
    async with asyncio.timeout(DEADLINE_S):
        await told.wait()
    assert reported == ["A sink of the backplane raised"]


# --- control messages ---


async def test_a_control_message_reaches_every_listener_of_every_node(nodes: Nodes) -> None:
    sinks = [Sink(), Sink(), Sink()]
    await nodes.one.listen("permissions", sinks[0].control)
    await nodes.one.listen("permissions", sinks[1].control)
    await nodes.two.listen("permissions", sinks[2].control)
    await nodes.two.listen("other", sinks[2].control)
    for at in range(5):
        await nodes.one.publish("permissions", b"%d" % at)
    for sink in sinks:
        await sink.until(lambda sink=sink: len(sink.messages) >= 5)  # type: ignore[misc]
        assert sink.messages == [b"0", b"1", b"2", b"3", b"4"]


# --- what is not kept ---


async def test_a_whisper_reaches_who_overhears_and_is_no_part_of_the_log(nodes: Nodes) -> None:
    sinks, readers = (Sink(), Sink()), (Sink(), Sink())
    for node, sink, reader in zip((nodes.one, nodes.two), sinks, readers, strict=True):
        await node.overhear(CHANNEL, sink.whisper)
        await node.subscribe(CHANNEL, reader)
    for at in range(5):
        await nodes.one.whisper(CHANNEL, b"\x00 %d \xff\r\n" % at)
    await nodes.two.append(CHANNEL, b"said aloud")
    for sink, reader in zip(sinks, readers, strict=True):
        await sink.count(5)
        await reader.count(1)
        assert sink.data == [b"\x00 %d \xff\r\n" % at for at in range(5)]
        assert reader.data == [b"said aloud"]
    assert [entry.seq for entry in (await nodes.one.read(CHANNEL, 0)).entries] == [1]


async def test_a_whisper_is_of_its_channel_alone(nodes: Nodes) -> None:
    sink = Sink()
    for channel in MANY:
        await nodes.two.overhear(channel, sink.whisper)
    await asyncio.gather(*(nodes.one.whisper(name, name.encode()) for name in MANY))
    await sink.count(len(MANY))
    assert sorted((name, data) for name, _, _, data in sink.seen) == sorted(
        (name, name.encode()) for name in MANY
    )


async def test_who_disregards_a_channel_hears_no_more_of_it(nodes: Nodes) -> None:
    left, other = Sink(), Sink()
    await nodes.two.overhear(CHANNEL, left.whisper)
    await nodes.two.overhear(MANY[2], other.whisper)
    await nodes.two.disregard(CHANNEL)
    await nodes.two.disregard("conversation:c_unknown")
    await nodes.one.whisper(CHANNEL, b"unheard")
    await nodes.two.overhear(CHANNEL, other.whisper)  # what would have come, comes before this
    await nodes.one.whisper(CHANNEL, b"heard")
    await other.count(1)
    assert (left.data, other.data) == ([], [b"heard"])


async def test_who_is_present_is_answered_as_it_was_just_before(nodes: Nodes) -> None:
    assert await nodes.one.attend(CHANNEL, [b"ada", b"\x00\xff"], 30) == frozenset()
    assert await nodes.two.attend(CHANNEL, [b"bob"], 30) == {b"ada", b"\x00\xff"}
    everybody = {b"ada", b"bob", b"\x00\xff"}
    assert await nodes.one.attend(CHANNEL, [b"ada"], 30, leave=[b"\x00\xff"]) == everybody
    assert await nodes.two.attend(CHANNEL, (), 30) == {b"ada", b"bob"}
    assert await nodes.two.attend(MANY[2], (), 30) == frozenset()
    await nodes.two.attend(CHANNEL, (), 30, leave=[b"ada", b"bob", b"nobody"])
    assert await nodes.one.attend(CHANNEL, (), 30) == frozenset()


async def test_who_is_not_renewed_is_present_no_more(nodes: Nodes) -> None:
    await nodes.one.attend(CHANNEL, [b"dead"], 0.1)
    await nodes.one.attend(CHANNEL, [b"alive"], 30)

    async def gone() -> bool:
        return await nodes.two.attend(CHANNEL, [b"other"], 0.1) <= {b"alive", b"other"}

    await eventually(gone)
    assert b"alive" in await nodes.two.attend(CHANNEL, (), 30)


async def test_who_is_present_is_forgotten_with_everything_else(nodes: Nodes) -> None:
    await nodes.one.attend(CHANNEL, [b"ada"], 30)
    nodes.lose()
    assert await nodes.one.attend(CHANNEL, [b"ada"], 30) == frozenset()
    assert await nodes.two.attend(CHANNEL, (), 30) == {b"ada"}


# --- leases ---


async def test_a_lease_has_one_holder_until_it_is_released(nodes: Nodes) -> None:
    mine = await nodes.one.acquire(CHANNEL, 30)
    assert mine is not None
    assert mine.name == CHANNEL
    assert await nodes.two.acquire(CHANNEL, 30) is None
    assert await nodes.one.acquire(CHANNEL, 30) is None
    assert await nodes.two.acquire("conversation:c_2", 30) is not None
    await nodes.one.renew(mine, 30)
    await nodes.one.release(mine)
    theirs = await nodes.two.acquire(CHANNEL, 30)
    assert theirs is not None
    assert theirs.token > mine.token


async def test_a_lease_that_is_taken_at_once_by_many_has_one_holder(nodes: Nodes) -> None:
    pair = (nodes.one, nodes.two)
    taken = await asyncio.gather(*(pair[at % 2].acquire(CHANNEL, 30) for at in range(20)))
    assert sum(lease is not None for lease in taken) == 1


async def test_an_expired_lease_goes_to_the_next_and_fences_the_last_off(nodes: Nodes) -> None:
    old = await nodes.one.acquire(CHANNEL, 0.1)
    assert old is not None
    new = await _acquire_when_free(nodes, CHANNEL)
    assert new.token > old.token
    with pytest.raises(LeaseLost):
        await nodes.one.renew(old, 30)
    with pytest.raises(LeaseLost):
        await nodes.one.append(CHANNEL, b"late", lease=old)
    await nodes.one.release(old)  # leaves the successor alone
    assert (await nodes.two.append(CHANNEL, b"right", lease=new)).seq == 1
    assert await nodes.one.acquire(CHANNEL, 30) is None


async def test_a_lapsed_lease_is_held_again_if_nobody_has_taken_it_since(nodes: Nodes) -> None:
    lease = await nodes.one.acquire(CHANNEL, 0.05)
    assert lease is not None

    async def lapsed() -> bool:
        try:
            await nodes.one.append(CHANNEL, b"in time", lease=lease)
        except LeaseLost:
            return True
        return False

    await eventually(lapsed)
    await nodes.one.renew(lease, 30)
    await nodes.one.append(CHANNEL, b"held again", lease=lease)
    assert await nodes.two.acquire(CHANNEL, 30) is None
    await nodes.one.release(lease)
    with pytest.raises(LeaseLost):  # given back is given back
        await nodes.one.renew(lease, 30)


async def test_a_lapsed_lease_that_was_given_back_cannot_be_renewed(nodes: Nodes) -> None:
    lease = await nodes.one.acquire(CHANNEL, 0.001)
    assert lease is not None
    await asyncio.sleep(0.01)
    await nodes.one.release(lease)
    with pytest.raises(LeaseLost):
        await nodes.one.renew(lease, 30)


async def test_an_append_without_its_lease_appends_nothing(nodes: Nodes) -> None:
    sink = Sink()
    await nodes.two.subscribe(CHANNEL, sink)
    lease = await nodes.one.acquire(CHANNEL, 30)
    assert lease is not None
    await nodes.one.append(CHANNEL, b"held", lease=lease, key="a")
    await nodes.one.release(lease)
    with pytest.raises(LeaseLost):
        await nodes.one.append(CHANNEL, b"lost", lease=lease, key="b")
    with pytest.raises(LeaseLost):  # the lease is asked for before the key
        await nodes.one.append(CHANNEL, b"lost", lease=lease, key="a")
    after = await nodes.one.append(CHANNEL, b"free", key="b")
    assert (after.seq, after.duplicate) == (2, False)
    await sink.count(2)
    assert sink.data == [b"held", b"free"]


async def test_a_lost_lease_is_known_to_be_lost_and_its_token_never_comes_again(
    nodes: Nodes,
) -> None:
    old = await nodes.one.acquire(CHANNEL, 30)
    assert old is not None
    nodes.lose()
    with pytest.raises(LeaseLost):
        await nodes.one.renew(old, 30)
    new = await nodes.two.acquire(CHANNEL, 30)
    assert new is not None
    assert new.token > old.token


async def test_the_lease_of_another_name_cannot_fence_an_append(nodes: Nodes) -> None:
    with pytest.raises(ValueError, match="channel's name"):
        await nodes.one.append(CHANNEL, b"x", lease=Lease("conversation:c_2", 1))


async def _acquire_when_free(nodes: Nodes, name: str) -> Lease:
    taken: list[Lease | None] = []

    async def free() -> bool:
        taken.append(await nodes.two.acquire(name, 30))
        return taken[-1] is not None

    await eventually(free)
    assert taken[-1] is not None
    return taken[-1]


# --- queue ---


async def test_a_queue_gives_each_item_once_and_the_oldest_first(nodes: Nodes) -> None:
    for item in ("r_1", "r_2", "r_3"):
        await nodes.one.enqueue("runs", item)
    taken = [await (nodes.two, nodes.one)[at % 2].dequeue("runs", 0) for at in range(4)]
    assert taken == ["r_1", "r_2", "r_3", None]


async def test_an_item_that_waits_is_not_queued_again_but_one_that_was_taken_is(
    nodes: Nodes,
) -> None:
    await nodes.one.enqueue("runs", "r_1")
    await nodes.two.enqueue("runs", "r_2")
    await nodes.two.enqueue("runs", "r_1")
    assert await nodes.two.dequeue("runs", 0) == "r_1"
    await nodes.one.enqueue("runs", "r_1")
    assert await nodes.two.dequeue("runs", 0) == "r_2"
    assert await nodes.two.dequeue("runs", 0) == "r_1"
    assert await nodes.two.dequeue("runs", 0) is None


async def test_an_item_wakes_exactly_one_of_those_who_wait(nodes: Nodes) -> None:
    takers = [
        asyncio.create_task(node.dequeue("runs", 1.0)) for node in (nodes.one, nodes.two, nodes.two)
    ]
    await nodes.one.dequeue("runs", 0.05)  # by then they wait
    await nodes.one.enqueue("runs", "r_1")
    await nodes.one.enqueue("runs", "r_2")
    async with asyncio.timeout(DEADLINE_S):
        taken = await asyncio.gather(*takers)
    assert sorted(item or "" for item in taken) == ["", "r_1", "r_2"]


async def test_a_wait_for_an_item_ends_in_time(nodes: Nodes) -> None:
    clock = asyncio.get_running_loop().time
    since = clock()
    assert await nodes.one.dequeue("runs", 0.2) is None
    assert 0.15 <= clock() - since < 1.5


async def test_who_stopped_waiting_takes_no_item_from_who_waits_on(nodes: Nodes) -> None:
    quitter = asyncio.create_task(nodes.one.dequeue("runs", 5))
    await nodes.two.dequeue("runs", 0.05)
    quitter.cancel()
    await asyncio.wait({quitter})
    # A connection that Redis has not yet seen closed could still be given an item.
    await nodes.two.dequeue("runs", 0.05)
    await nodes.one.enqueue("runs", "r_1")
    assert await nodes.two.dequeue("runs", 1) == "r_1"


# --- cache ---


async def test_a_cached_value_is_there_for_all_nodes_until_it_is_deleted(nodes: Nodes) -> None:
    assert await nodes.one.cache_get("k") is None
    assert await nodes.one.cache_set("k", b"\x00v", 30)
    assert await nodes.two.cache_get("k") == b"\x00v"
    assert await nodes.two.cache_set("k", b"w", 30)
    assert await nodes.one.cache_get("k") == b"w"
    await nodes.two.cache_delete("k")
    await nodes.two.cache_delete("k")
    assert await nodes.one.cache_get("k") is None


async def test_only_the_first_of_many_sets_a_new_value(nodes: Nodes) -> None:
    pair = (nodes.one, nodes.two)
    answers = await asyncio.gather(
        *(pair[at % 2].cache_set("k", b"%d" % at, 30, only_new=True) for at in range(10))
    )
    assert sum(answers) == 1
    assert await nodes.one.cache_get("k") == b"%d" % answers.index(True)


async def test_a_cached_value_expires(nodes: Nodes) -> None:
    await nodes.one.cache_set("k", b"v", 0.05)

    async def gone() -> bool:
        return await nodes.two.cache_get("k") is None

    await eventually(gone)
    assert await nodes.one.cache_set("k", b"w", 30, only_new=True)


# --- rate limits ---


async def test_a_bucket_gives_its_burst_and_then_says_how_long_to_wait(nodes: Nodes) -> None:
    pair = (nodes.one, nodes.two)
    for at in range(3):
        assert await pair[at % 2].take("b", 1, rate=0.5, burst=3) == 0
    wait_ms = await nodes.two.take("b", 1, rate=0.5, burst=3)
    assert 1_500 < wait_ms <= 2_000
    assert 3_500 < await nodes.one.take("b", 2, rate=0.5, burst=3) <= 4_000
    assert await nodes.one.take("other", 3, rate=0.5, burst=3) == 0


async def test_a_cost_above_the_burst_counts_as_the_burst(nodes: Nodes) -> None:
    assert await nodes.one.take("b", 100, rate=1, burst=2) == 0
    assert 1_500 < await nodes.one.take("b", 100, rate=1, burst=2) <= 2_000


async def test_what_was_taken_from_a_bucket_can_be_given_back(nodes: Nodes) -> None:
    for _ in range(2):
        assert await nodes.one.take("b", 1, rate=0.01, burst=2) == 0
    assert await nodes.two.take("b", 1, rate=0.01, burst=2) > 0
    assert await nodes.two.take("b", -1, rate=0.01, burst=2) == 0
    assert await nodes.one.take("b", 1, rate=0.01, burst=2) == 0
    assert await nodes.one.take("b", 1, rate=0.01, burst=2) > 0


async def test_a_bucket_that_is_given_back_more_than_was_taken_is_full(nodes: Nodes) -> None:
    assert await nodes.one.take("b", -5, rate=0.01, burst=2) == 0
    assert await nodes.one.take("b", 2, rate=0.01, burst=2) == 0
    assert await nodes.one.take("b", 1, rate=0.01, burst=2) > 0


async def test_a_bucket_has_enough_again_when_it_said(nodes: Nodes) -> None:
    assert await nodes.one.take("b", 1, rate=20, burst=1) == 0
    wait_ms = await nodes.one.take("b", 1, rate=20, burst=1)
    assert 0 < wait_ms <= 50
    await asyncio.sleep(wait_ms / 1000 + 0.005)
    assert await nodes.two.take("b", 1, rate=20, burst=1) == 0


# --- health ---


async def test_a_backplane_that_is_there_answers_a_ping(nodes: Nodes) -> None:
    await nodes.one.ping()
    await nodes.two.ping()
