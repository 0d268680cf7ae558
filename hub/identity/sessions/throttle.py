"""The throttle of signing in: guessing is slow, and nobody can lock somebody else out.

Budgets are token buckets on the backplane, so that they hold across nodes. An attempt takes from
each before anything is hashed, which a hundred attempts at once cannot get round, and what was
taken is given back when the password was right: only failures cost.

- An address has a budget: it guesses slowly, whosever passwords.
- An account and an address together have two, a short one and a long one, so that the pause after a
  failure grows.
- An account has one for all the addresses it never signed in from. An attacker with many addresses
  uses that one up, and then guesses slowly; the owner, at a place where they were before (of IPv6:
  in a network), does not depend on it. Nor does whoever has just shown there, by the token of a
  letter, that the account's mailbox is theirs: they are at home at that place for a while.

Whether an account exists makes no difference. While the backplane is away, each node keeps budgets,
and who is at home, of its own.

What is left: while an account is attacked its owner needs a letter to come in at a new place, and
where they were before is known for no longer than their sessions are kept there. Letters to one
account are few, but those that an attacker asks for come to the owner, and are as good. Whoever is
behind one address with an attacker shares its budgets with them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from hub.audit.origin import place_of
from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault


class Budget(NamedTuple):
    """``burst`` failures at once, then one in ``every_s`` seconds."""

    name: str
    burst: int
    every_s: float


OF_ADDRESS: Final = Budget("address", 100, 1.0)
OF_PAIR: Final = (Budget("pair", 20, 6.0), Budget("pair-long", 50, 300.0))
OF_ACCOUNT: Final = Budget("account", 100, 60.0)
AT_HOME_S: Final = 3_600.0
"""How long they are at home at a place who have shown there that the mailbox is theirs."""
OF_TOKENS: Final = Budget("tokens", 30, 10.0)
"""Single-use tokens that were not valid, by address."""
OF_PASSWORD: Final = Budget("password", 10, 60.0)
"""Wrong current passwords of who is signed in, by user: a stolen session is no way to guess."""
OF_REQUESTS: Final = (Budget("letters-address", 30, 10.0), Budget("letters-pair", 5, 60.0))
"""Letters that an address asks for, in all and for one account."""
OF_TENANT: Final = Budget("letters-tenant", 100, 10.0)
"""Letters that the administrators of a tenant have sent; to one account, as ``letters-pair``."""
OF_LETTERS: Final = Budget("letters", 5, 600.0)
"""Letters to one account, whoever asks for them. A letter is good for longer than the pause."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What an attempt has taken from budgets."""

    buckets: tuple[tuple[str, Budget], ...]

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(self.buckets + other.buckets)


NOTHING: Final = Taken(())


