"""What model servers have, as one node was told, for all nodes that ask the same server.

It is on the backplane for a few seconds, so that however many nodes there are, a server is asked
about as often as by one of them. The node that finds that it has changed says so to the others.
Whatever is wrong with the backplane costs no more than a moment: then each node asks for itself.

Nodes ask the same server when they name it alike, unless the name means another one at each place
(``near``): then those share it that are at the same place. What somebody else put there and is no
catalogue is not believed; that a model is there gives nobody a permission.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.ids import new_id
from hub.inference.interface import ModelInfo

TOPIC: Final = "models"
KEPT_S: Final = 2.5
"""How long the backplane has what a server said."""
OFFERED: Final = "models:offered"
"""The name of what nodes that drive runs have, from whatever server."""
OFFERED_S: Final = 90.0
"""How long that stands; they say it again every half a minute."""
WAIT_S: Final = 0.5
"""A backplane that has not answered by then is done without."""

_HERE: Final = ("localhost", "host.docker.internal", "host.containers.internal")
_CATALOGUE: Final = TypeAdapter(tuple[ModelInfo, ...])

_log = structlog.get_logger(__name__)


class SharedCatalogue:
    """What nodes tell each other of model servers, which go by ``name_of``."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._self = new_id("n")

    async def start(self, changed: Callable[[str], None]) -> None:
        """Call ``changed(name)`` when another node has found that a server has other models.

        Raises Fault("backend_unavailable").
        """

        def heard(message: bytes) -> None:
            by, name = orjson.loads(message)
            if by != self._self:
                changed(name)

        await self._backplane.listen(TOPIC, heard)

    async def find(self, name: str) -> tuple[ModelInfo, ...] | None:
        """What a server has, as some node was told within ``KEPT_S``; None if that is not known."""
        try:
            async with asyncio.timeout(WAIT_S):
                found = await self._backplane.cache_get(name)
        except (Fault, TimeoutError):
            return None
        try:
            return None if found is None else _CATALOGUE.validate_json(found, strict=True)
        except ValidationError:
            _log.warning("shared_catalogue_is_none", key=name)
            return None

    async def put(self, name: str, models: Sequence[ModelInfo], *, changed: bool) -> None:
        """Tell the others what a server has, as this node was told just now, and whether that is
        something else than what it had been told before.

        What has not changed takes the place of nothing: another node may have found meanwhile that
        it has.
        """
        data = _CATALOGUE.dump_json(tuple(models))
        try:
            async with asyncio.timeout(WAIT_S):
                await self._backplane.cache_set(name, data, KEPT_S, only_new=not changed)
                if changed:
                    await self._backplane.publish(TOPIC, orjson.dumps([self._self, name]))
        except (Fault, TimeoutError):
            return  # the others find out when what they remember is old

    async def offer(self, models: Sequence[ModelInfo]) -> None:
        """Tell nodes that drive no runs what one that does can ask."""
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._backplane.cache_set(
                    OFFERED, _CATALOGUE.dump_json(tuple(models)), OFFERED_S
                )


def name_of(host: str, place: str) -> str:
    """The key of the server at ``host``, a URL, as it is seen from a ``place``."""
    seen = [host, place if near(host) else ""]
    return "models:" + hashlib.sha256(orjson.dumps(seen)).hexdigest()


def near(host: str) -> bool:
    """Whether this URL leads somewhere else from each machine: to the machine itself."""
    name = (urlsplit(host).hostname or "").removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name in _HERE or name.endswith(".localhost")
    return address.is_loopback or address.is_link_local or address.is_unspecified


def place() -> str:
    """Where this process is, as far as a loopback address goes: the machine since its start, and
    the network namespace, of which each container has one. Where it cannot be known, nobody else is
    here.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return new_id("n")
