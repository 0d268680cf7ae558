"""Answers that were given before: to exactly the same prompt, of the same model with the same
options, in the same tenant, where the tenant has said that it wants that.

They are kept on the backplane, so that all nodes have them, for ``HUB_ANSWER_CACHE_SECONDS``, on a
shelf of their tenant's that is begun anew, on every node at once, whenever the tenant's settings
are changed (it may have said that it does not want that any more), and when another model comes by
the same name. An answer that is given again costs no tokens, and is streamed in one piece.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Final, NamedTuple

import orjson

from hub.backplane.interface import Backplane
from hub.faults import Fault
from hub.inference.interface import ChatDone, ChatPart, ChatRequest, ModelClient, TextDelta
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

MAX_BYTES: Final = 256 * 1024
"""A longer answer is not kept."""


class Shelf(NamedTuple):
    """Where answers stand that may be given again: whose they are, since when (an instant as text),
    and of what model (its digest).
    """

    tenant_id: str
    since: str
    model: str


class Answers:
    """The answers of all tenants. ``seconds``: how long one is kept; 0 keeps none."""

    def __init__(self, backplane: Backplane, metrics: Metrics, seconds: float) -> None:
        self._backplane = backplane
        self._lookups = metrics.caches["answers"]
        self._seconds = seconds

    async def chat(
        self, client: ModelClient, request: ChatRequest, shelf: Shelf | None
    ) -> AsyncGenerator[ChatPart, None]:
        """As ``client.chat``, or from the ``shelf``; None: the tenant wants no such answers.

        Only a whole answer is kept, and none that the model cut off at its length. With the
        backplane away the model is asked.
        """
        if shelf is None or not self._seconds:
            async with aclosing(client.chat(request)) as parts:
                async for part in parts:
                    yield part
            return
        name = name_of(request, shelf)
        known = await self._known(name)
        if known is not None:
            self._lookups.hits += 1
            yield TextDelta(known)
            yield ChatDone("stop", 0, 0)
            return
        self._lookups.misses += 1
        text: list[str] = []
        async with aclosing(client.chat(request)) as parts:
            async for part in parts:
                if isinstance(part, TextDelta):
                    text.append(part.text)
                elif isinstance(part, ChatDone) and part.reason == "stop":
                    await self._keep(name, "".join(text))
                yield part

    async def _known(self, name: str) -> str | None:
        try:
            kept = await self._backplane.cache_get(name)
        except Fault:
            return None
        return None if kept is None else kept.decode()

    async def _keep(self, name: str, text: str) -> None:
        data = text.encode()
        if not text or len(data) > MAX_BYTES:
            return
        try:
            await self._backplane.cache_set(name, data, self._seconds)
        except Fault as fault:
            log.warning("an answer could not be kept", why=fault.reason)


def name_of(request: ChatRequest, shelf: Shelf) -> str:
    """The key of an answer: a digest of everything that it depends on, and of where it stands."""
    messages = [asdict(message) for message in request.messages]
    asked = [*shelf, request.model, messages, request.options, request.format]
    canonical = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    return "answer:" + hashlib.sha256(canonical).hexdigest()
