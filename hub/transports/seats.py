"""How many connections one user, and one address, may have open in this process.

WebSockets and streams of server-sent events take the same seats: one costs the hub as much as the
other.
"""

from hub.settings import Settings
from hub.transports.admission import is_loopback


class Seats:
    """Counts for one kind of owner. ``most`` 0: as many as they like."""

    __slots__ = ("_most", "_taken")

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    def take(self, owner: str) -> bool:
        """One more for this owner; False, and nothing is taken, if that would be too many."""
        taken = self._taken.get(owner, 0)
        if self._most and taken >= self._most:
            return False
        self._taken[owner] = taken + 1
        return True

    def leave(self, owner: str) -> None:
        """Give back one that was taken."""
        left = self._taken[owner] - 1
        if left:
            self._taken[owner] = left
        else:
            del self._taken[owner]

    def __len__(self) -> int:
        return len(self._taken)


class House:
    """The seats of a node. An address of this machine has no limit: it is the machine's owner, or
    a proxy, behind which everybody is.
    """

    __slots__ = ("addresses", "users")

    def __init__(self, settings: Settings) -> None:
        self.users = Seats(settings.connections_per_user)
        self.addresses = Seats(settings.connections_per_address)


class Seated:
    """What one connection has taken."""

    __slots__ = ("_address", "_house", "_user")

    def __init__(self, house: House) -> None:
        self._house = house
        self._address: str | None = None
        self._user: str | None = None

    def by_address(self, address: str | None) -> bool:
        """Take a seat of this address; whether there was one."""
        if address is None or is_loopback(address):
            return True
        if not self._house.addresses.take(address):
            return False
        self._address = address
        return True

    def by_user(self, user_id: str) -> bool:
        """Take a seat of this user; whether there was one."""
        if not self._house.users.take(user_id):
            return False
        self._user = user_id
        return True

    def leave(self) -> None:
        """Give back what was taken. Idempotent."""
        if self._address is not None:
            self._house.addresses.leave(self._address)
        if self._user is not None:
            self._house.users.leave(self._user)
        self._address = self._user = None