class Throttle:
    """The budgets of one node, on the backplane that it shares with others."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._here = MemoryBackplane()

    async def sign_in(self, account: str, address: str | None) -> Taken:
        """Take for an attempt to sign in. Raises Fault("rate_limited"), with what was taken given
        back: an attempt that is not made costs nothing.

        ``account``: the e-mail address, in the form in which it is kept.
        """
        place, whose = place_of(address), _whose(account)
        pair = f"{whose}:{place}"
        return await self._take(
            [(place, OF_ADDRESS), *((pair, budget) for budget in OF_PAIR)], "sign-ins"
        )

    async def unknown_place(self, account: str, address: str | None, taken: Taken) -> Taken:
        """Take from the account's own budget as well, at a place where it never signed in, unless
        it is ``at_home`` there; all that was taken. Raises Fault("rate_limited"), with all of it
        given back.
        """
        try:
            if await self._is_at_home(account, address):
                return taken
            return taken + await self._take([(_whose(account), OF_ACCOUNT)], "sign-ins")
        except Fault:
            await self.give_back(taken)
            raise

    async def at_home(self, account: str, address: str | None) -> None:
        """Somebody there has shown that the account's mailbox is theirs."""
        key = _home(account, address)
        try:
            await self._backplane.cache_set(key, b"1", AT_HOME_S)
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise
            await self._here.cache_set(key, b"1", AT_HOME_S)

    async def _is_at_home(self, account: str, address: str | None) -> bool:
        # Asked for every account alike: of one that does not exist nothing is ever kept.
        key = _home(account, address)
        if await self._here.cache_get(key) is not None:  # kept while the backplane was away
            return True
        try:
            return await self._backplane.cache_get(key) is not None
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise
            return False

    async def current_password(self, user_id: str) -> Taken:
        """Take for a password that somebody who is signed in gives again."""
        return await self._take([(user_id, OF_PASSWORD)], "attempts")

    async def token(self, address: str | None) -> Taken:
        """Take for a single-use token that somebody shows."""
        return await self._take([(place_of(address), OF_TOKENS)], "attempts")

    async def letter(self, account: str, address: str | None) -> None:
        """Take for a letter that somebody asks for."""
        place = place_of(address)
        keys = (place, f"{_whose(account)}:{place}")
        await self._take(list(zip(keys, OF_REQUESTS, strict=True)), "letters")

    async def letter_of_tenant(self, account: str, tenant_id: str) -> Taken:
        """Take for a letter that an administrator of a tenant has sent."""
        keys = (tenant_id, f"{_whose(account)}:{tenant_id}")
        budgets = (OF_TENANT, OF_REQUESTS[1])
        return await self._take(list(zip(keys, budgets, strict=True)), "letters")

    async def may_write_to(self, account: str) -> bool:
        """Whether one more letter may go to the account."""
        try:
            await self._take([(_whose(account), OF_LETTERS)], "letters")
        except Fault as fault:
            if fault.reason != "rate_limited":
                raise
            return False
        return True

    async def give_back(self, taken: Taken) -> None:
        """The attempt was no guess: it costs nothing."""
        for key, budget in taken.buckets:
            await self._one(key, budget, -1)

    async def _take(self, wanted: Sequence[tuple[str, Budget]], what: str) -> Taken:
        taken: list[tuple[str, Budget]] = []
        for key, budget in wanted:
            wait_ms = await self._one(key, budget, 1)
            if wait_ms:
                await self.give_back(Taken(tuple(taken)))
                raise Fault(
                    "rate_limited",
                    f"Too many {what} from here; wait, then try again.",
                    details={"retry_after_ms": wait_ms},
                )
            taken.append((key, budget))
        return Taken(tuple(taken))

    async def _one(self, key: str, budget: Budget, cost: float) -> int:
        bucket = f"sign-in:{budget.name}:{key}"
        rate, burst = 1 / budget.every_s, float(budget.burst)
        try:
            return await self._backplane.take(bucket, cost, rate=rate, burst=burst)
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise
            return await self._here.take(bucket, cost, rate=rate, burst=burst)


def beginnings_of(address: str) -> tuple[str, ...]:
    """How all addresses begin that count as one with an IPv6 address, in their usual form (RFC
    5952): with zeros of the network written, or left out, or left out with those after them.

    An address that begins so is of the same place but where the network is nearly all zeros. Of
    what is no such address, itself.
    """
    try:
        network = int(IPv6Address(address)) >> 64 << 64
    except ValueError:
        return (address,)
    written = ":".join(f"{network >> at & 0xFFFF:x}" for at in (112, 96, 80, 64))
    rest = "1:1:1:1"
    shortened = str(IPv6Address(network | int(IPv6Address(f"::{rest}"))))
    return f"{written}:", shortened.removesuffix(rest), str(IPv6Address(network))


def _home(account: str, address: str | None) -> str:
    return f"sign-in:at-home:{_whose(account)}:{place_of(address)}"


def _whose(account: str) -> str:
    # Of any length, and nothing that Redis should hold in the clear.
    return hashlib.sha256(account.encode("utf-8", "surrogatepass")).hexdigest()[:32]
