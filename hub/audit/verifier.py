"""What has been done to a chain behind the hub's back. Pure.

A ``Verifier`` is fed the entries of a tenant in the order of their ``seq`` and then told what else
is known: the head of the chain, up to where it was pruned, and what was seen of it before (a
checkpoint). It needs no more memory for a million entries than for a hundred, and names the rows.

What it cannot see is a chain that was made anew from some row on, with all its hashes and its head:
for this there are checkpoints, which are kept where whoever can write the database cannot.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from hub.audit.chain import GENESIS, Fields, hash_of

Kind = Literal["edited", "removed", "inserted", "moved", "rewritten", "cut", "head", "unproven"]

FINDINGS: Final = 100
"""Findings that are told; of more there is the number."""
SUSPECTS: Final = 200
"""Rows with a wrong hash for which it is looked whether they stood elsewhere."""
NEAR: Final = 64
"""How far from where it stands a row is taken to have come, besides the places that are empty."""


class Known(NamedTuple):
    """The entry ``seq`` had this ``hash``."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with the entry at ``seq``, or those up to ``last``. ``was``: where it stood."""

    kind: Kind
    seq: int
    last: int
    entry_id: str | None = None
    was: int | None = None

    def __str__(self) -> str:
        many = self.last > self.seq
        span = f"entries {self.seq} to {self.last}" if many else f"entry {self.seq}"
        name = f"{span} ({self.entry_id})" if self.entry_id else span
        return {
            "edited": f"{name} was edited",
            "removed": f"{span} {'were' if many else 'was'} removed",
            "inserted": f"{name} was inserted",
            "moved": f"{name} was moved, from {self.was}",
            "rewritten": f"the chain was rewritten: {name} is not the one that was seen before",
            "cut": f"the end was cut off: {span} {'are' if many else 'is'} gone",
            "head": "the head of the chain was removed or changed",
            "unproven": f"{span} {'are' if many else 'is'} gone, and no note that can be trusted "
            "says that they were pruned",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: ``entries`` from ``first`` to ``last``, whose hash is ``hash``. ``found``:
    the number of findings, of which the first ones are in ``findings``; ``unlike`` of them say no
    more than that it is not what was seen before.
    """

    entries: int
    first: int
    last: int
    hash: str
    found: int
    unlike: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return self.found == 0


class Verifier:
    """Takes entries in order (``feed``), then tells (``finish``)."""

    def __init__(
        self,
        head: Known | None,
        *,
        after: Known | None = None,
        pruned: Known | None = None,
        proven: bool = True,
        known: Collection[Known] = (),
    ) -> None:
        """``head``: where the chain ends, None if nothing says so. ``after``: where to begin, if
        not at the beginning. ``pruned``: up to there entries may be gone, if that is ``proven``.
        ``known``: what was seen before.
        """
        self._head = head
        self._before = self._at = after or Known(0, GENESIS)
        self._pruned = pruned
        self._proven = proven
        self._anchors = {seq: hash for seq, hash in known if seq > self._before.seq}
        self._entries = 0
        self._first = 0
        self._place: list[Fields] = []  # what stands at the last seq: one, if all is well
        self._sound = True  # whether that one's own hash is right
        self._missing: list[tuple[int, int]] = []
        self._suspects: list[Fields] = []
        self._found: list[Finding] = []
        self._more = 0
        self._unlike = 0

    def feed(self, entry: Fields) -> None:
        """The next entry; of several with one ``seq``, in any order."""
        self._entries += 1
        seq, previous = entry["seq"], entry["previous_hash"]
        if type(seq) is not int or seq < 1:  # SQLite keeps anything in columns of integers
            place = int(seq) if isinstance(seq, int | float) else 0
            self._add(Finding("inserted", place, place, entry["id"]))
            return
        sound = hash_of(entry) == entry["hash"]
        if self._head is not None and seq > self._head.seq:
            self._beyond(entry, sound)
            return
        if self._place and seq == self._at.seq:
            self._place.append(entry)
            return
        self._settle(previous)
        if not self._first:
            self._first = seq
            self._begin(seq, previous)
        elif seq > self._at.seq + 1:
            self._missing.append((self._at.seq + 1, seq - 1))
        if seq == self._at.seq + 1 and previous != self._at.hash and sound and self._sound:
            # Both are whole, and yet the later one follows another than the earlier.
            self._replaced(entry)
        if not sound:
            self._suspect(entry)
        if (anchor := self._anchors.pop(seq, None)) is not None and anchor != entry["hash"]:
            self._unlike += 1
            self._add(Finding("rewritten", seq, seq, entry["id"]))
        self._place, self._sound = [entry], sound
        self._at = Known(seq, entry["hash"])

    def finish(self, *, whole: bool = True) -> Report:
        """What is wrong. ``whole``: whether all entries to the end were fed."""
        head = self._head
        self._settle(head.hash if head is not None and whole else None)
        end = head.seq if head is not None else self._at.seq
        if whole:
            self._end(head)
        self._resolve(end)
        for seq in sorted(self._anchors) if whole else ():
            if seq > self._at.seq:
                self._unlike += 1
                self._add(Finding("cut", max(self._at.seq, end) + 1, seq))
        findings = sorted(self._found, key=lambda finding: (finding.seq, finding.last))
        return Report(
            entries=self._entries,
            first=self._first,
            last=self._at.seq if self._first else 0,
            hash=self._at.hash,
            found=len(findings) + self._more,
            unlike=self._unlike,
            findings=tuple(findings),
        )

    # --- one by one ---

    def _begin(self, seq: int, previous: str) -> None:
        """Whether what came before the first entry is known, was pruned, or is gone."""
        first = self._before.seq + 1
        pruned = self._pruned
        if seq == first:
            return
        if pruned is None or pruned.seq < seq - 1:
            self._missing.append((max(first, pruned.seq + 1 if pruned else 0), seq - 1))
        elif not self._proven:
            self._add(Finding("unproven", first, seq - 1))
        elif pruned.seq == seq - 1 and pruned.hash != previous:
            self._add(Finding("rewritten", seq, seq))

    def _end(self, head: Known | None) -> None:
        """Whether the last entry is the one that the head names."""
        if head is None:
            if self._entries:
                self._add(Finding("head", self._at.seq, self._at.seq))
        elif self._at.seq < head.seq:
            self._missing.append((self._at.seq + 1, head.seq))
        elif self._at.hash != head.hash and self._sound:
            self._replaced(None)

    def _beyond(self, entry: Fields, sound: bool) -> None:
        """The head does not know of it."""
        if sound:
            self._add(Finding("inserted", entry["seq"], entry["seq"], entry["id"]))
        else:
            self._suspect(entry)

    def _settle(self, previous: str | None) -> None:
        """Of several in one place, the one that the next one follows was there first."""
        if len(self._place) < 2:
            return
        true = next((one for one in self._place if one["hash"] == previous), self._place[0])
        for one in self._place:
            if one is not true:
                self._add(Finding("inserted", one["seq"], one["seq"], one["id"]))
        self._at, self._sound = Known(true["seq"], true["hash"]), hash_of(true) == true["hash"]
        self._place = [true]

    def _replaced(self, following: Fields | None) -> None:
        """The entry that stands here was made anew, hash and all: what follows knows another."""
        one = self._place[0] if self._place else None
        if one is None and self._before.seq == 0:
            one = following  # the first of all follows nothing
        seq = one["seq"] if one else self._at.seq
        self._add(Finding("edited", seq, seq, one["id"] if one else None))

    def _suspect(self, entry: Fields) -> None:
        if len(self._suspects) < SUSPECTS:
            self._suspects.append(entry)
        else:
            self._more += 1

    def _add(self, finding: Finding) -> None:
        if len(self._found) < FINDINGS:
            self._found.append(finding)
        else:
            self._more += 1

    # --- all together ---

    def _resolve(self, end: int) -> None:
        """Tell rows that were moved from rows that were edited, and what that leaves empty."""
        came: dict[int, int] = {}
        empty = _places(self._missing)
        standing = {one["seq"] for one in self._suspects}
        for one in self._suspects:
            near = range(max(1, one["seq"] - NEAR), one["seq"] + NEAR + 1)
            was = _origin(one, [*near, *standing, *empty])
            if was is not None:
                came[one["seq"]] = was
            kind: Kind = "moved" if was else "inserted" if one["seq"] > end else "edited"
            self._add(Finding(kind, one["seq"], one["seq"], one["id"], was))
        origins = set(came.values())
        for first, last in self._missing:
            for span in _without(max(first, 1), min(last, end), origins):
                self._add(Finding("removed", *span))
        if self._more or not came:
            return  # not all is known: no more is concluded from where rows went
        for seq in sorted(came.keys() - origins):
            # A head that was moved down along with the last row knows of no other in that place.
            if seq < end or (seq == end and (self._at != self._head or came[seq] > end)):
                self._add(Finding("removed", seq, seq))
        for seq in sorted(origins - came.keys()):
            gone = any(first <= seq <= last for first, last in self._missing)
            if self._first <= seq <= self._at.seq and not gone:
                self._add(Finding("inserted", seq, seq))


def _places(missing: list[tuple[int, int]]) -> list[int]:
    places: list[int] = []
    for first, last in missing:
        places += range(first, min(last, first + SUSPECTS) + 1)
        if len(places) > SUSPECTS:
            break
    return places


def _origin(entry: Mapping[str, object], candidates: Collection[int]) -> int | None:
    """Where the entry stood when it was hashed, if it is only its place that has changed."""
    for seq in candidates:
        if seq != entry["seq"] and hash_of({**entry, "seq": seq}) == entry["hash"]:
            return seq
    return None


def _without(first: int, last: int, taken: set[int]) -> list[tuple[int, int]]:
    """The spans of ``first`` to ``last`` that remain without the places of ``taken``."""
    spans, start = [], first
    for seq in sorted(seq for seq in taken if first <= seq <= last):
        if seq > start:
            spans.append((start, seq - 1))
        start = seq + 1
    if start <= last:
        spans.append((start, last))
    return spans
