"""The verifier: of a chain that nobody touched it says so; of any other, what was done where."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.audit.chain import Fields, hash_of
from hub.audit.verifier import FINDINGS, Known, Report, Verifier
from tests.audit.chains import chain, head_of

EDITABLE: Final = (
    "id", "tenant_id", "at", "action", "outcome", "actor_id", "details", "previous_hash", "hash",
)  # fmt: skip


def verified(entries: Iterable[Fields], head: Known | None, **known: Any) -> Report:
    verifier = Verifier(head, **known)
    for entry in entries:
        verifier.feed(entry)
    return verifier.finish()


def told(report: Report) -> list[str]:
    return [
        f"{one.kind} {one.seq}" + f"-{one.last}" * (one.last > one.seq) for one in report.findings
    ]


def rehashed(entries: list[Fields], start: int = 0) -> list[Fields]:
    """Made anew from this index on, as whoever knows how the chain is made can."""
    made = [dict(entry) for entry in entries]
    for at in range(start, len(made)):
        if at:
            made[at]["previous_hash"] = made[at - 1]["hash"]
        made[at]["hash"] = hash_of(made[at])
    return made


@given(st.integers(1, 40))
def test_a_chain_that_nobody_touched_is_whole(count: int) -> None:
    entries = chain(count)
    report = verified(entries, head_of(entries), known=[head_of(entries)])
    assert (report.ok, report.entries, report.first, report.last) == (True, count, 1, count)
    assert report.hash == entries[-1]["hash"]


def test_where_nothing_is_nothing_is_wrong() -> None:
    assert verified([], None).ok


@given(
    st.integers(1, 30).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))),
    st.sampled_from(EDITABLE),
)
def test_an_entry_that_was_edited_is_named(place: tuple[int, int], field: str) -> None:
    count, seq = place
    entries = chain(count)
    head = head_of(entries)
    entries[seq - 1] = {**entries[seq - 1], field: "another"}
    found = told(verified(entries, head))
    assert f"edited {seq}" in found
    assert set(found) <= {f"edited {seq}"}


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_an_entry_that_was_edited_and_hashed_again_is_named(place: tuple[int, int]) -> None:
    count, seq = place
    entries = chain(count)
    head = head_of(entries)
    edited = {**entries[seq - 1], "outcome": "another"}
    entries[seq - 1] = {**edited, "hash": hash_of(edited)}
    assert told(verified(entries, head)) == [f"edited {seq}"]


@given(st.data())
def test_entries_that_were_removed_are_named(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    first = data.draw(st.integers(1, count))
    last = data.draw(st.integers(first, count))
    entries = chain(count)
    left = entries[: first - 1] + entries[last:]
    span = f"{first}-{last}" if last > first else f"{first}"
    assert told(verified(left, head_of(entries))) == [f"removed {span}"]


@given(st.data())
def test_two_entries_that_changed_places_are_named(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    one, two = data.draw(st.lists(st.integers(1, count), min_size=2, max_size=2, unique=True))
    entries = chain(count)
    head = head_of(entries)
    swapped = list(entries)
    swapped[one - 1] = {**entries[two - 1], "seq": one}
    swapped[two - 1] = {**entries[one - 1], "seq": two}
    report = verified(swapped, head)
    assert {(one.kind, one.seq, one.was) for one in report.findings} == {
        ("moved", one, two),
        ("moved", two, one),
    }


@given(st.data())
def test_an_entry_that_was_removed_with_the_rest_moved_up_is_named(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    gone = data.draw(st.integers(1, count))
    entries = chain(count)
    left = [
        entry if entry["seq"] < gone else {**entry, "seq": entry["seq"] - 1}
        for entry in entries
        if entry["seq"] != gone
    ]
    for head in (head_of(entries), Known(count - 1, left[-1]["hash"])):
        found = told(verified(left, head))
        if gone == count and head.seq < count:
            assert found == []  # cut off at the end with its head: for this there are checkpoints
        else:
            assert f"removed {gone}" in found
            moved = {f"moved {seq}" for seq in range(gone, count)}
            assert set(found) - {f"removed {gone}"} == moved


@given(st.data())
def test_an_entry_that_was_inserted_with_the_rest_moved_down_is_named(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    place = data.draw(st.integers(1, count))
    entries = chain(count)
    forged = {**entries[place - 1], "id": "ae_forged", "outcome": "another"}
    forged["hash"] = hash_of(forged)
    later = [{**entry, "seq": entry["seq"] + 1} for entry in entries[place - 1 :]]
    report = verified([*entries[: place - 1], forged, *later], head_of(entries))
    assert f"inserted {place}" in told(report)
    assert {f"moved {seq}" for seq in range(place + 1, count + 2)} <= set(told(report))


def test_an_entry_beside_another_is_the_one_that_nothing_follows() -> None:
    entries = chain(5)
    forged = {**entries[2], "id": "ae_forged"}
    forged["hash"] = hash_of(forged)
    for pair in ([entries[2], forged], [forged, entries[2]]):
        report = verified([*entries[:2], *pair, *entries[3:]], head_of(entries))
        assert [(one.kind, one.entry_id) for one in report.findings] == [("inserted", "ae_forged")]


def test_an_entry_after_the_end_was_inserted() -> None:
    entries = chain(6)
    assert told(verified(entries, head_of(entries[:5]))) == ["inserted 6"]


def test_an_entry_that_was_moved_away_is_named_where_it_stands() -> None:
    entries = chain(6)
    moved = [*entries[:2], *entries[3:], {**entries[2], "seq": 900}]
    (finding,) = verified(moved, head_of(entries)).findings
    assert (finding.kind, finding.seq, finding.was) == ("moved", 900, 3)
    assert str(finding) == "entry 900 (ae_0003) was moved, from 3"


def test_a_head_that_is_gone_is_named() -> None:
    assert told(verified(chain(3), None)) == ["head 3"]


def test_all_entries_gone_are_named() -> None:
    assert told(verified([], Known(7, "f" * 64))) == ["removed 1-7"]


# --- beside what was seen before ---


def test_an_end_that_was_cut_off_with_its_head_shows_beside_a_checkpoint() -> None:
    entries = chain(9)
    cut = entries[:4]
    assert verified(cut, head_of(cut)).ok
    assert told(verified(cut, head_of(cut), known=[head_of(entries)])) == ["cut 5-9"]
    assert told(verified([], None, known=[head_of(entries)])) == ["cut 1-9"]


@given(st.integers(1, 9))
def test_a_chain_that_was_made_anew_shows_beside_a_checkpoint(seq: int) -> None:
    entries = chain(9)
    forged = rehashed(
        [{**one, "outcome": "denied"} if one["seq"] == seq else one for one in entries], seq - 1
    )
    assert verified(forged, head_of(forged)).ok
    found = verified(forged, head_of(forged), known=[head_of(entries)])
    assert told(found) == ["rewritten 9"]
    assert verified(entries, head_of(entries), known=[head_of(entries[:4])]).ok


def test_what_was_added_since_a_checkpoint_is_no_finding() -> None:
    entries = chain(9)
    assert verified(entries, head_of(entries), known=[head_of(entries[:3])]).ok


# --- pruned ---


def test_a_beginning_that_was_pruned_is_no_finding() -> None:
    entries = chain(9)
    pruned = Known(4, entries[3]["hash"])
    assert verified(entries[4:], head_of(entries), pruned=pruned).ok
    # It had not come to its end.
    assert verified(entries[2:], head_of(entries), pruned=pruned).ok
    assert told(verified(entries[6:], head_of(entries), pruned=pruned)) == ["removed 5-6"]
    assert told(verified(entries[4:], head_of(entries))) == ["removed 1-4"]


def test_a_beginning_that_was_pruned_by_nobody_who_is_trusted_is_a_finding() -> None:
    entries = chain(9)
    pruned = Known(4, entries[3]["hash"])
    report = verified(entries[4:], head_of(entries), pruned=pruned, proven=False)
    assert told(report) == ["unproven 1-4"]


def test_a_note_of_another_chain_is_a_finding() -> None:
    entries = chain(9)
    assert told(verified(entries[4:], head_of(entries), pruned=Known(4, "f" * 64))) == [
        "rewritten 5"
    ]


# --- in parts, and in quantity ---


@given(st.integers(1, 19))
def test_a_chain_can_be_verified_in_parts(after: int) -> None:
    entries = chain(20)
    first = Verifier(head_of(entries))
    for entry in entries[:after]:
        first.feed(entry)
    part = first.finish(whole=False)
    assert (part.ok, part.last) == (True, after)
    rest = verified(entries[after:], head_of(entries), after=Known(after, part.hash))
    assert (rest.ok, rest.first, rest.last) == (True, after + 1, 20)


def test_a_part_that_does_not_go_on_from_the_one_before_is_a_finding() -> None:
    entries = chain(20)
    after = Known(10, "f" * 64)
    assert told(verified(entries[10:], head_of(entries), after=after)) == ["edited 10"]


def test_of_many_findings_the_first_are_told_and_all_are_counted() -> None:
    entries = [{**entry, "outcome": "another"} for entry in chain(1_000)]
    report = verified(entries, Known(1_000, entries[-1]["hash"]))
    assert len(report.findings) == FINDINGS
    assert report.found == 1_000


@pytest.mark.parametrize(
    "tamper",
    [
        lambda entries: [{**entries[0], "seq": 99}, *entries[1:]],
        lambda entries: [],
        lambda entries: entries[3:],
        lambda entries: [{**one, "details": "{"} for one in entries],
        lambda entries: [{**one, "previous_hash": ""} for one in entries],
        lambda entries: [{**one, "hash": ""} for one in entries],
    ],
)
def test_nothing_that_was_done_makes_it_fail_or_pass(
    tamper: Callable[[list[Fields]], list[Fields]],
) -> None:
    entries = chain(5)
    left = sorted(tamper(entries), key=lambda entry: entry["seq"])
    assert not verified(left, head_of(entries)).ok
