"""Who is present in one channel, as one node knows it. Pure: the clock is the caller's.

A *member* is a user on a node, present in the channel's set on the backplane for as long as that
node renews it; a *user* is present while any node has them as a member. What is said of others
comes from three sides: whispers (at once, and some may be lost), the set (each time this node
renews its own members: what was missed is repaired), and the time that passes (typing). Each is
answered with the changes that it makes, for those who look on.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal, NamedTuple

import orjson

LINGER_S: Final = 3.0
"""A user who has left is still present for so long: a page that is loaded again, a connection that
comes back from a node that goes away, is no news to anybody.
"""
TYPING_S: Final = 6.0
"""Typing that is not said again for so long is over."""

Kind = Literal["joined", "left", "typing"]
WhisperKind = Literal["+", "-", "typing", "silent"]


class Member(NamedTuple):
    """A user on a node. ``since`` is in ms of that node's clock; ``name`` may be empty."""

    node: str
    user_id: str
    since: int
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.node, self.user_id

    def encode(self) -> bytes:
        """The member as the backplane holds it."""
        return orjson.dumps(tuple(self))

    @classmethod
    def decode(cls, data: bytes) -> "Member | None":
        """The member, or None for what another version of the hub may have written."""
        try:
            return cls.of(orjson.loads(data))
        except orjson.JSONDecodeError:
            return None

    @classmethod
    def of(cls, value: Any) -> "Member | None":
        match value:
            case [str(node), str(user_id), int(since), str(name)] if 0 <= since < 2**47:
                return cls(node, user_id, since, name)
        return None


class Change(NamedTuple):
    """What those who look on are told of a user; ``typing`` belongs to the kind of that name."""

    kind: Kind
    member: Member
    typing: bool = False


class Present(NamedTuple):
    """A user who is there, since their first connection of those that are left."""

    member: Member
    typing: bool


