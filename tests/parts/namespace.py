"""A network namespace of a test: processes in it reach the others by two links that can be cut."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_NUMBERS = itertools.count(1)


class Namespace:
    """A namespace with two links to here, named by their number, 0 and 1: ``near(link)`` is this
    end's address, ``far(link)`` the one inside.
    """

    def __init__(self) -> None:
        number = os.getpid() % 10_000 * 10 + next(_NUMBERS)
        self.name = f"hub{number}"
        self._net = f"10.{200 + number % 50}.{number // 50 % 250}"

    def near(self, link: int) -> str:
        return f"{self._net}.{link * 4 + 1}"

    def far(self, link: int) -> str:
        return f"{self._net}.{link * 4 + 2}"

    def make(self) -> None:
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        for link in (0, 1):
            near, far = f"{self.name}n{link}", f"{self.name}f{link}"
            ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
            ip("addr", "add", f"{self.near(link)}/30", "dev", near)
            ip("link", "set", near, "up")
            ip("-n", self.name, "addr", "add", f"{self.far(link)}/30", "dev", far)
            ip("-n", self.name, "link", "set", far, "up")

    def cut(self, link: int) -> None:
        """From now on what is sent over this link is dropped, both ways, and nobody is told."""
        # Both ends stay up, so that no socket hears of it, but each sends to nobody's address.
        nobody = "02:00:00:00:00:01"
        ip(
            "neigh", "replace", self.far(link), "lladdr", nobody,
            "dev", f"{self.name}n{link}", "nud", "permanent",
        )  # fmt: skip
        ip(
            "-n", self.name, "neigh", "replace", self.near(link), "lladdr", nobody,
            "dev", f"{self.name}f{link}", "nud", "permanent",
        )  # fmt: skip

    def mend(self, link: int) -> None:
        ip("neigh", "del", self.far(link), "dev", f"{self.name}n{link}")
        ip("-n", self.name, "neigh", "del", self.near(link), "dev", f"{self.name}f{link}")

    def remove(self) -> None:
        """Take it away, with its links. Processes in it are the test's to end."""
        subprocess.run([_ip(), "netns", "del", self.name], check=False, capture_output=True)

    def command(self, *words: str) -> list[str]:
        """The command that runs these words inside."""
        return [_ip(), "netns", "exec", self.name, *words]


def ip(*words: str) -> None:
    """Run ``ip``. Raises RuntimeError with what it said."""
    done = subprocess.run([_ip(), *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _ip() -> str:
    return shutil.which("ip") or "/usr/sbin/ip"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace of this test alone. Skips where none can be made (with CI=true: fails)."""
    made = Namespace()
    try:
        try:
            made.make()
        except (RuntimeError, OSError) as error:
            message = f"no network namespace can be made, which takes root and iproute2: {error}"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        yield made
    finally:
        made.remove()