class Whisper(NamedTuple):
    """What nodes tell each other of a member."""

    kind: WhisperKind
    member: Member

    def encode(self) -> bytes:
        return orjson.dumps((self.kind, tuple(self.member)))

    @classmethod
    def decode(cls, data: bytes) -> "Whisper | None":
        """The whisper, or None for what another version of the hub may have said."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        match value:
            case [("+" | "-" | "typing" | "silent") as kind, member]:
                found = Member.of(member)
                return None if found is None else cls(kind, found)
        return None


@dataclass(frozen=True, slots=True)
class Plan:
    """What this node says to the backplane: ``stay`` are its members, ``leave`` those that were."""

    stay: tuple[Member, ...]
    leave: tuple[Member, ...]


class Roster:
    """One channel on the node ``node``.

    ``sit`` and ``stand`` say who is here by this node's connections. ``plan`` and ``settle`` go
    around each exchange with the backplane, ``hear`` takes what other nodes whisper, and ``lapse``
    what time ends.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._seats: dict[str, int] = {}  # of this node's connections, by user
        self._own: dict[str, Member] = {}
        self._leaving: dict[str, float] = {}  # when, by user
        self._gone: dict[str, Member] = {}  # not taken from the set yet
        self._held: set[Member] = set()  # own members that the set held when we last looked
        self._view: dict[tuple[str, str], Member] = {}
        self._typing: dict[tuple[str, str], float] = {}  # until when
        self._meanwhile: list[Whisper] | None = None  # heard since the plan that is under way

    @property
    def own(self) -> Collection[Member]:
        """The members that this node has here."""
        return self._own.values()

    @property
    def idle(self) -> bool:
        """Whether this node has nothing to do with the channel any more."""
        return not self._own and not self._gone

    def held(self, user_id: str) -> bool:
        """Whether the set on the backplane has this user as a member of this node."""
        return self._own.get(user_id) in self._held

    def of(self, kind: WhisperKind, user_id: str) -> list[Whisper]:
        """What is to be whispered of a user of this node; nothing of one who is not here."""
        member = self._own.get(user_id)
        return [] if member is None else [Whisper(kind, member)]

    def present(self) -> list[Present]:
        """The users who are there, those who came first before others."""
        first: dict[str, Member] = {}
        for member in sorted(self._view.values(), key=lambda member: member.since):
            first.setdefault(member.user_id, member)
        typing = {user_id for _, user_id in self._typing}
        return [Present(member, user_id in typing) for user_id, member in first.items()]

    # --- this node's connections ---

    def sit(self, user_id: str, name: str, since: int) -> None:
        """A connection of this user is here, one more."""
        self._seats[user_id] = self._seats.get(user_id, 0) + 1
        self._leaving.pop(user_id, None)
        if user_id not in self._own:
            back = self._gone.pop(user_id, None)
            self._own[user_id] = back or Member(self._node, user_id, since, name)

    def stand(self, user_id: str, now: float, *, barred: bool = False) -> None:
        """A connection of this user is gone; with the last one, the user is, after ``LINGER_S``, or
        at once if they may be here no more (``barred``).
        """
        self._seats[user_id] -= 1
        if not self._seats[user_id]:
            del self._seats[user_id]
            self._leaving[user_id] = now if barred else now + LINGER_S

    def empty(self) -> None:
        """All are to leave now."""
        self._gone.update(self._own)
        self._own.clear()
        self._leaving.clear()

    # --- the set on the backplane ---

    def plan(self, now: float) -> Plan:
        """What to say to the backplane now; ``settle`` takes the answer, ``give_up`` the lack of
        one.
        """
        for user_id, due in tuple(self._leaving.items()):
            if due <= now:
                del self._leaving[user_id]
                self._gone[user_id] = self._own.pop(user_id)
        self._meanwhile = []
        return Plan(tuple(self._own.values()), tuple(self._gone.values()))

    def give_up(self) -> None:
        """The backplane did not answer."""
        self._meanwhile = None

    def settle(self, plan: Plan, found: Iterable[bytes]) -> tuple[list[Change], list[Whisper]]:
        """The backplane did as planned and ``found`` these members before that: what changes for
        those who look on, and what other nodes are to be told, in this order.
        """
        before = {member for data in found if (member := Member.decode(data)) is not None}
        whispers = [Whisper("-", member) for member in plan.leave]
        whispers += [Whisper("+", member) for member in plan.stay if member not in before]
        # A set that has lost a member of ours has lost those of others, too: they say them again
        # when they renew them. It is no sign that anybody has left.
        lost = any(member in self._held and member not in before for member in plan.stay)
        view = dict(self._view) if lost else {}
        view.update({member.key: member for member in before if member.node != self._node})
        view.update({member.key: member for member in plan.stay})
        for member in plan.leave:
            view.pop(member.key, None)
            if self._gone.get(member.user_id) == member:
                del self._gone[member.user_id]
        for whisper in self._meanwhile or ():
            # It may have been done after the set was looked at; if before, nothing changes.
            self._see(view, whisper)
        self._held, self._meanwhile = set(plan.stay), None
        return self._turn(view), whispers

    # --- what other nodes say ---

    def hear(self, whisper: Whisper, now: float) -> list[Change]:
        """What a whisper changes."""
        if self._meanwhile is not None:
            self._meanwhile.append(whisper)
        kind, member = whisper
        view = dict(self._view)
        self._see(view, whisper)
        changes = self._turn(view)
        if kind in ("typing", "silent") and member.key in view:
            was = self._types(member.user_id)
            if kind == "typing":
                self._typing[member.key] = now + TYPING_S
            else:
                self._typing.pop(member.key, None)
            changes += self._typed(member, was)
        return changes

    def _see(self, view: dict[tuple[str, str], Member], whisper: Whisper) -> None:
        kind, member = whisper
        if member.node == self._node:
            return  # of its own members this node knows best
        if kind == "-":
            view.pop(member.key, None)
        else:
            view[member.key] = member

    # --- time ---

    def lapse(self, now: float) -> list[Change]:
        """What time has ended: typing that was not said again."""
        changes: list[Change] = []
        for key, until in tuple(self._typing.items()):
            if until <= now:
                del self._typing[key]
                changes += self._typed(self._view[key], was=True)
        return changes

    def next_lapse(self) -> float:
        """When ``lapse`` has something to say; infinity if never."""
        return min(self._typing.values(), default=inf)

    def next_leave(self) -> float:
        """When somebody of this node has left for long enough; infinity if nobody has."""
        return min(self._leaving.values(), default=inf)

    # --- the view ---

    def _types(self, user_id: str) -> bool:
        return any(user == user_id for _, user in self._typing)

    def _typed(self, member: Member, was: bool) -> list[Change]:
        types = self._types(member.user_id)
        return [] if types == was else [Change("typing", member, types)]

    def _turn(self, view: dict[tuple[str, str], Member]) -> list[Change]:
        """See others than before; what that changes."""
        before = {member.user_id: member for member in self._view.values()}
        after = {member.user_id: member for member in view.values()}
        typed = {user_id for _, user_id in self._typing}
        self._view = view
        self._typing = {key: until for key, until in self._typing.items() if key in view}
        changes = [
            Change("left", member) for user_id, member in before.items() if user_id not in after
        ]
        for user_id in typed & set(after):
            changes += self._typed(after[user_id], was=True)
        changes += [
            Change("joined", member) for user_id, member in after.items() if user_id not in before
        ]
        return changes


def difference(told: Collection[Present], now: Collection[Present]) -> list[Change]:
    """What somebody who was told of ``told`` has to be told to know of ``now``."""
    old = {present.member.user_id: present for present in told}
    new = {present.member.user_id: present for present in now}
    changes = [
        Change("left", present.member) for user_id, present in old.items() if user_id not in new
    ]
    for user_id, present in new.items():
        known = old.get(user_id)
        if known is None:
            changes.append(Change("joined", present.member))
        if present.typing != (known is not None and known.typing):
            changes.append(Change("typing", present.member, present.typing))
    return changes
